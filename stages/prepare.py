"""Prepare one dataset: read its source, check it, split it, store it as arrays.

    python stages/prepare.py DATASET

Reads plan/DATASET.yaml and the dataset's source. Writes data/DATASET.npz (train, validation
and test as uint8) and results/DATASET/prepare/card.json (what is in it: counts, checksums, classes).
"""

import click

from tamnas.config.plan import load_dataset
from tamnas.files import write_json
from tamnas.pipeline.paths import prepared, results
from tamnas.pipeline.stage import one_line_errors, timed
from tamnas.pipeline.store import locked


def run(dataset: str) -> None:
    data = load_dataset(dataset).data
    with locked("prepare", dataset), timed("prepare", dataset):
        from tamnas.data.prepare import prepare  # here, because torch takes seconds to import

        card = prepare(dataset, data, prepared(dataset))
        write_json(results(dataset, "prepare") / "card.json", card)
    sizes = ", ".join(f"{split} {part['images']:,}" for split, part in card["splits"].items())
    click.echo(f"{prepared(dataset)}: {sizes}")


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("dataset")
@one_line_errors
def main(dataset: str) -> None:
    run(dataset)


if __name__ == "__main__":
    main()
