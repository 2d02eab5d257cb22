"""Which networks can tell what the supernet's attack does to its subnets.

A mode retrains its subnets with its own attack, so that two modes differ in both. Where the subnets of all that are
compared were also retrained at one common attack (the control `common_attack`), those are compared instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tamnas.controls import OWN
from tamnas.report.study import RowResults, TrainedNetwork

CONTROL = "common_attack"


@dataclass(frozen=True)
class Retrained:
    """Networks by row, what they are in words, and whether all were retrained against the same attack."""

    networks: dict[str, Sequence[TrainedNetwork]]
    text: str
    alike: bool


def retrained(rows: Sequence[RowResults]) -> Retrained:
    """The networks of the control if all `rows` have it, else the rows' own."""
    controls = {row.name: common_attack(row) for row in rows}
    attacks = [row.plan.controls.common_attack for row in rows]
    if all(controls.values()) and all(attack == attacks[0] for attack in attacks):  # a mode may patch it
        return Retrained(controls, "all retrained at the common attack", True)
    own = {row.name: row.scratch for row in rows}
    if len({row.plan.retrain.scratch.attack.essence for row in rows}) == 1:
        return Retrained(own, "all retrained at one attack", True)
    why = "each retrained with its own attack, so that the supernet's alone decides nothing: no control at a common one"
    return Retrained(own, why, False)


def common_attack(row: RowResults) -> Sequence[TrainedNetwork]:
    """The row's subnets after retraining at the common attack; none where that was not run."""
    if row.controls.status.get(CONTROL) == OWN:
        return row.scratch
    return [network for network in row.controls.of(CONTROL) if network.label.kind == "scratch"]
