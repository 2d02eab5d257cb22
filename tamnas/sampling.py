"""Which architecture when: uniform draws under a budget, ratio opening (paper, Section III-C)."""

from collections.abc import Sequence

import numpy as np

from tamnas.errors import InputError
from tamnas.space import SearchSpace

Budget = tuple[int | None, int | None] | None
_BATCH = 4096
_MAX_BATCHES = 500


def require_feasible(space: SearchSpace, budget: Budget, ratios: Sequence[float] | None = None, name="budget"):
    """Raises InputError, naming both ranges, when no architecture can have the size asked for."""
    if budget is None:
        return
    smallest, largest = space.parameter_range(ratios)
    low, high = bounds(budget)
    if low > largest or high < smallest or low > high:
        raise InputError(
            f"{name}: no architecture has {low:,.0f} to {high:,.0f} parameters; "
            f"this space has {smallest:,} to {largest:,}"
        )


def bounds(budget: Budget) -> tuple[float, float]:
    low, high = budget or (None, None)
    return (0 if low is None else low), (float("inf") if high is None else high)


def sample_genes(
    space: SearchSpace,
    generator: np.random.Generator,
    count: int,
    budget: Budget = None,
    ratios: Sequence[float] | None = None,
) -> np.ndarray:
    """`count` rows of genes (block indices, then ratio indices), uniform under `budget`.

    Vectorised rejection on the parameter table. Raises InputError when the budget misses the
    exact range of the space, or is met by fewer than about one in two million draws.
    """
    require_feasible(space, budget, ratios)
    low, high = bounds(budget)
    found: list[np.ndarray] = []
    for _ in range(_MAX_BATCHES):
        genes = _uniform_genes(space, generator, max(_BATCH if budget else 0, count), ratios)
        counts = genes_parameters(space, genes)
        found += list(genes[(counts >= low) & (counts <= high)][: count - len(found)])
        if len(found) == count:
            return np.stack(found)
    smallest, largest = space.parameter_range(ratios)
    raise InputError(
        f"budget: {low:,.0f} to {high:,.0f} parameters is inside the space's range "
        f"({smallest:,} to {largest:,}), but fewer than one in {_BATCH * _MAX_BATCHES // count:,} draws meets it"
    )


def genes_parameters(space: SearchSpace, genes: np.ndarray) -> np.ndarray:
    """Parameter counts of rows of genes, int64."""
    blocks, ratios = np.split(genes, 2, axis=1)
    layers = np.arange(len(space.layers))
    return space.fixed_parameters + space.table[layers, blocks, ratios].sum(axis=1)


def _uniform_genes(space, generator, count, ratios) -> np.ndarray:
    columns = np.array([space.ratios.index(ratio) for ratio in (ratios or space.ratios)])
    rows = [
        generator.choice([space.blocks.index(block) for block in space.allowed_blocks(layer)], size=count)
        for layer in range(len(space.layers))
    ]
    rows += [generator.choice(columns, size=count) for _ in space.layers]
    return np.stack(rows, axis=1)


def open_ratios(space: SearchSpace, epoch: int, first: int, after: int, every: int) -> tuple[float, ...]:
    """The ratios in use at `epoch` of the joint phase, ascending (paper, Section IV-A).

    The `first` largest from the start, one more (the next smaller) at epoch `after`, and one
    more every `every` epochs after that.
    """
    opened = first if epoch < after else first + 1 + (epoch - after) // every
    return space.ratios[-min(opened, len(space.ratios)) :]
