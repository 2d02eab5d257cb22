from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from tamnas.cli.output import json_option, print_json, print_table
from tamnas.errors import InputError
from tamnas.pipeline.command import one_line_errors

if TYPE_CHECKING:
    from tamnas.release.card import Card, Measured
    from tamnas.report.intervals import Interval
    from tamnas.report.tables.table import Table


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@json_option
@one_line_errors
def compare(a: str, b: str, as_json: bool) -> None:
    """Put two networks or two runs side by side: A, B, and B minus A, with 95% intervals.

    A network is a released one (digits/lego), its file, or one of the run here (digits-base/n07). A run is a folder
    with plan/ and results/, such as another checkout; its final networks are compared by name. Intervals of differences
    take the two as measured on independent samples of images (Newcombe): on the same images they are on the safe side.
    They do not cover training: the same network trained with another seed differs, too.
    """
    from tamnas.release.references import cards

    left, right = cards(a), cards(b)
    if len(left) == len(right) == 1:
        pairs = list(zip(left.values(), right.values(), strict=True))
    else:
        pairs = [(card, right[name]) for name, card in left.items() if name in right]
    if not pairs:
        raise InputError(f"{a} and {b} have no network in common: {', '.join(left)}; {', '.join(right)}")
    for first, second in pairs:
        if first.dataset != second.dataset:
            raise InputError(f"{a} was measured on {first.dataset}, {b} on {second.dataset}; allowed: the same dataset")
    if as_json:
        return print_json([_comparison(*pair) for pair in pairs])
    for first, second in pairs:
        print_table(_table(first, second, a, b))


def _differences(first: "Card", second: "Card") -> Iterator[tuple["Measured", "Measured", "Interval"]]:
    """(figure of the first, of the second, second minus first) of each attack that both know."""
    from tamnas.report.intervals import newcombe

    for figure in first.figures:
        if other := second.by_attack.get(figure.attack):
            yield figure, other, newcombe(other.accuracy, figure.accuracy, other.images, figure.images)


def _comparison(first: "Card", second: "Card") -> dict:
    differences = [
        {"attack": figure.attack, "a": figure.json(), "b": other.json(), "difference": vars(difference)}
        for figure, other, difference in _differences(first, second)
    ]
    sizes = {size: {"a": getattr(first, size), "b": getattr(second, size)} for size in ("parameters", "macs")}
    same_setting = _setting(first, second) == _setting(second, first)
    same = {"same_images": _same_images(first, second), "same_setting": same_setting}
    return {"a": first.name, "b": second.name, **sizes, **same, "accuracies": differences}


def _setting(card: "Card", other: "Card") -> list[str]:
    """Without the lines of attacks that the other network was not measured under."""
    alone = card.by_attack.keys() - other.by_attack.keys()
    return [line for line in card.setting if not any(attack.startswith(line.partition(":")[0]) for attack in alone)]


def _same_images(first: "Card", second: "Card") -> bool:
    return first.test_sha256 == second.test_sha256


def _table(first: "Card", second: "Card", a: str, b: str) -> "Table":
    from tamnas.report.tables.table import Column, Table

    columns = Column("what", ""), Column("a", f"A: {first.name}"), Column("b", f"B: {second.name}")
    difference = Column("difference", "B minus A")
    lines = [
        dict(zip((*columns, difference), (what, f"{value:,}", f"{other:,}", f"{other - value:+,}"), strict=True))
        for what, value, other in (
            ("parameters", first.parameters, second.parameters),
            ("multiply-accumulates", first.macs, second.macs),
        )
    ]
    lines += [
        {
            columns[0]: "clean (%)" if figure.attack == "none" else f"{figure.attack} (%)",
            columns[1]: figure.text,
            columns[2]: other.text,
            difference: points.points,
        }
        for figure, other, points in _differences(first, second)
    ]
    notes = [
        f"A: {a}, {first.title}. B: {b}, {second.title}. n = {first.images['test']:,} and {second.images['test']:,}."
    ]
    of_a, of_b = _setting(first, second), _setting(second, first)
    notes += [f"A alone: {line}" for line in of_a if line not in of_b]
    notes += [f"B alone: {line}" for line in of_b if line not in of_a]
    if not _same_images(first, second):
        notes.append("The two were measured on different test images.")
    return Table.of("comparison", f"{first.name} and {second.name}", lines, notes)
