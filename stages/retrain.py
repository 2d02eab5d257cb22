"""Train a row's chosen subnets, from scratch or from inherited weights.

    python stages/retrain.py scratch ROW
    python stages/retrain.py finetune ROW

Reads plan/ROW.yaml, the prepared data (train, validation) and the row's start points. Writes
runs/ROW/retrain_<init>/ (last and best weights of each network) and, to
results/DATASET/retrain_<init>/ROW/seed-<seed>: validation.json and curves.csv. If the loss
becomes NaN or infinite: diverged.json beside seed-<seed>.
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import load_row
from tamnas.files import read_json
from tamnas.pipeline.paths import prepared, results, seeded, weights
from tamnas.pipeline.stage import one_line_errors, stage_run
from tamnas.space.space import SearchSpace


def run(init: str, row: str) -> None:
    plan, data, name = load_row(row), prepared(load_row(row).dataset), f"retrain_{init}"
    training = getattr(plan.retrain, init)
    start = weights(row, "start-scratch.json" if init == "scratch" else "start-finetune.safetensors")
    parameters = {
        "stage": init, "seed": plan.seed, "network": plan.network.plain(), "training": training.plain(),
        "validation": plan.retrain.validation.plain(), "augment": plan.data.augment.plain(),
        "numerics": plan.numerics.plain(),
    }  # fmt: skip
    folder = results(plan.dataset, name, row)
    with stage_run(__file__, row, parameters, [data, start], folder) as store:
        from tamnas.pipeline import checkpoint  # here, because torch takes seconds to import
        from tamnas.training.networks import TrainingTask, train_and_write

        if init == "scratch":
            specs = read_json(start)["networks"]
        else:
            specs = [{**spec, "inherited": str(start)} for spec in checkpoint.load(start)[1]["networks"]]
        task = TrainingTask(
            key=(plan.seed, name, row), space=SearchSpace.from_params(plan), data=data, training=training,
            reference=plan.retrain.validation, augment=plan.data.augment, numerics=plan.numerics,
            compute=load_compute(), folder=store.folder,
        )  # fmt: skip
        train_and_write(task, specs, f"{name} {row}", weights(row, name), seeded(folder, plan.seed))


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("init", type=click.Choice(["scratch", "finetune"]))
@click.argument("row")
@one_line_errors
def main(init: str, row: str) -> None:
    run(init, row)


if __name__ == "__main__":
    main()
