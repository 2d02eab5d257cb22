"""Train the hand-made networks of a dataset with the same loop as the searched ones.

    python stages/baselines.py DATASET

Reads plan/DATASET.yaml and the prepared data (train, validation). Writes
runs/DATASET/baselines/ and results/DATASET/baselines/seed-<seed>: validation.json, curves.csv. If the
loss becomes NaN or infinite: diverged.json beside seed-<seed>.
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import load_dataset
from tamnas.pipeline.paths import prepared, results, seeded, weights
from tamnas.pipeline.stage import one_line_errors, stage_run
from tamnas.space.space import SearchSpace


def run(dataset: str) -> None:
    plan, data = load_dataset(dataset), prepared(dataset)
    parameters = {
        "seed": plan.seed, "baselines": plan.baselines.plain(), "validation": plan.validation.plain(),
        "data": plan.data.plain(), "numerics": plan.numerics.plain(),
    }  # fmt: skip
    folder = results(dataset, "baselines")
    with stage_run(__file__, dataset, parameters, [data], folder) as store:
        from tamnas.training.networks import (  # here, because torch takes seconds to import
            TrainingTask,
            train_and_write,
        )

        task = TrainingTask(
            key=(plan.seed, "baselines", dataset), space=SearchSpace(num_classes=plan.data.classes), data=data,
            training=plan.baselines.training, reference=plan.validation, augment=plan.data.augment,
            numerics=plan.numerics, compute=load_compute(), folder=store.folder,
        )  # fmt: skip
        specs = [{"id": name, "architecture": None, "baseline": name} for name in plan.baselines.names]
        train_and_write(task, specs, f"baselines {dataset}", weights(dataset, "baselines"), seeded(folder, plan.seed))


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("dataset")
@one_line_errors
def main(dataset: str) -> None:
    run(dataset)


if __name__ == "__main__":
    main()
