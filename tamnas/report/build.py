"""All files of reports/, as bytes by path, and writing them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tamnas.files import remove, write_bytes
from tamnas.report.claims.claims import claims_page
from tamnas.report.figures.pictures import pictures
from tamnas.report.metrics import curves_csv, hypervolume_csv, metrics
from tamnas.report.page.page import html, readme
from tamnas.report.study import Dataset
from tamnas.report.tables.contents import all_tables
from tamnas.report.tables.table import latex, markdown, to_csv


def report_files(datasets: Sequence[Dataset]) -> dict[str, bytes]:
    """Path below reports/ -> contents; the same results give the same bytes."""
    tables, drawn = all_tables(datasets), pictures(datasets)
    texts = {
        "index.html": html(datasets, tables, drawn),
        "README.md": readme(datasets, tables, drawn),
        "claims.md": claims_page(datasets),
        "metrics.json": json.dumps(metrics(datasets), indent=1) + "\n",
        "plots/hypervolume.csv": hypervolume_csv(datasets),
        "plots/curves.csv": curves_csv(datasets),
    }
    for table in tables:
        for suffix, form in (("md", markdown), ("csv", to_csv), ("tex", latex)):
            texts[f"tables/{table.name}.{suffix}"] = form(table)
    files = {name: text.encode() for name, text in texts.items()}
    for picture in drawn:
        files |= {f"figures/{picture.name}.svg": picture.svg, f"figures/{picture.name}.png": picture.png}
    return files


def write_reports(files: Mapping[str, bytes], folder: Path) -> None:
    """Replace what this stage owns in `folder`; nothing of an earlier run stays in its subfolders."""
    for name in sorted({Path(name).parts[0] for name in files if "/" in name}):
        remove(folder / name)
    for name, contents in files.items():
        write_bytes(folder / name, contents)
