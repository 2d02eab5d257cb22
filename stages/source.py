"""Link to a dataset's own images, so that DVC compares their contents and a change re-runs what reads them.

    python -m stages.source DATASET

Reads its plan. Writes source/DATASET/files: a link to `data.DATASET.path`, or a line of text where the source checks
its files by itself, or has none.
"""

import click

from tamnas.config.plan import SourceStagePlan
from tamnas.data.sources import watch
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import watched
from tamnas.pipeline.stage import exclusive


@stage_command
def main(dataset: str) -> None:
    plan = SourceStagePlan.load(dataset, "source")
    with exclusive("source", dataset):
        click.echo(f"{watched(dataset)}: {watch(dataset, plan, watched(dataset))}")


if __name__ == "__main__":
    main()
