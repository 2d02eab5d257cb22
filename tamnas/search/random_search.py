"""Random search beside NSGA-II: equally many distinct evaluations, by the same evaluator."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import RandomSearchStagePlan
from tamnas.config.sections import SearchPlan
from tamnas.search.fitness import Fitness
from tamnas.search.front import front_of, hypervolume
from tamnas.search.memo import memoised
from tamnas.seeding import numpy_generator
from tamnas.space.architecture import Architecture
from tamnas.space.space import Budget, SearchSpace


def distinct_architectures(
    space: SearchSpace, generator: np.random.Generator, count: int, budget: Budget, tries: int = 100
) -> list[Architecture]:
    """`count` distinct uniform draws within `budget`, or fewer where so many draws do not find them."""
    found: dict[Architecture, None] = {}
    for _ in range(tries):
        found |= dict.fromkeys(map(space.decode, space.sample_genes(generator, count, budget)))
        if len(found) >= count:
            break
    return list(found)[:count]


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
    archs = distinct_architectures(space, generator, max(counts), plan.budget)
    fitness = dict(zip(archs, evaluate(archs), strict=True))
    rows = []
    for generation, count in enumerate(counts):
        front = front_of(archs[:count], fitness)
        share = hypervolume(space, plan.objectives, [fitness[arch] for arch in front])
        rows.append(
            {
                "generation": generation, "evaluated": len(archs[:count]), "hypervolume": share,
                "archive_hypervolume": share, "front": len(front),
            }
        )  # fmt: skip
    return rows, fitness


def evaluations(path: Path) -> list[int]:
    """How many distinct evaluations a search had made after each generation, from its hypervolume.csv."""
    return pd.read_csv(path)["evaluated"].tolist()


def run_random_search(
    plan: RandomSearchStagePlan,
    counts: Sequence[int],
    weights: Path,
    data: Path,
    compute: ComputeParams,
    memo_path: Path,
) -> tuple[list[dict], list[dict]]:
    """(hypervolume rows, individuals) of a row, with `counts` distinct evaluations per generation of its search."""
    space, generator = SearchSpace.from_params(plan), numpy_generator(plan.seed, "random_search", plan.name)
    with memoised(plan, weights, data, compute, memo_path, f"random search {plan.name}", max(counts)) as memo:
        rows, fitness = random_search(space, plan.search, counts, memo, generator)
    individuals = [
        {"individual": index, "architecture": str(arch), **found.row}
        for index, (arch, found) in enumerate(fitness.items())
    ]
    return rows, individuals
