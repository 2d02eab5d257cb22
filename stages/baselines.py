"""Train the hand-made networks of a dataset with the same loop as the searched ones.

    python -m stages.baselines DATASET

Reads its plan and the prepared data (train, validation). Writes
runs/DATASET/baselines/ and results/DATASET/baselines/seed-<seed>: validation.json, curves.csv. If the
loss becomes NaN or infinite: diverged.json beside seed-<seed>.
"""

from tamnas.config.plan import BaselinesStagePlan
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import results, runs, seeded
from tamnas.pipeline.stage import stage_run


@stage_command
def main(dataset: str) -> None:
    plan = BaselinesStagePlan.load(dataset, "baselines")
    with stage_run("baselines", plan) as checkpoints:
        from tamnas.records import Job, NetworkSpec
        from tamnas.training.networks import TrainingTask, train_and_write

        key, training = (plan.seed, "baselines", dataset), plan.baselines.training
        jobs = [Job(NetworkSpec(name, baseline=name), training, key) for name in plan.baselines.names]
        folder = seeded(results(dataset, "baselines"), plan.seed)
        task = TrainingTask.of(plan, checkpoints)
        train_and_write(task, jobs, f"baselines {dataset}", runs(dataset, "baselines"), folder)


if __name__ == "__main__":
    main()
