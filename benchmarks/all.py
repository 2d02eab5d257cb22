"""All benchmarks in one go, and docs/performance.md from what they measured.

    python -m benchmarks.all [--device cpu|cuda] [--row ROW] [--rehearse]

Figures go to benchmarks/results/<cpu or the GPU's name>/; the page is made from all that lie there. On a GPU, use a row
of the paper's geometry (`python -m tamnas.profile h200` first). --rehearse: tiny sizes, to see
that everything runs; writes to a temporary folder.
"""

import json
import re
import tempfile
from pathlib import Path

import click
import torch

from benchmarks import cpu_levers, floor, pgd_grid, scaling, search, side_by_side, training_step

RESULTS = Path("benchmarks/results")
PAGE = Path("docs/performance.md")
SIZES = {
    "cpu": {
        "training_step": ["--rounds=10"],
        "training_step_paper": ["--geometry=paper", "--batch=32", "--rounds=5"],
        "pgd_grid": ["--images=1000"],
        "search": ["--workers=1,2"],
        "scaling": ["--images=5000,10000,25000,50000", "--batches=32,64,128,256", "--rounds=1"],
        "side_by_side": [],
        "floor": [],
        "cpu_levers": [],
    },
    "cuda": {
        "training_step": ["--geometry=paper", "--batch=512", "--rounds=10"],
        "pgd_grid": ["--images=10000", "--epochs=5"],
        "search": ["--subnets=24", "--workers=1,2,4,8", "--epochs=5"],
        "scaling": ["--images=5000,10000,25000,50000", "--batches=128,256,512,1024", "--rounds=1"],
        "side_by_side": ["--workers=1,2,4,8", "--networks=8", "--epochs=3"],
        "floor": ["--batch=512"],
    },
}
TINY = {
    "training_step": ["--batch=4", "--rounds=1", "--networks=1"],
    "pgd_grid": ["--images=32", "--epochs=1"],
    "search": ["--subnets=2", "--epochs=1"],
    "scaling": ["--images=64,128", "--batches=16,32", "--populations=4,8", "--generations=1,2", "--rounds=1"],
    "side_by_side": ["--workers=1,2", "--networks=2", "--epochs=1"],
    "floor": ["--batch=4", "--rounds=1"],
}
MODULES = (training_step, pgd_grid, search, scaling, side_by_side, floor, cpu_levers)
MAINS = {module.__name__.removeprefix("benchmarks."): module.main for module in MODULES}


def run_all(where: str, row: str | None, sizes: dict[str, list[str]], folder: Path) -> None:
    for name, options in sizes.items():
        benchmark = MAINS[name.removesuffix("_paper")]
        arguments = [f"--device={where}", f"--out={folder / name}.json", *options]
        click.echo(f"## {name}\n")
        benchmark(arguments + ([f"--row={row}"] if row else []), standalone_mode=False)


def page(results: Path) -> str:
    """The measured tables of every device, as Markdown."""
    parts = [
        "# How fast tamnas is\n",
        "Written by `python -m benchmarks.all`. Every ratio compares two things that ran in turns in one process; "
        "on a shared CPU the ratios mean something and the milliseconds do not. What was tried, kept and dropped "
        "is in [log.md](log.md). Tables of the CPU: two cores of a shared machine.\n",
    ]
    for folder in sorted(results.iterdir()):
        found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        parts.append(f"## {found[0]['device']}\n")
        parts += [f"### {one['title']}\n\n{one['table']}\n\ntorch {one['torch']}, {one['commit']}\n" for one in found]
    return "\n".join(parts)


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--device", "where", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--row", help="A row of params.yaml.  [default: the first]")
@click.option("--rehearse", is_flag=True)
def main(where: str, row: str | None, rehearse: bool) -> None:
    if rehearse:
        folder = Path(tempfile.mkdtemp())
        run_all(where, row, TINY, folder / "rehearsal")
        click.echo(page(folder))
        return
    name = re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower() if where == "cuda" else "cpu"
    run_all(where, row, SIZES[where], RESULTS / name)
    PAGE.write_text(page(RESULTS))
    click.echo(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
