"""A table as a value, and its forms: Markdown, CSV and LaTeX (the page writes its own HTML).

A cell holds a measured value, a published one beside it, or text. Each form marks the best
measured value of a column in bold.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from tamnas.files import csv_text

DASH = "–"


@dataclass(frozen=True)
class Column:
    """`kind`: text, count (thousands), millions (of parameters), percent (values are shares) or number.

    `better` is max or min where a best value makes sense. `key` names the column in the CSV,
    `latex` its heading there.
    """

    key: str
    title: str
    kind: str = "text"
    better: str | None = None
    latex: str | None = None


@dataclass(frozen=True)
class Value:
    """`measured` in the column's unit or None; `paper` as printed: percent, millions.

    `interval`: 95%, in the unit of `measured`; `spread`: (sample standard deviation, how many seeds
    `measured` is the mean of); `at_chance`: of a network that learnt nothing, so never the best of its column.
    """

    measured: float | int | str | None = None
    paper: float | None = None
    text: str | None = None  # stands in the measured value's place, e.g. "not run"
    interval: tuple[float, float] | None = None
    spread: tuple[float, int] | None = None
    at_chance: bool = False


@dataclass(frozen=True)
class Table:
    """`dataset`: in whose chapter it stands, None for a chapter of its own; `of_paper`: one of the paper's ten.

    `images`: how many test images its accuracies are of; `validation_images` where some are of validation images.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    notes: Sequence[str] = ()
    dataset: str | None = None
    of_paper: bool = False
    images: int | None = None
    validation_images: int | None = None

    @classmethod
    def of(
        cls, name: str, title: str, lines: Sequence[Mapping[Column, Value | str | float | None]], *rest, **more
    ) -> Self:
        """From lines of the same columns, each {column: cell}; a plain cell is a measured value."""
        rows = [[cell if isinstance(cell, Value) else Value(cell) for cell in line.values()] for line in lines]
        return cls(name, title, list(lines[0]) if lines else [], rows, *rest, **more)

    def _columns_with(self, attribute: str) -> frozenset[int]:
        return frozenset(i for row in self.rows for i, value in enumerate(row) if getattr(value, attribute) is not None)

    @property
    def best(self) -> frozenset[tuple[int, int]]:
        """(row, column) of the best measured values, as shown; none where fewer than two were measured."""
        places = set()
        for i, column in enumerate(self.columns):
            measured = {j: row[i].measured for j, row in enumerate(self.rows) if not row[i].at_chance}
            shown = {
                j: _rounded(value, column.kind) for j, value in measured.items() if isinstance(value, (int, float))
            }
            if column.better and len(shown) > 1:
                target = (max if column.better == "max" else min)(shown.values())
                places |= {(j, i) for j, value in shown.items() if value == target}
        return frozenset(places)

    def cells(self) -> Iterator[list[tuple[Column, str, list[str], bool]]]:
        """Rows of (column, measured value as text, what stands beside it, whether it is the best)."""
        best = self.best
        for j, row in enumerate(self.rows):
            yield [
                (column, show(value, column.kind), beside(value, column.kind), (j, i) in best)
                for i, (column, value) in enumerate(zip(self.columns, row, strict=True))
            ]


def _rounded(value: float, kind: str) -> float:
    return round(100 * value, 2) if kind == "percent" else round(value / 1e6, 4) if kind == "millions" else value


def show(value: Value, kind: str) -> str:
    """The measured value as text."""
    measured = value.measured
    if measured is None:
        return value.text or DASH
    if isinstance(measured, str):
        return measured
    if kind == "percent":
        return f"{100 * measured:.2f}" + (f" ± {100 * value.spread[0]:.2f}" if value.spread else "")
    if kind == "millions":
        return f"{measured / 1e6:.4f}M"
    return f"{measured:,}" if kind == "count" else f"{measured:.4g}" if kind == "number" else str(measured)


def beside(value: Value, kind: str) -> list[str]:
    """Of those that it has: the interval, `[89.6, 95.0]`, "at chance", and the published value, `(paper 31.01)`."""
    parts = []
    if value.interval is not None:
        low, high = value.interval
        parts.append(f"[{100 * low:.1f}, {100 * high:.1f}]" if kind == "percent" else f"[{low:.2f}, {high:.2f}]")
    if value.at_chance:
        parts.append("at chance")
    if value.paper is not None and kind == "millions":
        # The paper prints its own networks' sizes with four decimals, others' with two.
        digits = 2 if round(value.paper, 2) == value.paper else 4
        parts.append(f"(paper {value.paper:.{digits}f}M)")
    elif value.paper is not None:  # accuracies with two decimals or more
        parts.append(f"(paper {max(f'{value.paper:g}', f'{value.paper:.2f}', key=len)})")
    return parts


def markdown(table: Table) -> str:
    """With the title as a heading and the notes as a list."""

    def cell(_, shown: str, more: list[str], best: bool) -> str:
        text = shown.replace("|", "\\|")
        return " ".join([f"**{text}**" if best else text, *more])

    rule = ["---" if column.kind == "text" else "---:" for column in table.columns]
    lines = [[column.title for column in table.columns], rule]
    lines += [[cell(*shown) for shown in row] for row in table.cells()]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = "".join(f"- {note}\n" for note in table.notes)
    return f"# {table.title}\n\n{text}" + (f"\n{notes}" if notes else "")


def to_csv(table: Table) -> str:
    """Percent and counts as numbers. A published value has a column of its own, `<key>_paper`; an interval
    two, `<key>_low` and `<key>_high`; a mean over seeds `<key>_sd` and `<key>_seeds`.

    Where a row was not measured, `status` says why.
    """
    papers, intervals, spreads = (table._columns_with(name) for name in ("paper", "interval", "spread"))
    counts = {"images": table.images, "validation_images": table.validation_images}
    some_missing = any(value.text for row in table.rows for value in row)
    lines = []
    for row in table.rows:
        line = {name: count for name, count in counts.items() if count}
        for i, (column, value) in enumerate(zip(table.columns, row, strict=True)):
            line[column.key] = _plain(value.measured, column.kind)
            if i in papers:
                line[f"{column.key}_paper"] = value.paper
            if i in intervals:
                for end, bound in zip(("low", "high"), value.interval or (None, None), strict=True):
                    line[f"{column.key}_{end}"] = _plain(bound, column.kind)
            if i in spreads:
                deviation, seeds = value.spread or (None, None)
                line |= {f"{column.key}_sd": _plain(deviation, column.kind), f"{column.key}_seeds": seeds}
        if some_missing:
            line["status"] = next((value.text for value in row if value.text), "measured")
        lines.append(line)
    return csv_text(lines)


def _plain(value: float | str | None, kind: str) -> float | str | None:
    return round(100 * value, 4) if kind == "percent" and isinstance(value, (int, float)) else value


_ESCAPES = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
            "^": r"\^{}", "~": r"\~{}", "$": r"\$", DASH: "--", "×": r"$\times$", "±": r"$\pm$", "−": "$-$",
            "²": r"\textsuperscript{2}"}  # fmt: skip


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def latex(table: Table) -> str:
    """A table float for booktabs; intervals and published values in smaller lines below a cell's text."""

    def cell(_, shown: str, more: list[str], best: bool) -> str:
        text = rf"\textbf{{{escape(shown)}}}" if best else escape(shown)
        lines = r" \\ ".join([text, *(rf"{{\scriptsize {escape(part)}}}" for part in more)])
        return rf"\shortstack[r]{{{lines}}}" if more else text

    align = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    lines = [column.latex or escape(column.title) for column in table.columns]
    body = [" & ".join(cell(*shown) for shown in row) + r" \\" for row in table.cells()]
    return "\n".join(
        [
            "% needs booktabs and graphicx",
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{escape(table.title)}}}",
            rf"\label{{tab:{table.name}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(lines) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *(rf"\par\smallskip{{\footnotesize {escape(note)}\par}}" for note in table.notes),
            r"\end{table*}",
            "",
        ]
    )
