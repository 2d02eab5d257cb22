"""Multi-objective search with NSGA-II over inherited weights (paper, Section III-E, Algorithm 2).

Genes are one block index and one ratio index per layer. Objectives (`search.objectives`) are minimised. No network is
evaluated twice: a search spends population + generations x offspring evaluations, if the space within the budget holds
as many. pymoo is replayed from its seed: evaluations are memoised, so a search that was killed repeats none and ends
with the same bits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.problems.static import StaticProblem

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import SearchStagePlan
from tamnas.config.sections import SearchPlan
from tamnas.files import FORMAT
from tamnas.search.front import Fitness, front_of, hypervolume_row
from tamnas.search.latency import search_space
from tamnas.search.memo import memoised
from tamnas.search.operators import Breeding, BudgetSampling, Unseen, by_rank_then_crowding
from tamnas.seeding import derived_seed
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


@dataclass(frozen=True)
class SearchResult:
    """All individuals of all generations, and the fronts of the final population and of all evaluated, the archive."""

    generations: list[list[Architecture]]
    population_front: list[Architecture]
    archive_front: list[Architecture]
    hypervolume: list[dict]


def search(
    space: SearchSpace, plan: SearchPlan, evaluate: Callable[[Sequence[Architecture]], list[Fitness]], seed: int
) -> SearchResult:
    """NSGA-II as the paper sets it: `plan.generations` survivals after the initial population.

    `evaluate` maps architectures to fitness, in order. Hypervolume is measured against the
    largest cost of each objective in the space.
    """
    problem = Problem(n_var=2 * len(space.layers), n_obj=len(plan.objectives), vtype=int)
    fitness: dict[Architecture, Fitness] = {}
    unseen = Unseen(space, fitness)
    selection = TournamentSelection(func_comp=by_rank_then_crowding, pressure=plan.tournament)
    algorithm = NSGA2(
        pop_size=plan.population,
        n_offsprings=plan.offspring,
        sampling=BudgetSampling(space, plan.budget),
        mating=Breeding(space, plan, selection, unseen),
        eliminate_duplicates=unseen,
    )
    # pymoo counts the initial population as generation 1.
    algorithm.setup(problem, termination=("n_gen", plan.generations + 1), seed=seed, verbose=False)
    generations, rows = [], []
    while algorithm.has_next() and not _stagnant(rows, plan.stagnation):
        offspring = algorithm.ask()
        if offspring is None or len(offspring) == 0:
            break  # every architecture within the budget has been evaluated
        archs = [space.decode(genes) for genes in offspring.get("X")]
        fitness |= dict(zip(archs, evaluate(archs), strict=True))
        costs = np.array([fitness[arch].costs for arch in archs])
        Evaluator().eval(StaticProblem(problem, F=costs), offspring)
        algorithm.tell(infills=offspring)
        generations.append(archs)
        population = [space.decode(genes) for genes in algorithm.pop.get("X")]
        rows.append(hypervolume_row(space, plan.objectives, len(rows), population, fitness))
    return SearchResult(generations, front_of(population, fitness), front_of(list(fitness), fitness), rows)


def _stagnant(rows: list[dict], patience: int | None) -> bool:
    if patience is None or len(rows) <= patience:
        return False
    values = [row["archive_hypervolume"] for row in rows]
    return max(values[:-patience]) >= max(values)


def run_search(
    plan: SearchStagePlan,
    latencies: Mapping | None,
    supernet: Path,
    data: Path,
    compute: ComputeParams,
    memo_path: Path,
):
    """Search one row's space with its trained supernet; evaluations are memoised in `memo_path`.

    `latencies` are those of `tamnas.search.latency.measured_latencies`. Returns (SearchResult, fitness of every
    architecture evaluated).
    """
    seed = derived_seed(plan.seed, "search", plan.name, "nsga2") % 2**32  # pymoo takes 32 bits
    total = plan.search.population + plan.search.generations * plan.search.offspring
    space = search_space(plan, latencies)
    with memoised(plan, space, supernet, data, compute, memo_path, f"search {plan.name}", total) as memo:
        return search(space, plan.search, memo, seed), memo.known


def individuals(result: SearchResult, fitness: dict[Architecture, Fitness]) -> list[dict]:
    """One row per individual of every generation, in the order of their birth."""
    return [
        {"generation": generation, "individual": index, "architecture": str(arch), **fitness[arch].row}
        for generation, archs in enumerate(result.generations)
        for index, arch in enumerate(archs)
    ]


def fronts(result: SearchResult, fitness: dict[Architecture, Fitness]) -> dict:
    """By value of `search.front`, JSON-able, by growing size: the archive's (ids n01 ...), the population's (p01)."""

    def rows(archs: Sequence[Architecture], prefix: str) -> list[dict]:
        return [
            {"id": f"{prefix}{index:02d}", "architecture": arch.plain(), **fitness[arch].row}
            for index, arch in enumerate(archs, 1)
        ]

    return {
        "format": FORMAT,
        "archive": rows(result.archive_front, "n"),
        "population": rows(result.population_front, "p"),
    }
