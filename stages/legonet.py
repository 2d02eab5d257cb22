"""Count what the best networks have in common, build Lego-Net from it, and train it.

    python stages/legonet.py row ROW          over one row's networks
    python stages/legonet.py pooled DATASET   over all rows of a dataset

Reads the plan, the prepared data (train, validation) and the validation accuracies of the
networks trained from scratch. Writes runs/<ROW or DATASET>/legonet/ and, to
results/DATASET/legonet/ROW or results/DATASET/legonet_pooled: counts.csv, statistics.json and
seed-<seed>/ with validation.json and curves.csv. If the loss becomes NaN or infinite: diverged.json alone.
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import load_dataset, load_row
from tamnas.files import write_csv, write_json
from tamnas.pipeline.paths import prepared, results, seeded, weights
from tamnas.pipeline.stage import one_line_errors, stage_run
from tamnas.space.space import SearchSpace


def run(scope: str, name: str) -> None:
    if scope == "row":
        plan = load_row(name)
        rows, training, reference = [name], plan.retrain.scratch, plan.retrain.validation
        folder = results(plan.dataset, "legonet", name)
    else:
        plan = load_dataset(name)
        rows, training, reference = plan.pooled.rows, plan.pooled.training, plan.validation
        folder = results(plan.dataset, "legonet_pooled")
    sources = [results(plan.dataset, stage, row) for row in rows for stage in ("select", "retrain_scratch")]
    data = prepared(plan.dataset)
    parameters = {
        "stage": scope, "seed": plan.seed, "rows": rows, "network": plan.network.plain(), "space": plan.space.plain(),
        "training": training.plain(), "validation": reference.plain(), "top": plan.legonet.top,
        "weights": plan.eval.weights, "augment": plan.data.augment.plain(), "numerics": plan.numerics.plain(),
    }  # fmt: skip
    with stage_run(__file__, name, parameters, [data, *sources], folder) as store:
        from tamnas.legonet import design, trained_networks  # here, because torch takes seconds to import
        from tamnas.training.networks import TrainingTask, train_and_write

        space = SearchSpace.from_params(plan)
        networks = trained_networks(plan.dataset, rows, plan.seed)
        arch, counts, statistics = design(space, networks, plan.legonet.top, plan.eval.weights)
        task = TrainingTask(
            key=(plan.seed, "legonet", name), space=space, data=data, training=training, reference=reference,
            augment=plan.data.augment, numerics=plan.numerics, compute=load_compute(), folder=store.folder,
        )  # fmt: skip
        specs = [{"id": "lego", "architecture": arch.plain(), "baseline": None}]
        train_and_write(task, specs, f"legonet {name}", weights(name, "legonet"), seeded(folder, plan.seed))
        write_csv(folder / "counts.csv", counts)
        write_json(folder / "statistics.json", statistics)


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("scope", type=click.Choice(["row", "pooled"]))
@click.argument("name", metavar="ROW|DATASET")
@one_line_errors
def main(scope: str, name: str) -> None:
    run(scope, name)


if __name__ == "__main__":
    main()
