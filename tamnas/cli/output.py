"""What commands print: tables with bars for people, JSON for scripts."""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.bar import Bar
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from tamnas.report.tables.table import Column, Table, Value

if TYPE_CHECKING:
    from tamnas.release.card import Card

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")
WIDTH = 24  # of a bar, in characters


def print_json(plain) -> None:
    """With null for NaN and infinities, which JSON has not."""
    click.echo(json.dumps(json.loads(json.dumps(plain), parse_constant=lambda _: None), indent=1))


def make_console() -> Console:
    known_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if known_width else 200)  # into a file or pipe: whole lines


def print_table(table: Table, bars: tuple[str, Sequence[Bar]] | None = None) -> None:
    """With the notes below; `bars`: a last column with its title, a bar for each row."""
    drawn = RichTable(box=None, pad_edge=False)
    for index, column in enumerate(table.columns):
        justify = "left" if column.kind == "text" else "right"
        drawn.add_column(escape(column.title), justify=justify, no_wrap=index == 0)  # names stay whole
    if bars:
        drawn.add_column(escape(bars[0]))
    for index, row in enumerate(table.cells()):
        cells = [" ".join([f"[bold]{escape(text)}[/]" if best else escape(text), *map(escape, more)])
                 for _, text, more, best in row]  # fmt: skip
        drawn.add_row(*cells, *([bars[1][index]] if bars else []))
    console = make_console()
    console.print(escape(table.title), style="bold", soft_wrap=True)
    console.print(drawn)
    for note in table.notes:
        console.print(escape(note), style="dim", soft_wrap=True)


def interval_bars(values: Sequence[Value]) -> tuple[str, list[Bar]]:
    """(title, a bar over the interval of each accuracy), on an axis that starts at ten percent below the lowest."""
    start = int(10 * min(value.interval[0] for value in values)) / 10
    bars = [Bar(1 - start, value.interval[0] - start, value.interval[1] - start, width=WIDTH) for value in values]
    return f"{100 * start:.0f} to 100%", bars


def bars_up_to(most: float, values: Sequence[float]) -> tuple[str, list[Bar]]:
    """(title, a bar as long as each value), on an axis from 0 to `most`."""
    return f"of {most:g}", [Bar(most, 0, value, width=WIDTH) for value in values]


def print_cards(title: str, cards: "Sequence[Card]") -> None:
    """A line for each network: clean, under the attack that stands for robustness, and the lowest accuracy of all."""
    lines = []
    for card in cards:
        worst = min(card.figures, key=lambda figure: figure.accuracy)
        lines.append(
            {
                Column("name", "Name"): card.name,
                Column("parameters", "Parameters", "count"): card.parameters,
                Column("clean", "Clean (%)", "percent"): card.figures[0].value,
                Column("robust", "Robust (%)", "percent"): card.by_attack[card.reference].value,
                Column("worst", "Lowest (%)", "percent"): worst.value,
                Column("attack", "of"): worst.attack,
            }
        )
    by = " or ".join(dict.fromkeys(card.reference for card in cards))
    notes = [
        f"Robust: {by}. In brackets: 95% intervals over test images.",
        "Lowest: of the attacks that a network met; PGD alone leaves more than AutoAttack would.",
    ]
    print_table(Table.of("networks", title, lines, notes if cards else []))
