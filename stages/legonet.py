"""Count what the best networks have in common, build Lego-Net from it, and train it.

    python -m stages.legonet row ROW          over one row's networks
    python -m stages.legonet pooled DATASET   over all rows of a dataset

Reads its plan, the prepared data (train, validation) and the validation accuracies of the
networks trained from scratch. Writes runs/<ROW or DATASET>/legonet/ and, to
results/DATASET/legonet/ROW or results/DATASET/legonet_pooled: counts.csv, statistics.json and
seed-<seed>/ with validation.json and curves.csv. If the loss becomes NaN or infinite: diverged.json alone.
"""

from typing import Literal

from tamnas.config.plan import LegonetStagePlan
from tamnas.files import write_csv, write_json
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import results, seeded, weights
from tamnas.pipeline.stage import stage_run


@stage_command
def main(scope: Literal["row", "pooled"], name: str) -> None:
    stage = "legonet" if scope == "row" else "legonet_pooled"
    plan = LegonetStagePlan.load(name, stage)
    with stage_run(stage, plan) as checkpoints:
        from tamnas.legonet import candidates, design
        from tamnas.records import Job, NetworkSpec
        from tamnas.space.space import SearchSpace
        from tamnas.training.networks import TrainingTask, train_and_write

        networks = candidates(plan.dataset, plan.rows, plan.seed)
        arch, counts, statistics = design(SearchSpace.from_params(plan), networks, plan.top, plan.weights)
        job = Job(NetworkSpec("lego", arch), plan.training, (plan.seed, "legonet", name))
        folder = results(plan.dataset, stage, name if scope == "row" else None)
        task, trained = TrainingTask.of(plan, checkpoints), weights(name, "legonet")
        train_and_write(task, [job], f"legonet {name}", trained, seeded(folder, plan.seed))
        write_csv(folder / "counts.csv", counts)
        write_json(folder / "statistics.json", statistics)


if __name__ == "__main__":
    main()
