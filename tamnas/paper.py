"""The published numbers of TAM-NAS (paper.csv), and where they contradict each other (paper.md).

Source: Guoyang Xie, Jinbao Wang, Guo Yu, Feng Zheng, Yaochu Jin, "Tiny Adversarial
Multi-Objective Oneshot Neural Architecture Search", Tables I to X. Values are as printed,
misprints included. Sizes are in millions of parameters, accuracies in percent. A grid is keyed by
(eps x 255, PGD steps): (8, 10) is PGD-10 at 8/255, `8@10` in paper.csv, where `-` is a dash of the paper's.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

EPS = (2, 4, 6, 8)  # over 255
STEPS = (10, 30, 50)


@dataclass(frozen=True)
class Published:
    """One row of a results table. `mode` as in params.yaml, or the name of a hand-made network."""

    mode: str
    size: float
    clean: float
    grid: Mapping[tuple[int, int], float | None] = field(hash=False)  # None: a dash in the paper
    lego: bool = False

    @property
    def label(self) -> str:
        return f"Lego-Net {self.mode}" if self.lego else self.mode


@dataclass(frozen=True)
class TablePaper:
    """A results table (II to VI, VIII to X); titles are ours."""

    title: str
    dataset: str
    rows: tuple[Published, ...]


@dataclass(frozen=True)
class GeometryRow:
    """A row of Table I: input size in pixels and channels, then the layer; stride None where blank."""

    size: int
    cin: int
    block: str
    channels: int
    repeat: int
    stride: int | None


TABLE_I: tuple[GeometryRow, ...] = (
    GeometryRow(32, 3, "3x3 Conv", 24, 1, 1),
    GeometryRow(32, 24, "BN", 24, 1, None),
    GeometryRow(32, 24, "CB", 48, 1, 2),
    GeometryRow(16, 48, "CB", 48, 3, 1),
    GeometryRow(16, 48, "CB", 96, 1, 2),
    GeometryRow(8, 96, "CB", 96, 7, 1),
    GeometryRow(8, 96, "CB", 192, 1, 2),
    GeometryRow(4, 192, "CB", 192, 3, 1),
    GeometryRow(4, 192, "1x1 Conv", 176, 1, 1),
    GeometryRow(4, 176, "BN", 176, 1, None),
    GeometryRow(1, 176, "Pooling", 176, 1, None),
    GeometryRow(1, 176, "SE", 920, 1, None),
    GeometryRow(1, 920, "1x1 Conv", 1024, 1, 1),
    GeometryRow(1, 1024, "FC", 10, 1, None),
)

# Rows of Table VII that are off by one against its kernel rows: row -> (ids ticked wrongly, ids whose tick is missing).
# Corrected by these, the rows say what `tamnas.space.blocks.BLOCKS` says.
TABLE_VII_MISPRINTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "S": ((11,), (14,)),
    "NE": ((), (11,)),
    "NG": ((11,), (17,)),
}

TITLES = {
    "II": "Attack steps of the supernet, CIFAR-10",
    "III": "Attack steps of the supernet, SVHN",
    "IV": "Epsilon of the supernet, CIFAR-10",
    "V": "Epsilon of the supernet, SVHN",
    "VI": "Model size, CIFAR-10",
    "VIII": "Lego-Net, CIFAR-10",
    "IX": "Lego-Net, SVHN",
    "X": "Comparison with other networks, CIFAR-10",
}


def _published(line: Mapping[str, str]) -> Published:
    cells = {name: text for name, text in line.items() if "@" in name and text}
    grid = {tuple(map(int, name.split("@"))): None if text == "-" else float(text) for name, text in cells.items()}
    return Published(line["network"], float(line["size"]), float(line["clean"]), grid, line["lego"] == "yes")


def _tables() -> dict[str, TablePaper]:
    lines = list(csv.DictReader(Path(__file__).with_name("paper.csv").read_text(encoding="utf-8").splitlines()))
    by_table = {name: [line for line in lines if line["table"] == name] for name in TITLES}
    return {
        name: TablePaper(TITLES[name], own[0]["dataset"], tuple(map(_published, own))) for name, own in by_table.items()
    }


TABLES = _tables()

# Where tables disagree, the first named here wins: V before III (one cell), VIII before X (clean accuracy).
_PRECEDENCE = ("II", "IV", "V", "III", "VI", "VIII", "IX", "X")


def published(dataset: str, mode: str, *, lego: bool = False) -> Published | None:
    """All published cells of one network, from every table that has it; None if no table has.

    Tables disagree in two places. SVHN S_8_10 at (6, 50): 60.35 of Table V is taken, not 50.35
    of III, which would lie 10 points below PGD-30. Clean accuracy of the CIFAR-10 Lego-Net:
    80.495 of VIII is taken, which X rounds to 80.50. `TABLES` keeps what each table prints.
    """
    merged = None
    for name in _PRECEDENCE:
        for row in TABLES[name].rows:
            if (TABLES[name].dataset, row.mode, row.lego) == (dataset, mode, lego):
                added = {cell: value for cell, value in row.grid.items() if merged and cell not in merged.grid}
                merged = replace(merged, grid={**merged.grid, **added}) if merged else row
    return merged


def contradictions(table: str) -> list[str]:
    """The facts of paper.md that name a table, by its Roman number."""
    named = re.compile(r"Tables? ([IVX]+(?:(?:, | and )[IVX]+)*)")
    _, *facts = Path(__file__).with_name("paper.md").read_text(encoding="utf-8").split("\n- ")
    texts = (" ".join(fact.split()) for fact in facts)
    return [text for text in texts if table in " ".join(named.findall(text)).replace(",", "").split()]
