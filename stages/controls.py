"""Train what stands beside the results: controls, and the final networks again with other seeds.

    python -m stages.controls row ROW
    python -m stages.controls pooled DATASET

Reads its plan, the prepared data (train, validation) and what it stands beside: the row's start
points, validation accuracies and Lego-Net (pooled: the pooled Lego-Net). Writes
runs/<ROW or DATASET>/controls/seed-<seed>/ and, to results/DATASET/controls/ROW or
results/DATASET/controls_pooled: controls.json (what was run) and seed-<seed>/ with validation.json
and curves.csv, or diverged.json if a loss becomes NaN or infinite. With every control off it trains
nothing and says so.
"""

from typing import Literal

import click

from tamnas.config.plan import PooledControlsStagePlan, RowControlsStagePlan
from tamnas.controls import status, train_controls
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import results, runs
from tamnas.pipeline.stage import renewed, stage_run


@stage_command
def main(scope: Literal["row", "pooled"], name: str) -> None:
    stage, kind = ("controls", RowControlsStagePlan) if scope == "row" else ("controls_pooled", PooledControlsStagePlan)
    plan = kind.load(name, stage)
    trained, small = runs(name, "controls"), results(plan.dataset, stage, plan.row)
    with stage_run(stage, plan) as checkpoints:
        renewed((trained, small), "controls.json", {"controls": status(plan)})
        if plan.controls.training or plan.seeds:
            train_controls(plan, checkpoints, trained, small)
        else:
            click.echo(f"{name}: every control is off")


if __name__ == "__main__":
    main()
