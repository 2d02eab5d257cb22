"""Train what stands beside the results: controls, and the final networks again with other seeds.

    python stages/controls.py row ROW
    python stages/controls.py pooled DATASET

Reads the plan, the prepared data (train, validation) and what it stands beside: the row's start
points, validation accuracies and Lego-Net (pooled: the pooled Lego-Net). Writes
runs/<ROW or DATASET>/controls/seed-<seed>/ and, to results/DATASET/controls/ROW or
results/DATASET/controls_pooled: controls.json (what was run) and seed-<seed>/ with validation.json
and curves.csv, or diverged.json if a loss becomes NaN or infinite. With every control off it trains
nothing and says so.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import click

from tamnas.config.plan import DatasetPlan, RowPlan, load_dataset, load_row
from tamnas.controls import pooled_jobs, row_jobs, status
from tamnas.files import read_json, write_json
from tamnas.pipeline.deadline import require_complete
from tamnas.pipeline.paths import prepared, results, seeded, weights
from tamnas.pipeline.stage import one_line_errors, stage_run, timed
from tamnas.pipeline.store import locked
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


def run(scope: str, name: str) -> None:
    plan = load_row(name) if scope == "row" else load_dataset(name)
    folders = weights(name, "controls"), _results(plan, "controls")
    if plan.controls.training or plan.seeds:
        _train(scope, name, plan, *folders)
    else:
        with locked(f"controls-{scope}", name), timed(f"controls-{scope}", name):
            _renew(plan, folders)
            click.echo(f"{name}: every control is off")


def _renew(plan: RowPlan | DatasetPlan, folders: Iterable[Path]) -> None:
    """Say what is run; what an earlier run left is removed (DVC does so itself, the runner with results alone)."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / "controls.json", status(plan))


def _results(plan: RowPlan | DatasetPlan, stage: str) -> Path:
    row = isinstance(plan, RowPlan)
    return results(plan.dataset, stage if row else f"{stage}_pooled", plan.row if row else None)


def _train(scope: str, name: str, plan: RowPlan | DatasetPlan, out: Path, small: Path) -> None:
    from tamnas.config.compute import load_compute  # here, because torch takes seconds to import
    from tamnas.training.networks import TrainingTask, train_networks, write_trained

    data, found = prepared(plan.dataset), _results(plan, "legonet") / "statistics.json"
    lego = Architecture.from_plain(read_json(found)["architecture"])
    if scope == "row":
        specs, inputs = _row_specs(plan, lego)
        training, reference, trained = plan.retrain.scratch, plan.retrain.validation, plan.retrain.plain()
        trained |= {"budget": plan.search.budget, "common_attack": plan.plain()["controls"]["common_attack"]}
    else:
        specs, inputs = pooled_jobs(plan, lego), []
        training, reference = plan.pooled.training, plan.validation
        trained = [training.plain(), plan.baselines.training.plain()]
    # Which controls are on is not part of the key: switching one on keeps what the others trained.
    parameters = {
        "stage": scope, "seed": plan.seed, "network": plan.network.plain(), "space": plan.space.plain(),
        "training": trained, "validation": reference.plain(), "augment": plan.data.augment.plain(),
        "numerics": plan.numerics.plain(),
    }  # fmt: skip
    with stage_run(__file__, name, parameters, [data, found, *inputs], small) as store:
        _renew(plan, (out, small))
        task = TrainingTask(
            key=(plan.seed, "controls", name), space=SearchSpace.from_params(plan), data=data, training=training,
            reference=reference, augment=plan.data.augment, numerics=plan.numerics, compute=load_compute(),
            folder=store.folder,
        )  # fmt: skip
        records = train_networks(task, specs, f"controls {name}")
        for seed in sorted({one["seed"] for one in records["networks"]}):
            own = [one for one in records["networks"] if one["seed"] == seed]
            write_trained(store.folder, records | {"networks": own}, seeded(out, seed), seeded(small, seed))
        require_complete(records, f"controls {name}")


def _row_specs(plan: RowPlan, lego: Architecture) -> tuple[list[dict], list[Path]]:
    """(specs, the files they come from)."""
    from tamnas.records import best

    scratch, finetune = weights(plan.row, "start-scratch.json"), weights(plan.row, "start-finetune.safetensors")
    trained = seeded(results(plan.dataset, "retrain_scratch", plan.row), plan.seed) / "validation.json"
    chosen = best(read_json(trained)["networks"], plan.eval.weights)["id"]
    specs = row_jobs(plan, read_json(scratch)["networks"], chosen, lego, finetune)
    return specs, [scratch, finetune, trained]


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("scope", type=click.Choice(["row", "pooled"]))
@click.argument("name", metavar="ROW|DATASET")
@one_line_errors
def main(scope: str, name: str) -> None:
    run(scope, name)


if __name__ == "__main__":
    main()
