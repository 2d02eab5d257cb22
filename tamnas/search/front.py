"""Non-dominated fronts and their hypervolume."""

from collections.abc import Sequence

import numpy as np
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from tamnas.search.fitness import Fitness
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


def front_of(archs: Sequence[Architecture], fitness: dict[Architecture, Fitness]) -> list[Architecture]:
    """The non-dominated ones, without repeats, by growing size."""
    distinct = list(dict.fromkeys(archs))
    objectives = np.array([fitness[arch].objectives for arch in distinct])
    first = NonDominatedSorting().do(objectives, only_non_dominated_front=True)
    return sorted((distinct[i] for i in first), key=lambda arch: (*fitness[arch].objectives[::-1], str(arch)))


def hypervolume(space: SearchSpace, points: Sequence[Fitness]) -> float:
    """Share of the box up to (1, 1, largest count) that `points` dominate, in [0, 1]."""
    largest = space.parameter_range()[1]
    scaled = np.array([point.objectives for point in points]) / (1, 1, largest)
    return float(HV(ref_point=np.ones(3))(scaled))


def spread(count: int, at_most: int | None) -> list[int]:
    """Indices of at most `at_most` of `count` items, evenly spread, both ends included."""
    if at_most is None or at_most >= count:
        return list(range(count))
    if at_most == 1:
        return [0]
    return sorted({round(i * (count - 1) / (at_most - 1)) for i in range(at_most)})
