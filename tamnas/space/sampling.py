"""Architectures for controls: random or uniform ones of a wanted size, and one with its layers reversed."""

from collections.abc import Iterable

import numpy as np

from tamnas.errors import InputError
from tamnas.space.architecture import Architecture
from tamnas.space.space import Budget, SearchSpace, bounds
from tamnas.space.tilting import Cells

_DRAWS = 4096
_WIDER = 16  # halvings of a tilt, after which draws are as good as uniform


def reversed_order(space: SearchSpace, arch: Architecture) -> Architecture:
    """`arch` with its layers' genes (block and ratio together) in reversed order, made legal.

    A bare non-local block that lands on a layer which does not allow it changes places with the
    nearest layer where both are legal (the earlier of two), so that the genes stay the same as a
    set. There always is one: a legal architecture has a branch at every transition.
    """
    genes = list(zip(arch.blocks, arch.ratios, strict=True))[::-1]

    def fits(gene: int, layer: int) -> bool:
        return genes[gene][0] in space.allowed_blocks(layer)

    for here in range(len(genes)):
        if not fits(here, here):
            fitting = [there for there in range(len(genes)) if fits(here, there) and fits(there, here)]
            there = min(fitting, key=lambda index: (abs(index - here), index))
            genes[here], genes[there] = genes[there], genes[here]
    return space.require_legal(Architecture(*zip(*genes, strict=True)))


def uniform(space: SearchSpace, size: int) -> Architecture:
    """Block 0, ShuffleNetV2's, in every layer, at the one ratio that comes nearest to `size` parameters."""
    depth = len(space.layers)
    archs = [space.require_legal(Architecture((0,) * depth, (ratio,) * depth)) for ratio in space.ratios]
    return min(archs, key=lambda arch: abs(space.parameters(arch) - size))


def matching(
    space: SearchSpace,
    sizes: Iterable[int],
    generator: np.random.Generator,
    budget: Budget = None,
    taken: Iterable[Architecture] = (),
) -> list[Architecture]:
    """For each of `sizes` (parameters) a random legal architecture of about that size, within `budget`.

    All distinct, and none in `taken`. Raises InputError when the space has no further one.
    """
    cells, (low, high) = Cells(space.table, space.ratio_indices()), bounds(budget)
    known, archs = set(taken), []
    for size in sizes:
        size = min(max(size, low), high)
        tilt = cells.tilt_for(space.parameter_sums, size)
        # A size at the edge of the space may have few architectures, all taken: then draw more widely.
        for halvings in range(_WIDER):
            genes = cells.draw(generator, _DRAWS, [(space.parameter_sums, tilt / 2**halvings)])
            genes = genes[np.sort(np.unique(genes, axis=0, return_index=True)[1])]
            genes = genes[space.within(genes, budget)]
            order = np.argsort(np.abs(space.genes_parameters(genes) - size), kind="stable")
            fresh = (arch for arch in map(space.decode, genes[order]) if arch not in known)
            if arch := next(fresh, None):
                break
        else:
            raise InputError(f"controls: no further architecture of about {size:,} parameters in this space or budget")
        known.add(arch)
        archs.append(arch)
    return archs
