"""Train a row's chosen subnets, from scratch or from inherited weights.

    python -m stages.retrain scratch ROW
    python -m stages.retrain finetune ROW

Reads its plan, the prepared data (train, validation) and the row's start points. Writes
runs/ROW/retrain_<init>/ (last and best weights of each network) and, to
results/DATASET/retrain_<init>/ROW/seed-<seed>: validation.json and curves.csv. If the loss
becomes NaN or infinite: diverged.json beside seed-<seed>.
"""

from typing import Literal

from tamnas.config.plan import TrainingStagePlan
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import results, runs, seeded
from tamnas.pipeline.stage import stage_run


@stage_command
def main(init: Literal["scratch", "finetune"], row: str) -> None:
    stage = f"retrain_{init}"
    plan = TrainingStagePlan.load(row, stage)
    with stage_run(stage, plan) as checkpoints:
        from tamnas.training.networks import TrainingTask, retraining_jobs, train_and_write

        task = TrainingTask.of(plan, checkpoints)
        folder = seeded(results(plan.dataset, stage, row), plan.seed)
        train_and_write(task, retraining_jobs(plan, init), f"{stage} {row}", runs(row, stage), folder)


if __name__ == "__main__":
    main()
