"""The published numbers of TAM-NAS as plain data, and where they contradict each other.

Source: Guoyang Xie, Jinbao Wang, Guo Yu, Feng Zheng, Yaochu Jin, "Tiny Adversarial
Multi-Objective Oneshot Neural Architecture Search", Tables I to X. Values are as printed,
misprints included; CONTRADICTIONS lists those we found. Sizes are in millions of parameters,
accuracies in percent. A grid is keyed by (eps x 255, PGD steps): (8, 10) is PGD-10 at 8/255.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tamnas.space.blocks import BLOCKS
from tamnas.space.space import SearchSpace

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


def _row(mode, size, clean, steps10, steps30, steps50, lego=False) -> Published:
    columns = zip(STEPS, (steps10, steps30, steps50), strict=True)
    grid = {(eps, steps): value for steps, values in columns for eps, value in zip(EPS, values, strict=True)}
    return Published(mode, size, clean, grid, lego)


def _row_x(mode, size, clean, p20, p100, p100_at_2, lego=False) -> Published:
    return Published(mode, size, clean, {(8, 20): p20, (8, 100): p100, (2, 100): p100_at_2}, lego)


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

# Upper part of Table VII as printed: row -> ids of the ticked blocks.
TABLE_VII: dict[str, tuple[int, ...]] = {
    "S": (0, 1, 2, 6, 7, 8, 11, 12, 13),
    "SX": (3, 4, 5, 9, 10, 11, 15, 16, 17),
    "NE": (6, 7, 8, 9, 10, 18, 19),
    "NG": (11, 12, 13, 14, 15, 16, 20, 21),
    "BN": (18, 20),
    "K=3": (0, 3, 6, 9, 12, 15),
    "K=5": (1, 4, 7, 10, 13, 16),
    "K=7": (2, 5, 8, 11, 14, 17),
}
# Rows that are off by one against the kernel rows: row -> (ids ticked wrongly, ids whose tick is missing).
# Corrected by these, the rows say what `tamnas.space.blocks.BLOCKS` says.
TABLE_VII_MISPRINTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "S": ((11,), (14,)),
    "NE": ((), (11,)),
    "NG": ((11,), (17,)),
}

# Each row: mode, size, clean, then accuracy at 2, 4, 6, 8 (/255) under PGD-10, PGD-30 and PGD-50.
# fmt: off
TABLES: dict[str, TablePaper] = {
    "II": TablePaper("Attack steps of the supernet, CIFAR-10", "cifar10", (
        _row("S_8_10", 1.7453, 73.18,
             (62.62, 52.07, 40.91, 31.01), (62.60, 52.05, 40.83, 30.68), (62.60, 52.04, 40.77, 30.65)),
        _row("S_8_1", 1.7574, 73.19,
             (62.53, 51.23, 39.83, 29.35), (62.55, 51.23, 39.77, 29.01), (62.52, 51.20, 39.77, 28.92)),
        _row("S_8_2", 1.6822, 76.54,
             (66.64, 55.11, 42.90, 31.83), (66.65, 55.08, 42.73, 31.27), (66.61, 55.10, 42.71, 31.26)),
    )),
    "III": TablePaper("Attack steps of the supernet, SVHN", "svhn", (
        _row("S_8_10", 1.7657, 87.26,
             (72.65, 68.17, 60.82, 50.91), (72.27, 68.09, 60.81, 50.64), (72.21, 68.04, 50.35, 50.24)),
        _row("S_8_1", 1.7428, 88.34,
             (71.53, 66.45, 59.83, 49.53), (71.52, 66.31, 58.80, 48.56), (71.51, 66.21, 58.70, 49.51)),
        _row("S_8_5", 1.6836, 90.54,
             (76.28, 70.16, 62.73, 54.70), (76.15, 70.15, 62.11, 54.69), (76.10, 70.15, 62.09, 54.68)),
    )),
    "IV": TablePaper("Epsilon of the supernet, CIFAR-10", "cifar10", (
        _row("S_8_10", 1.7453, 73.18,
             (62.62, 52.07, 40.91, 31.01), (62.60, 52.05, 40.83, 30.68), (62.60, 52.04, 40.77, 30.65)),
        _row("S_6_10", 1.6840, 78.63,
             (67.79, 54.85, 41.584, 29.03), (67.76, 54.80, 41.42, 28.19), (67.78, 54.80, 41.32, 28.09)),
        _row("S_4_10", 1.6775, 75.82,
             (62.63, 46.87, 31.87, 20.27), (62.65, 46.85, 31.65, 19.62), (62.62, 46.86, 31.65, 19.55)),
        _row("S_2_10", 1.6632, 81.95,
             (62.14, 38.52, 20.29, 8.823), (62.15, 38.21, 19.60, 7.675), (62.13, 38.18, 19.54, 7.606)),
    )),
    "V": TablePaper("Epsilon of the supernet, SVHN", "svhn", (
        _row("S_8_10", 1.7657, 87.26,
             (72.65, 68.17, 60.82, 50.91), (72.27, 68.09, 60.81, 50.64), (72.21, 68.04, 60.35, 50.24)),
        _row("S_6_10", 1.6947, 88.45,
             (72.37, 69.46, 61.47, 49.87), (72.26, 69.32, 61.42, 49.82), (72.15, 69.27, 61.32, 49.85)),
        _row("S_4_10", 1.6873, 85.82,
             (62.37, 58.47, 52.43, 42.70), (62.35, 58.37, 51.49, 41.50), (62.30, 58.21, 51.37, 40.61)),
        _row("S_2_10", 1.6712, 91.14,
             (60.14, 50.66, 39.38, 21.50), (59.88, 49.53, 38.27, 20.17), (58.96, 48.18, 37.12, 20.54)),
    )),
    "VI": TablePaper("Model size, CIFAR-10", "cifar10", (
        _row("S_8_10", 1.7453, 73.18,
             (62.62, 52.07, 40.91, 31.01), (62.60, 52.05, 40.83, 30.68), (62.60, 52.04, 40.77, 30.65)),
        _row("S_6_10", 1.6840, 78.63,
             (67.79, 54.85, 41.584, 29.03), (67.76, 54.80, 41.42, 28.19), (67.78, 54.80, 41.32, 28.09)),
        _row("S_8_2", 1.6822, 76.54,
             (66.64, 55.11, 42.90, 31.83), (66.65, 55.08, 42.73, 31.27), (66.61, 55.10, 42.71, 31.26)),
    )),
    "VIII": TablePaper("Lego-Net, CIFAR-10", "cifar10", (
        _row("2S_8_1", 2.1546, 80.495,
             (70.64, 59.16, 46.70, 35.02), (70.65, 59.14, 46.60, 34.51), (70.67, 59.12, 46.61, 34.42), lego=True),
        _row("2S_8_1", 2.1878, 79.87,
             (69.38, 56.81, 43.61, 31.73), (69.38, 56.71, 43.51, 31.12), (69.37, 56.76, 43.44, 31.09)),
    )),
    "IX": TablePaper("Lego-Net, SVHN", "svhn", (
        _row("2S_8_5", 2.1593, 92.81,
             (82.81, 76.54, 68.81, 61.88), (82.79, 76.51, 68.75, 61.55), (82.75, 76.48, 68.73, 61.53), lego=True),
        _row("2S_8_1", 2.1676, 91.87,
             (79.80, 73.45, 65.31, 57.43), (79.71, 73.42, 65.27, 57.38), (79.70, 73.40, 65.18, 57.32)),
    )),
    # Clean, then PGD-20 at 8/255, PGD-100 at 8/255, PGD-100 at 2/255.
    "X": TablePaper("Comparison with other networks, CIFAR-10", "cifar10", (
        _row_x("resnet18", 11.17, 78.38, 45.60, 45.10, 69.12),
        _row_x("shufflenetv2", 4.82, 75.23, 25.69, 25.12, 58.12),
        _row_x("mobilenetv3", 4.93, 76.13, 26.73, 26.71, 60.34),
        _row_x("robnet-medium", 5.66, 78.33, 49.13, 48.96, None),
        _row_x("robnet-small", 4.41, 78.05, 48.32, 48.07, None),
        _row_x("2S_8_1", 2.1546, 80.50, 35.01, 34.41, 70.66, lego=True),
        _row_x("2S_8_1", 2.1878, 79.87, 31.73, 31.09, 69.35),
        _row_x("S_6_10", 1.6840, 78.63, 29.02, 28.07, 67.75),
        _row_x("S_8_2", 1.6822, 76.54, 31.80, 31.25, 66.35),
    )),
}
# fmt: on

# Where tables disagree, the first named here wins: V before III (one cell), VIII before X (clean accuracy).
_PRECEDENCE = ("II", "IV", "V", "III", "VI", "VIII", "IX", "X")


def published(dataset: str, mode: str, *, lego: bool = False) -> Published | None:
    """All published cells of one network, from every table that has it; None if no table has.

    Tables disagree in two places. SVHN S_8_10 at (6, 50): 60.35 of Table V is taken, not 50.35
    of III, which would lie 10 points below PGD-30. Clean accuracy of the CIFAR-10 Lego-Net:
    80.495 of VIII is taken, which X rounds to 80.50. `TABLES` keeps what each table prints.
    """
    found = None
    for name in _PRECEDENCE:
        for row in TABLES[name].rows:
            if (TABLES[name].dataset, row.mode, row.lego) == (dataset, mode, lego):
                added = {cell: value for cell, value in row.grid.items() if found and cell not in found.grid}
                found = replace(found, grid={**found.grid, **added}) if found else row
    return found


# Facts in our own words; docs/reading.md prints the list.
CONTRADICTIONS: tuple[str, ...] = (
    "Tables III and V differ in one cell of the same network: SVHN S_8_10 at 6/255 under PGD-50 is 50.35 in III "
    "and 60.35 in V; PGD-30 gives 60.81 in both, so 50.35 is a misprint.",
    "Tables VIII and X give the CIFAR-10 Lego-Net's clean accuracy as 80.495 and 80.50.",
    "Table V marks S_6_10 as best at 2/255 (72.37, 72.26, 72.15), but S_8_10 is above it in all three "
    "columns (72.65, 72.27, 72.21).",
    "Table X marks RobNet-small as best at 8/255 (48.32, 48.07), but RobNet-medium, one row above it, "
    "has 49.13 and 48.96.",
    "The text has fewer attack steps giving better subnets; S_8_1 is below S_8_10 at 8/255 in every column of "
    "Tables II and III.",
    "The text has S_8_10 behind S_6_10 at 8/255 too; under PGD-10 there S_8_10 is ahead in Table IV (31.01 against "
    "29.03) and in Table V (50.91 against 49.87).",
    "Clean accuracy is not monotone in the supernet's epsilon: S_4_10 (75.82, 85.82) is below both S_2_10 (81.95, "
    "91.14) and S_6_10 (78.63, 88.45) in Tables IV and V; the text passes over it.",
    "The size drop from S_8_10 to S_8_2 (1.7453M to 1.6822M) is 3.6% in the text on Table II and 3.751% in that "
    "on Table VI: one divides by the old size, the other by the new one.",
    "The 3.640% size drop from S_8_10 to S_6_10 divides by the new size (3.51% of the old); the accuracy gains in "
    "the same sentence, and the 1.52% of the Lego-Net, divide by the old value.",
    "Two gains in the text on Table VI do not follow from the table: 2.642% at 8/255 is 2.644% for S_8_2, and "
    "1.63% at 6/255 is 1.65% for S_6_10 (1.64% from 41.58).",
    "The gains quoted in percent are relative: 10.36% at 8/255 from 2S_8_1 to the Lego-Net is 3.29 points, "
    "0.78% clean is 0.625 points.",
    "The text calls the Lego-Net more accurate than ResNet-18; Table X has ResNet-18 10.6 points above it at 8/255.",
    "The Lego-Net's gap between clean and 2/255 is 14% in the text; Table X gives 9.84 points, and 14% only as a "
    "share of the robust accuracy. It is called smaller than RobNet-small's, for which no value at 2/255 is given.",
    "Table X's PGD-20 at 8/255 equals PGD-10 of the other tables to within 0.03 points for all four searched "
    "networks, although PGD-30 is 0.5 to 0.8 points lower.",
    "More steps of one attack should not help a network: in Table III S_8_1 has 48.56 under PGD-30 and 49.51 under "
    "PGD-50 at 8/255, in Table V S_2_10 has 20.17 and 20.54.",
    "The SVHN Lego-Net belongs to 2S_8_5, the network beside it in Table IX to 2S_8_1: architecture and training "
    "attack change together.",
    "Tables II and III differ in the third mode: two attack steps on CIFAR-10, five on SVHN.",
    "The introduction puts tiny networks between 10K and 2M parameters; all 2S and Lego networks are above 2.15M.",
    "Table X's ShuffleNetV2 (4.82M) and MobileNetV3 (4.93M) match no standard width of either with ten classes "
    "(1.26M, 2.49M and 5.37M; 1.53M and 4.21M in torchvision).",
    "Table VII is off by one in its S, NE and NG rows: block 11 would be S and SX with Gaussian attention, "
    "block 14 have no branch and block 17 no attention.",
    "Borders of the families: Table VII (corrected) has attention from block 6 on; one passage of the text begins it "
    "at 12, another ends the pure tiny blocks below 8, begins the tiny robust ones at 9 and the pure robust ones "
    "above 18, which leaves 8 and 18 in none.",
    "The text bars attention blocks from stride-2 layers; Figure 8 has blocks 15 and 13 among the most frequent in "
    "layer 0, which has stride 2.",
    "Ratios from 0 to 2 in steps of 0.2, coded 0 to 10, are eleven; the paper counts ten channel choices.",
    "Mutation happens when a random number exceeds the probability 0.1 in one sentence (90% of cases) and with a "
    "10% chance in a later one.",
    "Algorithm 2 selects by binary tournament; text and settings have ten individuals in a tournament.",
    "Table VII is announced with an upper part and layer statistics; the copy we read has the block table alone.",
    "Figure 7's caption compares colours with Figures 5 and 6, the text with Figures 6 and 7.",
)


def contradictions(table: str) -> list[str]:
    """Those of CONTRADICTIONS that name a table, by its Roman number."""
    named = re.compile(r"Tables? ([IVX]+(?:(?:, | and )[IVX]+)*)")
    return [text for text in CONTRADICTIONS
            if any(table in re.split(", | and ", numbers) for numbers in named.findall(text))]  # fmt: skip


_BLOCKS_HEADER = """\
# The choice blocks

Generated from `tamnas.space.blocks.BLOCKS`; do not edit, run

    python -c "from tamnas.paper import block_table_markdown as t; print(t(), end='')" > docs/blocks.md

S: ShuffleNetV2 branch, SX: Shuffle-Xception branch, NE and NG: non-local with an embedded Gaussian or a
Gaussian, BN: BatchNorm at the end of the non-local part. Every block ends in squeeze-and-excitation. Blocks 18
to 21 change neither resolution nor width and are not legal where a stage begins. The last three columns count
the parameters of the block alone in a stride-1 layer of 96 channels (the paper's middle stage) at three ratios.

| id | name | branch | kernel | non-local | BN in non-local | family | where a stage begins | at 0.2 | at 1.0 | at 2.0 |
| ---: | --- | --- | --- | --- | --- | --- | --- | ---: | ---: | ---: |
"""


def block_table_markdown() -> str:
    """The text of docs/blocks.md."""
    space = SearchSpace.paper()
    first, inner = space.layers[4], space.layers[5]
    branches = {"shuffle": "ShuffleNetV2", "xception": "Shuffle-Xception", None: "-"}
    attentions = {"embedded": "embedded Gaussian", "gaussian": "Gaussian", None: "-"}
    lines = []
    for kind in BLOCKS:
        counts = (f"{kind.parameters(inner, ratio):,}" for ratio in (0.2, 1.0, 2.0))
        norm = ("yes" if kind.attention_norm else "no") if kind.attention else "-"
        cells = (
            kind.id, kind.name, branches[kind.branch], f"{kind.kernel}x{kind.kernel}" if kind.kernel else "-",
            attentions[kind.attention], norm, kind.family, "yes" if kind.allowed(first) else "no", *counts,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |\n")
    return _BLOCKS_HEADER + "".join(lines)
