"""Architectures for controls: random or uniform ones of a wanted size, and one with its layers reversed."""

from collections.abc import Iterable

import numpy as np

from tamnas.errors import InputError
from tamnas.space.architecture import Architecture
from tamnas.space.space import Budget, SearchSpace, bounds

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
    low, high = bounds(budget)
    known, archs = set(taken), []
    for size in sizes:
        size = min(max(size, low), high)
        tilt = _tilt_for(space, size)
        # A size at the edge of the space may have few architectures, all taken: then draw more widely.
        for halvings in range(_WIDER):
            genes = _tilted_genes(space, generator, tilt / 2**halvings)
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


def _choices(space: SearchSpace, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices into the flattened block x ratio grid, parameters) of what is legal at `layer`."""
    table = space.table[layer].ravel()
    legal = np.flatnonzero(table >= 0)
    return legal, table[legal]


def _tilted(parameters: np.ndarray, tilt: float) -> np.ndarray:
    """Probabilities proportional to exp(-tilt x parameters)."""
    logits = -tilt * parameters
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _tilt_for(space: SearchSpace, size: int) -> float:
    """The tilt at which architectures have `size` parameters on average (bisection; sizes fall with tilt)."""
    layers = [_choices(space, layer)[1] for layer in range(len(space.layers))]
    low, high = -1.0, 1.0  # per parameter: far beyond what any layer's spread needs
    for _ in range(100):
        middle = (low + high) / 2
        mean = space.fixed_parameters + sum(_tilted(parameters, middle) @ parameters for parameters in layers)
        low, high = (middle, high) if mean > size else (low, middle)
    return (low + high) / 2


def _tilted_genes(space: SearchSpace, generator: np.random.Generator, tilt: float) -> np.ndarray:
    """Distinct draws from the tilted distribution, rows of genes in the order drawn.

    All architectures of one size have the same probability, so that those of the size wanted are
    a uniform sample of what has it; uniform draws alone hardly ever reach the edges of the space.
    """
    flat = []
    for layer in range(len(space.layers)):
        legal, parameters = _choices(space, layer)
        flat.append(generator.choice(legal, size=_DRAWS, p=_tilted(parameters, tilt)))
    blocks, ratios = np.divmod(np.stack(flat, axis=1), len(space.ratios))
    genes = np.concatenate((blocks, ratios), axis=1)
    _, first = np.unique(genes, axis=0, return_index=True)
    return genes[np.sort(first)]
