"""Prepared images on the device as uint8, and batches of them as float32 in [0, 1]."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tamnas.config.images import AugmentParams
from tamnas.errors import InputError
from tamnas.files import opened, require_format


@dataclass(frozen=True)
class Split:
    """Images (N, 3, H, W) uint8 in [0, levels], labels (N,) int64, on one device."""

    images: Tensor
    labels: Tensor
    levels: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        return self.images.shape[-1]

    @property
    def largest_share(self) -> float:
        """What a network that predicts one class for every image gets right at most."""
        return float(torch.bincount(self.labels).max()) / len(self)

    def scaled(self, images: Tensor) -> Tensor:
        return images.float() / self.levels


def load_split(path: Path, split: Literal["train", "validation", "test"], device="cpu") -> Split:
    """One split of a prepared file; no other split is read. Raises InputError."""
    try:
        with opened(path) as file, np.load(file, allow_pickle=False) as arrays:
            version = int(arrays["format"]) if "format" in arrays else None
            images, labels, levels = arrays[f"x_{split}"], arrays[f"y_{split}"], int(arrays["levels"])
    except Exception as error:  # a damaged zip raises almost anything
        raise InputError(
            f"{path}: no prepared {split} split ({error.__class__.__name__}): run the prepare stage"
        ) from None
    require_format(path, version, "run the prepare stage again")
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # (N, H, W, 3) -> (N, 3, H, W)
    return Split(images.to(device), torch.from_numpy(labels).to(device), levels)


def augmented(images: Tensor, augment: AugmentParams, generator: torch.Generator) -> Tensor:
    """Zero-pad and crop each image at its own place, flip half of them; shape stays."""
    n, _, height, width = images.shape
    device = images.device
    if augment.pad:
        padded = torch.nn.functional.pad(images, [augment.pad] * 4)
        offsets = torch.randint(0, 2 * augment.pad + 1, (2, n, 1), generator=generator, device=device)
        rows = offsets[0] + torch.arange(height, device=device)  # (N, H)
        columns = offsets[1] + torch.arange(width, device=device)  # (N, W)
        sample = torch.arange(n, device=device)[:, None, None]
        # advanced indices around a slice put the channel axis last: (N, H, W, 3)
        images = padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if augment.flip:
        flip = torch.rand((n, 1, 1, 1), generator=generator, device=device) < 0.5
        images = torch.where(flip, images.flip(3), images)
    return images.contiguous()


def batches(
    split: Split, batch_size: int, augment: AugmentParams, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order as (x, y); the last, smaller batch is left out.

    `generator` lives on the split's device.
    """
    batch_size = min(batch_size, len(split))
    order = torch.randperm(len(split), generator=generator, device=split.images.device)
    for start in range(0, len(split) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield split.scaled(augmented(split.images[chosen], augment, generator)), split.labels[chosen]


def steps_per_epoch(split: Split, batch_size: int) -> int:
    return len(split) // min(batch_size, len(split))


def chunks(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order as (x, y), at most `size` at a time."""
    for start in range(0, len(split), size):
        yield split.scaled(split.images[start : start + size]), split.labels[start : start + size]
