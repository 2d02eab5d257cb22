"""Non-dominated fronts and their hypervolume."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from tamnas.search.objectives import OBJECTIVES
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


@dataclass(frozen=True)
class Fitness:
    """Measured values by column (accuracies in [0, 1] on validation, sizes), and the costs to minimise."""

    values: dict[str, float]
    costs: tuple[float, ...]

    @classmethod
    def of(cls, values: dict[str, float], objectives: Sequence[str]) -> "Fitness":
        chosen = [OBJECTIVES[name] for name in objectives]
        return cls(values, tuple(objective.cost(values[objective.column]) for objective in chosen))

    @property
    def row(self) -> dict[str, float]:
        """As in results: the size first."""
        return {"parameters": self.values["parameters"], **self.values}


def front_of(archs: Sequence[Architecture], fitness: dict[Architecture, Fitness]) -> list[Architecture]:
    """The non-dominated ones, without repeats, by growing number of parameters."""
    distinct = list(dict.fromkeys(archs))
    costs = np.array([fitness[arch].costs for arch in distinct])
    first = NonDominatedSorting().do(costs, only_non_dominated_front=True)
    return sorted((distinct[i] for i in first), key=lambda arch: _order(arch, fitness[arch]))


def _order(arch: Architecture, fitness: Fitness) -> tuple:
    return fitness.values["parameters"], *fitness.costs[::-1], str(arch)


def hypervolume(space: SearchSpace, objectives: Sequence[str], points: Sequence[Fitness]) -> float:
    """Share of the box up to each objective's largest cost in `space` that `points` dominate, in [0, 1]."""
    scale = [OBJECTIVES[name].scale(space) for name in objectives]
    return float(HV(ref_point=np.ones(len(scale)))(np.array([point.costs for point in points]) / scale))


def hypervolume_row(
    space: SearchSpace,
    objectives: Sequence[str],
    generation: int,
    population: Sequence[Architecture],
    fitness: dict[Architecture, Fitness],
) -> dict:
    """Of results' hypervolume.csv: the front of the `population`, and of all that `fitness` holds, the archive."""
    front, archive = front_of(population, fitness), front_of(list(fitness), fitness)
    return {
        "generation": generation,
        "evaluated": len(fitness),
        "hypervolume": hypervolume(space, objectives, [fitness[arch] for arch in front]),
        "archive_hypervolume": hypervolume(space, objectives, [fitness[arch] for arch in archive]),
        "front": len(front),
    }


def spread(count: int, at_most: int | None) -> list[int]:
    """Indices of at most `at_most` of `count` items, evenly spread, both ends included."""
    if at_most is None or at_most >= count:
        return list(range(count))
    if at_most == 1:
        return [0]
    return sorted({round(i * (count - 1) / (at_most - 1)) for i in range(at_most)})
