"""Datasets: sources, preparation with checks, and batches on the device."""

from tamnas.data.loader import Split, batches, chunks, load_split

__all__ = ["Split", "batches", "chunks", "load_split"]
