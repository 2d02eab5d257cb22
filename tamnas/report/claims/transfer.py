"""Which networks can tell what the supernet's attack does to its subnets.

A mode retrains its subnets with its own attack, so that two modes differ in both. Where every mode's subnets were
also retrained at one common attack (the control `common_attack`), those are compared instead.
"""

from collections.abc import Sequence

from tamnas.controls import OWN
from tamnas.report.study import RowResults, TrainedNetwork

CONTROL = "common_attack"


def retrained_alike(rows: Sequence[RowResults]) -> tuple[dict[str, Sequence[TrainedNetwork]], str]:
    """(networks by row, what they are): those of the control if all `rows` have it, else the rows' own."""
    controls = {row.name: common_attack(row) for row in rows}
    attacks = [row.plan.controls.common_attack for row in rows]
    if all(controls.values()) and all(attack == attacks[0] for attack in attacks):  # a mode may patch it
        return controls, "all retrained at the common attack"
    return {row.name: row.scratch for row in rows}, "each retrained with its own attack (no control at a common one)"


def common_attack(row: RowResults) -> Sequence[TrainedNetwork]:
    """The row's subnets after retraining at the common attack; none where that was not run."""
    return row.scratch if row.controls.status.get(CONTROL) == OWN else row.controls.of(CONTROL)
