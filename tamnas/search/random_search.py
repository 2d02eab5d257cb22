"""Random search beside NSGA-II: equally many distinct evaluations, by the same evaluator."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import RandomSearchStagePlan
from tamnas.config.sections import SearchPlan
from tamnas.search.front import Fitness, hypervolume_row
from tamnas.search.latency import search_space
from tamnas.search.memo import memoised
from tamnas.seeding import numpy_generator
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


def random_search(
    space: SearchSpace,
    plan: SearchPlan,
    counts: Sequence[int],
    evaluate: Callable[[Sequence[Architecture]], list[Fitness]],
    generator: np.random.Generator,
) -> tuple[list[dict], dict[Architecture, Fitness]]:
    """(hypervolume after each of `counts` evaluations, fitness of all evaluated in the order drawn).

    The rows are those of `tamnas.search.nsga2`; random search has no population but all it evaluated.
    """
    archs = list(map(space.decode, space.distinct_genes(generator, max(counts), plan.budget)))
    fitness = dict(zip(archs, evaluate(archs), strict=True))
    so_far = [{arch: fitness[arch] for arch in archs[:count]} for count in counts]
    rows = [hypervolume_row(space, plan.objectives, i, list(known), known) for i, known in enumerate(so_far)]
    return rows, fitness


def run_random_search(
    plan: RandomSearchStagePlan,
    latencies: Mapping | None,
    counts: Sequence[int],
    supernet: Path,
    data: Path,
    compute: ComputeParams,
    memo_path: Path,
) -> tuple[list[dict], list[dict]]:
    """(hypervolume rows, individuals) of a row, with `counts` distinct evaluations per generation of its search.

    `latencies`: what its search measured, if it did.
    """
    space, generator = search_space(plan, latencies), numpy_generator(plan.seed, "random_search", plan.name)
    with memoised(plan, space, supernet, data, compute, memo_path, f"random search {plan.name}", max(counts)) as memo:
        rows, fitness = random_search(space, plan.search, counts, memo, generator)
    individuals = [
        {"individual": index, "architecture": str(arch), **evaluated.row}
        for index, (arch, evaluated) in enumerate(fitness.items())
    ]
    return rows, individuals
