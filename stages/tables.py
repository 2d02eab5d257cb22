"""Write the reports: tables, figures, metrics, plots, the page and its README.

    python -m stages.tables

Reads plan/tables.yaml (which rows and datasets there are) and results/; under DVC, whether they belong together
(dvc.lock). Writes reports/ anew: tables/*.md, .csv and .tex, figures/*.svg and .png, plots/*.csv, metrics.json,
index.html, claims.md and README.md.
"""

from pathlib import Path

import click

from tamnas.pipeline.command import stage_command
from tamnas.pipeline.stage import exclusive

FOLDER = Path("reports")


@stage_command
def main() -> None:
    with exclusive("tables"):
        from tamnas.report.build import report_files, write_reports
        from tamnas.report.collect import collect
        from tamnas.report.locked import require_plans_of_results

        require_plans_of_results()
        files = report_files(collect())
        write_reports(files, FOLDER)
    click.echo(f"{FOLDER}: {len(files)} files")


if __name__ == "__main__":
    main()
