"""Random search with as many distinct evaluations as NSGA-II made: does the search earn its keep?

    python stages/random_search.py ROW

Reads plan/ROW.yaml, the prepared data (train to recalibrate BatchNorm, validation to score),
runs/ROW/joint.safetensors and the search's hypervolume.csv (how many evaluations). Writes to
results/DATASET/random_search/ROW: random_search.json (whether it was run), hypervolume.csv and
individuals.csv. With controls.random_search off it evaluates nothing and says so.
"""

import csv
from pathlib import Path

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import RowPlan, load_row
from tamnas.files import FORMAT, write_csv, write_json
from tamnas.pipeline.paths import prepared, results, weights
from tamnas.pipeline.stage import one_line_errors, stage_run, timed
from tamnas.pipeline.store import locked


def run(row: str) -> None:
    plan = load_row(row)
    folder = results(plan.dataset, "random_search", row)
    if plan.controls.random_search:
        _search(plan, folder)
    else:
        with locked("random_search", row), timed("random_search", row):
            _say(plan, folder)
            click.echo(f"{row}: controls.random_search is off")


def _say(plan: RowPlan, folder: Path) -> None:
    write_json(folder / "random_search.json", {"format": FORMAT, "run": plan.controls.random_search})


def _search(plan: RowPlan, folder: Path) -> None:
    from tamnas.search.random_search import run_random_search  # here, because torch takes seconds to import

    data, joint = prepared(plan.dataset), weights(plan.row, "joint.safetensors")
    found = results(plan.dataset, "search", plan.row) / "hypervolume.csv"
    parameters = {
        "seed": plan.seed, "network": plan.network.plain(), "space": plan.space.plain(),
        "search": plan.search.plain(), "batch_size": plan.supernet.joint.recipe.batch_size,
        "augment": plan.data.augment.plain(), "numerics": plan.numerics.plain(),
    }  # fmt: skip
    with stage_run(__file__, plan.row, parameters, [data, joint, found]) as store:
        with found.open(newline="", encoding="utf-8") as file:
            counts = [int(line["evaluated"]) for line in csv.DictReader(file)]
        path = store.folder / "evaluated.jsonl"
        rows, individuals = run_random_search(plan, counts, joint, data, load_compute(), path)
        write_csv(folder / "hypervolume.csv", rows)
        write_csv(folder / "individuals.csv", individuals)
        _say(plan, folder)


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("row")
@one_line_errors
def main(row: str) -> None:
    run(row)


if __name__ == "__main__":
    main()
