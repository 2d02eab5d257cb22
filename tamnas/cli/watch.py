import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tamnas.cli.output import WIDTH, json_option, make_console, print_json
from tamnas.files import csv_text, write_text
from tamnas.pipeline.command import one_line_errors

if TYPE_CHECKING:
    from tamnas.pipeline.live import Counter, Ended, SearchState, Work

REFRESH_SECONDS = 1
GAP_SECONDS = 60  # between two stages DVC hashes and copies; after so long without one, the run is taken to have ended
LAST = "tables"  # the stage that ends a run
CURVES = {
    "loss": "training loss",
    "train_clean": "training, clean",
    "train_robust": "training, under attack",
    "validation_clean": "validation, clean",
    "validation_robust": "validation, under attack",
}
CURVES_FILE, FRONT_FILE = Path("live/curves/now.csv"), Path("live/front/now.csv")  # in folders that dvc.yaml plots
NETWORKS, FRONT = 4, 12  # shown at most
SPARKS = "▁▂▃▄▅▆▇█"


@click.command()
@click.option("--plots", is_flag=True, help="Write live/ as well, which `dvc plots show` draws.")
@json_option
@one_line_errors
def watch(plots: bool, as_json: bool) -> None:
    """Watch the study that runs in this checkout, by `dvc repro` or `tamnas run`, until it ends.

    Shows each stage at work with the time it has left, the curves of networks in training (as of their last
    checkpoint) and the front of a search. Ctrl-C ends the watch, not the run. With --json, or where the output is no
    terminal, the state is printed once.
    """
    from tamnas.pipeline.live import ended, works

    if plots and not as_json:
        click.echo("`dvc plots show` draws it, too.")
    if sys.stdout.isatty() and not as_json:
        try:
            return _follow(make_console(), plots)
        except KeyboardInterrupt:
            return click.echo("The run goes on; `tamnas watch` shows it again.")
    now, lines = works(), ended()
    if plots:
        _write_plots(now)
    if as_json:
        return print_json({"stages": [work.plain() for work in now], "ended": [vars(line) for line in lines]})
    make_console().print(_view(now, lines[-1:]))


def _follow(console: Console, plots: bool = False) -> None:
    """Until a run's last stage ended, or none has been at work for `GAP_SECONDS`."""
    from tamnas.pipeline.live import ended, works

    before, seen = len(ended()), time.monotonic()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            now, lines = works(), ended()
            if plots:
                _write_plots(now)
            at_work = any(work.alive for work in now)
            seen = time.monotonic() if at_work else seen
            left = GAP_SECONDS - (time.monotonic() - seen)
            is_over = not at_work and (left <= 0 or any(line.stage == LAST for line in lines[before:]))
            waits = "" if at_work or is_over else f" Waiting {left:.0f} s for one to start."
            live.update(_view(now, lines[before:][-5:] or lines[-1:], waits), refresh=True)
            if is_over:
                return
            time.sleep(REFRESH_SECONDS)


def _write_plots(works: "Sequence[Work]") -> None:
    """The curves and fronts of all stages at work; without any, no file."""
    at_work = [work for work in works if work.alive]
    curves = [
        {"run": f"{work.name} {network}"} | {column: row.get(column) for column in ("epoch", *CURVES)}
        for work in at_work
        for network, history in work.curves.items()
        for row in history
    ]
    front = [
        {"run": work.name} | {column: row[column] for column in ("parameters", "clean", "robust")}
        for work in at_work
        if work.evaluated
        for row in work.evaluated.front
    ]
    for path, text in ((CURVES_FILE, csv_text(curves)), (FRONT_FILE, csv_text(front))):
        if not text:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_text() != text:
            write_text(path, text)


def _view(works: "Sequence[Work]", ended: "Sequence[Ended]", waits: str = "") -> RenderableType:
    """All stages at work or killed, then the last ones that `ended`; one line where none is at work."""
    parts: list[RenderableType] = [part for work in works for part in (*_work(work), "")]
    lines = [
        f"{line.stage} {line.instance} ended at {line.at.replace('T', ' ')} after {_span(line.seconds)}"
        for line in ended
    ]
    if any(work.alive for work in works):
        parts += [Text(line, style="dim") for line in lines]
    else:
        last = f" {lines[-1]}." if lines else ""
        parts.append(Text(f"No stage is at work here.{last}{waits}"))
    return Group(*parts)


def _work(work: "Work") -> list[RenderableType]:
    if not work.alive:
        where = ", ".join(f"{counter.what} {counter.done}/{counter.total}" for counter in work.progress)
        return [Text(f"{work.name} was killed{f' at {where}' if where else ''}; the next run goes on", style="red")]
    title = Text.assemble((work.name, "bold"), f"  at work for {_span(time.time() - work.started)}")
    parts: list[RenderableType] = [title]
    if work.progress:
        grid = Table.grid(padding=(0, 2))
        for counter in [*work.progress, *work.training[:NETWORKS]]:
            grid.add_row(*_counter(counter))
        parts.append(grid)
    newest = sorted(work.curves.items(), key=lambda item: len(item[1]))[:NETWORKS]
    parts += [_curves(name, history) for name, history in newest]
    if len(work.curves) > NETWORKS:
        parts.append(Text(f"and {len(work.curves) - NETWORKS} more in training", style="dim"))
    if work.evaluated:
        parts += _front(work.evaluated)
    return parts


def _counter(counter: "Counter") -> list[RenderableType]:
    left = "" if counter.seconds_left is None else f"{_span(counter.seconds_left)} left"
    bar = ProgressBar(max(counter.total, 1), counter.done, width=WIDTH)
    notes = ", ".join(f"{name} {value}" for name, value in counter.notes.items())
    return [escape(counter.what), bar, f"{counter.done}/{counter.total}", left, notes]


def _curves(name: str, history: list[dict]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for column, title in CURVES.items():
        values = [row[column] for row in history if row.get(column) is not None]
        if values:
            last = f"{values[-1]:.3f}" if column == "loss" else f"{100 * values[-1]:.1f}%"
            grid.add_row(Text(name, style="cyan"), title, _sparkline(values), last, f"epoch {len(history)}")
            name = ""
    return grid


def _front(search: "SearchState") -> list[RenderableType]:
    """Robust accuracy as a bar beside each network's size: the front, lying on its side."""
    from tamnas.search.front import spread  # here: most stages have no front

    title = f"{len(search.front)} of {search.count} networks are on the front; most robust "
    best = search.best_robust
    grid = Table(box=None, pad_edge=False)
    for column in ("Parameters", "Clean (%)", "Robust (%)"):
        grid.add_column(column, justify="right")
    grid.add_column("0 to 100%")
    for index in spread(len(search.front), FRONT):
        row = search.front[index]
        bar = Bar(1, 0, row["robust"], width=WIDTH)
        grid.add_row(f"{row['parameters']:,}", f"{100 * row['clean']:.1f}", f"{100 * row['robust']:.1f}", bar)
    return [Text.assemble(title, _sparkline(best), f" {100 * best[-1]:.1f}%"), grid]


def _sparkline(values: Sequence[float]) -> str:
    """At most `WIDTH` characters, from the lowest of the values to the highest; those that are no number are `!`."""
    step = max(1, -(-len(values) // WIDTH))
    shown = values[::-1][::step][::-1]  # the last one always
    finite = [value for value in shown if abs(value) < float("inf")]
    low, span = (min(finite), max(finite) - min(finite)) if finite else (0.0, 0.0)
    top = len(SPARKS) - 1
    return "".join(
        "!" if not abs(value) < float("inf") else SPARKS[round(top * (value - low) / span) if span else 0]
        for value in shown
    )


def _span(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:05:09."""
    return str(timedelta(seconds=round(seconds)))
