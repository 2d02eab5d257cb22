"""Count what the best networks have in common, build Lego-Net from it, and train it.

    python -m stages.legonet row ROW          over one row's networks
    python -m stages.legonet pooled DATASET   over all rows of a dataset, if there are several

Reads its plan, the prepared data (train, validation) and the validation accuracies of the
networks trained from scratch. Writes runs/<ROW or DATASET>/legonet/ and, to
results/DATASET/legonet/ROW or results/DATASET/legonet_pooled: counts.csv, statistics.json and
seed-<seed>/ with validation.json and curves.csv. If the loss becomes NaN or infinite: diverged.json alone. Of a
dataset with one row the pooled Lego-Net is the row's own: statistics.json without voters is all.
"""

from typing import Literal

import click

from tamnas.config.plan import LegonetStagePlan
from tamnas.legonet import design_and_train
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import results, runs
from tamnas.pipeline.stage import renewed, stage_run


@stage_command
def main(scope: Literal["row", "pooled"], name: str) -> None:
    stage = "legonet" if scope == "row" else "legonet_pooled"
    plan = LegonetStagePlan.load(name, stage)
    trained, folder = runs(name, "legonet"), results(plan.dataset, stage, plan.row)
    with stage_run(stage, plan) as checkpoints:
        if plan.rows:
            design_and_train(plan, checkpoints, trained, folder)
        else:
            click.echo(f"{name}: with one row, the pooled Lego-Net is the row's own")
            renewed((trained, folder), "statistics.json", {"voters": []})


if __name__ == "__main__":
    main()
