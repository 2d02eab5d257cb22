"""Prepare one dataset: read its source, check it, split it, store it as arrays.

    python -m stages.prepare DATASET

Reads its plan and the dataset's source. Writes data/DATASET.npz (train, validation and test as uint8) and
results/DATASET/prepare/card.json (what is in it: counts, ranges, checksums, classes; what was left out or changed).
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import PrepareStagePlan
from tamnas.files import write_json
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import prepared, results
from tamnas.pipeline.stage import stage_run


@stage_command
def main(dataset: str) -> None:
    plan = PrepareStagePlan.load(dataset, "prepare")
    compute = load_compute()
    with stage_run("prepare", plan) as folder:
        from tamnas.data.prepare import prepare

        card = prepare(dataset, plan.data, prepared(dataset), compute, folder / "images")
        write_json(results(dataset, "prepare") / "card.json", card)
    sizes = ", ".join(f"{split} {part['images']:,}" for split, part in card["splits"].items())
    click.echo("\n  ".join([f"{prepared(dataset)}: {sizes}", *card["notes"]]))


if __name__ == "__main__":
    main()
