"""Prepare one dataset: read its source, check it, split it, store it as arrays.

    python -m stages.prepare DATASET

Reads its plan and the dataset's source. Writes data/DATASET.npz (train, validation and test as uint8) and
results/DATASET/prepare/card.json (what is in it: counts, checksums, classes).
"""

import click

from tamnas.config.plan import PrepareStagePlan
from tamnas.files import write_json
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import prepared, results
from tamnas.pipeline.stage import stage_run


@stage_command
def main(dataset: str) -> None:
    plan = PrepareStagePlan.load(dataset, "prepare")
    with stage_run("prepare", plan):
        from tamnas.data.prepare import prepare

        card = prepare(dataset, plan.data, prepared(dataset))
        write_json(results(dataset, "prepare") / "card.json", card)
    sizes = ", ".join(f"{split} {part['images']:,}" for split, part in card["splits"].items())
    click.echo(f"{prepared(dataset)}: {sizes}")


if __name__ == "__main__":
    main()
