"""Random search with as many distinct evaluations as NSGA-II made: does the search earn its keep?

    python -m stages.random_search ROW

Reads its plan, the prepared data (train to recalibrate BatchNorm, validation to score),
runs/ROW/joint.safetensors and the search's hypervolume.csv (how many evaluations). Writes to
results/DATASET/random_search/ROW: random_search.json (whether it was run), hypervolume.csv and
individuals.csv. With controls.random_search off it evaluates nothing and says so.
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import RandomSearchStagePlan
from tamnas.files import FORMAT, read_csv, read_json, write_csv, write_json
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import prepared, results, runs
from tamnas.pipeline.stage import stage_run


@stage_command
def main(row: str) -> None:
    plan = RandomSearchStagePlan.load(row, "random_search")
    folder = results(plan.dataset, "random_search", row)
    with stage_run("random_search", plan) as checkpoints:
        if plan.run:
            from tamnas.search.random_search import run_random_search

            searched = results(plan.dataset, "search", row)
            latencies = read_json(path) if (path := searched / "latencies.json").exists() else None
            counts = [line["evaluated"] for line in read_csv(searched / "hypervolume.csv", {"evaluated"})]
            supernet, memo = runs(row, "joint.safetensors"), checkpoints / "evaluated.jsonl"
            tables = run_random_search(plan, latencies, counts, supernet, prepared(plan.dataset), load_compute(), memo)
            for name, rows in zip(("hypervolume.csv", "individuals.csv"), tables, strict=True):
                write_csv(folder / name, rows)
        else:
            click.echo(f"{row}: controls.random_search is off")
        write_json(folder / "random_search.json", {"format": FORMAT, "run": plan.run})


if __name__ == "__main__":
    main()
