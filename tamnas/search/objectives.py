"""What a search optimises: each objective is one entry here, used by search, fronts, hypervolume, tables and figures.

A low room: parameters are checked against it, so nothing here imports what measuring takes; a `Candidate` brings it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


@dataclass(frozen=True)
class Candidate:
    """What an objective measures: an architecture, and its subnet (a torch module) with inherited weights.

    `validation` is the `tamnas.data.loader.Split` to measure on, `clean` and `robust` (under the search's attack)
    compute its accuracies there, in [0, 1].
    """

    space: SearchSpace
    arch: Architecture
    subnet: Any
    validation: Any
    clean: Callable[[], float]
    robust: Callable[[], float]


@dataclass(frozen=True)
class Objective:
    """An objective of the search, minimised as its `cost`.

    `column` names the measured value in results, `title` and `unit` in reports. A value to `maximise` is a share in
    [0, 1], and its cost the rest. `scale` is the largest cost in a space: the reference of the hypervolume. The value
    is what `measure` finds of a subnet, or `exact` where an architecture alone says it.
    """

    name: str
    column: str
    title: str
    unit: str
    measure: Callable[[Candidate], float] | None = None
    maximise: bool = False
    scale: Callable[[SearchSpace], float] = lambda space: 1.0
    exact: Callable[[SearchSpace, Architecture], float] | None = None

    def of(self, candidate: Candidate) -> float:
        return self.exact(candidate.space, candidate.arch) if self.exact else self.measure(candidate)

    @property
    def label(self) -> str:
        """What is minimised, in the words of reports: `clean error`, `parameters`."""
        return self.name.replace("_", " ") if self.maximise else self.title.lower()

    def cost(self, value: float) -> float:
        return 1 - value if self.maximise else float(value)


OBJECTIVES: dict[str, Objective] = {}


def register_objective(objective: Objective) -> Objective:
    """Make `search.objectives` accept its name. Raises ValueError where nothing says its value, or two things do."""
    if (objective.measure is None) == (objective.exact is None):
        raise ValueError(f"objective {objective.name}: needs either measure or exact")
    OBJECTIVES[objective.name] = objective
    return objective


# Every search measures these three, whatever it optimises: tables and figures of the paper need them.
BASE = (
    register_objective(
        Objective("clean_error", "clean", "Clean accuracy", "%", lambda candidate: candidate.clean(), maximise=True)
    ),
    register_objective(
        Objective("robust_error", "robust", "Robust accuracy", "%", lambda candidate: candidate.robust(), maximise=True)
    ),
    register_objective(
        Objective(
            "parameters",
            "parameters",
            "Parameters",
            "parameters",
            scale=lambda space: space.parameter_range()[1],
            exact=lambda space, arch: space.parameters(arch),
        )
    ),
)

register_objective(
    Objective(
        "macs",
        "macs",
        "Multiply-accumulates",
        "MACs",
        scale=lambda space: space.mac_sums.range()[1],
        exact=lambda space, arch: space.macs(arch),
    )
)
register_objective(  # of the parts, measured on the machine that searches
    Objective(
        "latency",
        "latency",
        "Latency",
        "ms",
        scale=lambda space: space.latencies.range()[1],
        exact=lambda space, arch: space.latency(arch),
    )
)


def measured(names: tuple[str, ...]) -> list[Objective]:
    """What a search with these objectives measures: `BASE`, then what else it optimises."""
    return [*BASE, *(OBJECTIVES[name] for name in names if OBJECTIVES[name] not in BASE)]
