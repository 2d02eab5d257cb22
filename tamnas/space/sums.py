"""Figures of a network that add up over its parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Sums:
    """`fixed` of stem and head; `table` (layers, blocks, ratios) of choice blocks, -1 where a block is not legal."""

    fixed: float
    table: np.ndarray

    def of(self, genes: np.ndarray) -> np.ndarray:
        """Of rows of genes (`SearchSpace.encode`)."""
        blocks, ratios = np.split(genes, 2, axis=1)
        return self.fixed + self.table[np.arange(len(self.table)), blocks, ratios].sum(axis=1)

    def range(self, ratios: Sequence[int] | None = None) -> tuple[float, float]:
        """Exact (smallest, largest), optionally with the ratios of these indices alone."""
        table = self.table if ratios is None else self.table[:, :, ratios]
        table = table.reshape(len(table), -1)
        smallest = np.where(table < 0, table.max(), table).min(axis=1).sum()
        return self.fixed + smallest.item(), self.fixed + table.max(axis=1).sum().item()
