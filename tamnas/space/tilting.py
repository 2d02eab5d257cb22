"""Draws tilted towards networks of one size, which uniform draws of each layer's genes hardly ever reach.

A network's probability is proportional to exp(-tilt x figure), where the figure adds up over layers (`Sums`): layers
are still drawn on their own, and networks of one size stay equally likely.
"""

from collections.abc import Sequence

import numpy as np

from tamnas.space.sums import Sums


class Cells:
    """Of each layer what may be chosen, `legal`: indices into its flattened (block, ratio) table.

    From `SearchSpace.table`, with the ratios of the indices `opened` alone.
    """

    def __init__(self, table: np.ndarray, opened: Sequence[int]):
        self._ratios = table.shape[2]
        chosen = np.isin(np.arange(self._ratios), opened)
        self.legal = [np.flatnonzero((layer >= 0) & chosen) for layer in table]

    def figures(self, sums: Sums) -> list[np.ndarray]:
        """Of each layer those of what may be chosen."""
        return [layer.ravel()[legal] for layer, legal in zip(sums.table, self.legal, strict=True)]

    def mean(self, sums: Sums, tilt: float = 0.0) -> float:
        """Of a network's figure."""
        return sums.fixed + sum(_tilted(tilt * figures) @ figures for figures in self.figures(sums))

    def tilt_for(self, sums: Sums, size: float) -> float:
        """The tilt at which networks have the figure `size` on average (bisection; figures fall with tilt)."""
        low, high = -1.0, 1.0  # per unit: far beyond what any layer's spread needs
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if self.mean(sums, middle) > size else (low, middle)
        return (low + high) / 2

    def draw(self, generator: np.random.Generator, count: int, tilts: Sequence[tuple[Sums, float]]) -> np.ndarray:
        """`count` rows of genes, under several tilts at once."""
        exponents = zip(*([tilt * figures for figures in self.figures(sums)] for sums, tilt in tilts), strict=True)
        flat = [
            generator.choice(legal, size=count, p=_tilted(sum(layer)))
            for legal, layer in zip(self.legal, exponents, strict=True)
        ]
        return np.concatenate(np.divmod(np.stack(flat, axis=1), self._ratios), axis=1)


def _tilted(exponents: np.ndarray) -> np.ndarray:
    """Probabilities proportional to exp(-exponents)."""
    weights = np.exp(exponents.min() - exponents)
    return weights / weights.sum()


class Rare:
    """Uniform draws from networks whose figures lie within `limits`, (sums, least, most), however rare these are."""

    def __init__(self, cells: Cells, limits: Sequence[tuple[Sums, float, float]]):
        self._cells, self._tilts, self._edges = cells, [], []
        for sums, low, high in limits:
            mean = self._cells.mean(sums)
            edge = min(max(mean, low), high)
            self._tilts.append((sums, 0.0 if edge == mean else self._cells.tilt_for(sums, edge)))
            self._edges.append(edge)

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Rows of genes, at most `count`: what is drawn under a tilt is kept with a probability that undoes it.

        Rows beyond the limits are among them, with other probabilities.
        """
        genes = self._cells.draw(generator, count, self._tilts)
        # 1 at the edge of the limits, less within them
        odds = sum(tilt * (sums.of(genes) - edge) for (sums, tilt), edge in zip(self._tilts, self._edges, strict=True))
        return genes[generator.random(count) < np.exp(np.minimum(odds, 0))]
