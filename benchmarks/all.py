"""All benchmarks in one go, and docs/performance.md from what they measured.

    python -m benchmarks.all [--device cpu|cuda] [--row ROW] [--only NAME ...] [--rehearse | --page]

Figures go to benchmarks/results/<cpu or the GPU's name>/; the page is made from all that lie there,
after every benchmark. A benchmark that cannot run (torchattacks or the row's images are not there)
or fails is told and left out, and the exit code is 1. On a GPU, use a row of the paper's geometry
(`tamnas profile h200` first). --rehearse: tiny sizes, to see that everything runs; writes
to a temporary folder. --page: measure nothing, write the page anew.
"""

import re
import sys
import tempfile
import traceback
from pathlib import Path

import click
import torch

from benchmarks import cluster, pgd_grid, precision, search, supernet_epoch, training_step
from benchmarks.page import page
from tamnas.errors import InputError
from tamnas.pipeline.command import help_of, one_line_errors
from tamnas.pipeline.jobs import kept_workers

RESULTS = Path("benchmarks/results")
PAGE = Path("docs/performance.md")
# The targets first: where time is short, the rest may be cut off.
SIZES = {
    "cpu": {
        "training_step_32": ["--size=32", "--batch=128", "--rounds=5"],
        "training_step_paper": ["--geometry=paper", "--batch=128", "--rounds=3", "--networks=2"],
        "training_step": ["--rounds=10"],
        "pgd_grid": ["--images=1000"],
        "search": ["--workers=1,2"],
        "supernet_epoch": ["--images=5000"],
        "precision": [],
        "cluster": [],
    },
    # One round of the long ones: a GPU is lent by the minute, and its times repeat better than a shared CPU's.
    "cuda": {
        "training_step": ["--geometry=paper", "--batch=512", "--rounds=10"],
        "supernet_epoch": ["--geometry=paper", "--images=50000", "--batch=512"],
        "search": ["--subnets=24", "--workers=1,2,4,8", "--epochs=5", "--rounds=1"],
        "pgd_grid": ["--images=10000", "--rounds=1"],
        "precision": [],
        "cluster": ["--workers=1", "--batch=256"],
    },
}
TINY = {
    "training_step": ["--batch=4", "--rounds=1", "--networks=1"],
    "pgd_grid": ["--images=32", "--epochs=1", "--steps=1,2", "--rounds=1"],
    "search": ["--subnets=2", "--epochs=1", "--rounds=1"],
    "supernet_epoch": ["--images=8", "--batch=4", "--rounds=1"],
    "precision": ["--epochs=1", "--seeds=2"],
    "cluster": ["--workers=1", "--seconds=0.1", "--batch=2", "--schedule=64"],
}
MODULES = (training_step, pgd_grid, search, supernet_epoch, precision, cluster)
MAINS = {module.__name__.removeprefix("benchmarks."): module.main for module in MODULES}


def of(name: str) -> str:
    """The benchmark of a key of SIZES, which may say more behind it."""
    return next(benchmark for benchmark in MAINS if name.startswith(benchmark))


def run_all(where: str, row: str | None, sizes: dict[str, list[str]], folder: Path, written=lambda: None) -> list[str]:
    """Run the benchmarks of `sizes` into `folder`, `written()` after each; returns the names of those left out."""
    left_out = []
    for name, options in sizes.items():
        click.echo(f"## {name}\n")
        arguments = [f"--device={where}", f"--out={folder / name}.json", *options, *([f"--row={row}"] if row else [])]
        try:
            MAINS[of(name)](arguments, standalone_mode=False)
        except SystemExit as error:  # what went wrong was told in a line
            if isinstance(error.code, str):
                click.echo(error.code, err=True)
        except Exception:  # of one benchmark: time on a GPU is too dear to lose the others
            traceback.print_exc()
        else:
            written()
            continue
        click.echo(f"{name}: left out\n", err=True)
        left_out.append(name)
    return left_out


@click.command(help=help_of(__doc__))
@click.option("--device", "where", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--row", help="A row of params.yaml.  [default: the first]")
@click.option("--only", multiple=True, type=click.Choice(list(TINY)), help="This benchmark alone; again for more.")
@click.option("--rehearse", is_flag=True)
@click.option("--page", "page_only", is_flag=True)
@one_line_errors
def main(where: str, row: str | None, only: tuple[str, ...], rehearse: bool, page_only: bool) -> None:
    def chosen(sizes: dict[str, list[str]]) -> dict[str, list[str]]:
        return {name: options for name, options in sizes.items() if not only or of(name) in only}

    def write_page() -> None:
        PAGE.write_text(page(RESULTS))

    left_out: list[str] = []
    if where == "cuda" and not torch.cuda.is_available():
        raise InputError("--device is 'cuda': this machine has no CUDA device; allowed: cpu")
    if rehearse:
        folder = Path(tempfile.mkdtemp())
        with kept_workers():
            left_out = run_all(where, row, chosen(TINY), folder / "rehearsal")
        click.echo(page(folder))
    elif page_only:
        write_page()
    else:
        name = re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower() if where == "cuda" else "cpu"
        left_out = run_all(where, row, chosen(SIZES[where]), RESULTS / name, write_page)
    if not rehearse:
        click.echo(f"wrote {PAGE}")
    if left_out:
        click.echo(f"left out: {', '.join(left_out)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
