"""Write the reports: tables, figures, metrics, plots, the page and its README.

    python stages/tables.py

Reads plan/ (which rows and datasets there are) and results/. Writes reports/ anew: tables/*.md, .csv and .tex,
figures/*.svg and .png, plots/*.csv, metrics.json, index.html and README.md.
"""

from pathlib import Path

import click

from tamnas.pipeline.stage import one_line_errors
from tamnas.pipeline.store import locked


def run(folder: str = "reports") -> None:
    with locked("tables", "run"):
        from tamnas.report.build import build, write  # here, because matplotlib takes seconds to import
        from tamnas.report.collect import collect

        files = build(collect())
        write(files, Path(folder))
    click.echo(f"{folder}: {len(files)} files")


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@one_line_errors
def main() -> None:
    run()


if __name__ == "__main__":
    main()
