"""The transcription of the paper against checksums computed from its text, and the docs built on it."""

import re
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from tamnas import paper
from tamnas.config.params import Params
from tamnas.paper import EPS, STEPS, TABLES, published
from tamnas.space.blocks import BLOCKS, RATIOS
from tamnas.space.space import SearchSpace

DOCS = Path(__file__).parents[2] / "docs"
CELLS = [(eps, steps) for steps in STEPS for eps in EPS]  # in the order of the printed columns
CELLS_X = [(8, 20), (8, 100), (2, 100)]
# Sums over the rows of each printed column: size, clean accuracy, then the grid.
COLUMN_SUMS = {
    "II": (5.1849, 222.91, 191.79, 158.41, 123.64, 92.19, 191.8, 158.36, 123.33, 90.96, 191.73, 158.34, 123.25, 90.83),
    "III": (
        5.1921,
        266.14,
        220.46,
        204.78,
        183.38,
        155.14,
        219.94,
        204.55,
        181.72,
        153.89,
        219.82,
        204.4,
        171.14,
        154.43,
    ),
    "IV": (
        6.77,
        309.58,
        255.18,
        192.31,
        134.654,
        89.133,
        255.16,
        191.91,
        133.5,
        86.165,
        255.13,
        191.88,
        133.28,
        85.896,
    ),
    "V": (6.8189, 352.67, 267.53, 246.76, 214.1, 164.98, 266.76, 245.31, 211.99, 162.13, 265.62, 243.7, 210.16, 161.24),
    "VI": (5.1115, 228.35, 197.05, 162.03, 125.394, 91.87, 197.01, 161.93, 124.98, 90.14, 196.99, 161.94, 124.8, 90.0),
    "VIII": (4.3424, 160.365, 140.02, 115.97, 90.31, 66.75, 140.03, 115.85, 90.11, 65.63, 140.04, 115.88, 90.05, 65.51),
    "IX": (
        4.3269,
        184.68,
        162.61,
        149.99,
        134.12,
        119.31,
        162.5,
        149.93,
        134.02,
        118.93,
        162.45,
        149.88,
        133.91,
        118.85,
    ),
    "X": (38.6986, 701.66, 323.03, 318.78, 461.69),
}
ROW_MODES = {
    "II": ["S_8_10", "S_8_1", "S_8_2"],
    "III": ["S_8_10", "S_8_1", "S_8_5"],
    "IV": ["S_8_10", "S_6_10", "S_4_10", "S_2_10"],
    "V": ["S_8_10", "S_6_10", "S_4_10", "S_2_10"],
    "VI": ["S_8_10", "S_6_10", "S_8_2"],
    "VIII": ["Lego-Net 2S_8_1", "2S_8_1"],
    "IX": ["Lego-Net 2S_8_5", "2S_8_1"],
    "X": [
        "resnet18",
        "shufflenetv2",
        "mobilenetv3",
        "robnet-medium",
        "robnet-small",
        "Lego-Net 2S_8_1",
        "2S_8_1",
        "S_6_10",
        "S_8_2",
    ],
}

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


def rows():
    return [(name, row) for name, table in TABLES.items() for row in table.rows]


def test_rows_of_every_table():
    assert {name: [row.label for row in table.rows] for name, table in TABLES.items()} == ROW_MODES
    datasets = {name: table.dataset for name, table in TABLES.items()}
    assert [name for name, dataset in datasets.items() if dataset == "svhn"] == ["III", "V", "IX"]
    assert set(datasets.values()) == {"cifar10", "svhn"}


def test_every_row_has_all_its_cells():
    for name, row in rows():
        assert list(row.grid) == (CELLS_X if name == "X" else CELLS), (name, row.label)
    dashes = [(row.mode, cell) for _, row in rows() for cell, value in row.grid.items() if value is None]
    assert dashes == [("robnet-medium", (2, 100)), ("robnet-small", (2, 100))]


@pytest.mark.parametrize("name", COLUMN_SUMS)
def test_column_sums(name):
    columns = zip(*((row.size, row.clean, *row.grid.values()) for row in TABLES[name].rows), strict=True)
    sums = [sum(value for value in column if value is not None) for column in columns]
    assert sums == pytest.approx(COLUMN_SUMS[name], abs=1e-6)


@pytest.mark.parametrize(
    ("table", "row", "size", "clean", "cells"),
    [
        ("II", 2, 1.6822, 76.54, {(6, 10): 42.90, (8, 30): 31.27, (2, 50): 66.61}),
        ("III", 0, 1.7657, 87.26, {(6, 30): 60.81, (6, 50): 50.35, (8, 50): 50.24}),
        ("III", 1, 1.7428, 88.34, {(8, 10): 49.53, (8, 30): 48.56, (8, 50): 49.51}),
        ("IV", 1, 1.6840, 78.63, {(2, 10): 67.79, (6, 10): 41.584, (4, 30): 54.80}),
        ("IV", 3, 1.6632, 81.95, {(8, 10): 8.823, (8, 30): 7.675, (8, 50): 7.606}),
        ("V", 2, 1.6873, 85.82, {(4, 10): 58.47, (6, 30): 51.49, (8, 50): 40.61}),
        ("VI", 1, 1.6840, 78.63, {(8, 10): 29.03, (2, 30): 67.76, (6, 50): 41.32}),
        ("VIII", 0, 2.1546, 80.495, {(8, 10): 35.02, (4, 30): 59.14, (8, 50): 34.42}),
        ("IX", 0, 2.1593, 92.81, {(8, 10): 61.88, (6, 30): 68.75, (2, 50): 82.75}),
        ("X", 5, 2.1546, 80.50, {(8, 20): 35.01, (8, 100): 34.41, (2, 100): 70.66}),
        ("X", 0, 11.17, 78.38, {(8, 20): 45.60, (8, 100): 45.10, (2, 100): 69.12}),
    ],
)
def test_spot_values(table, row, size, clean, cells):
    found = TABLES[table].rows[row]
    assert (found.size, found.clean) == (size, clean)
    assert {cell: found.grid[cell] for cell in cells} == cells


def test_accuracy_falls_with_eps():
    """A transposed digit would most likely break the order."""
    for name, row in rows():
        for steps in STEPS if name != "X" else ():
            values = [row.clean, *(row.grid[eps, steps] for eps in EPS)]
            assert values == sorted(values, reverse=True), (name, row.label, steps)


def test_where_tables_disagree():
    seen, found = {}, []
    for name, row in rows():
        cells = {**row.grid, "size": row.size, "clean": row.clean}
        for cell, value in cells.items():
            key = (TABLES[name].dataset, row.label, cell)
            first, before = seen.setdefault(key, (name, value))
            if before != value:
                found.append((*key, first, before, name, value))
    assert found == [
        ("svhn", "S_8_10", (6, 50), "III", 50.35, "V", 60.35),
        ("cifar10", "Lego-Net 2S_8_1", "clean", "VIII", 80.495, "X", 80.50),
    ]


def test_published():
    lego = published("cifar10", "2S_8_1", lego=True)
    assert (lego.size, lego.clean, len(lego.grid)) == (2.1546, 80.495, len(CELLS) + len(CELLS_X))
    assert (lego.grid[8, 10], lego.grid[8, 20], lego.grid[2, 100]) == (35.02, 35.01, 70.66)
    assert published("cifar10", "2S_8_1").clean == 79.87
    assert published("svhn", "S_8_10").grid[6, 50] == 60.35
    assert published("cifar10", "robnet-small").grid == {(8, 20): 48.32, (8, 100): 48.07, (2, 100): None}
    for dataset, mode in (("svhn", "S_8_2"), ("cifar10", "S_8_5"), ("digits", "S_8_1"), ("cifar10", "resnet20")):
        assert published(dataset, mode) is None
    assert published("cifar10", "S_8_10", lego=True) is None
    assert len(TABLES["VIII"].rows[0].grid) == len(CELLS)  # looking up changes no table


def test_every_network_can_be_looked_up():
    for name, row in rows():
        found = published(TABLES[name].dataset, row.mode, lego=row.lego)
        assert found.label == row.label
        assert set(row.grid) <= set(found.grid)


@pytest.mark.parametrize("width", [1, 2])
def test_published_sizes_are_in_the_space(width):
    low, high = SearchSpace.paper(width=width).parameter_range()
    prefix = {1: "S_", 2: "2S_"}[width]
    sizes = [row.size * 1e6 for _, row in rows() if row.mode.startswith(prefix)]
    assert sizes
    assert all(low <= size <= high for size in sizes)


def test_table_i_is_the_papers_geometry():
    space = SearchSpace.paper()
    assert [(row.cin, row.cout, row.stride) for row in space.layers] == [
        (row.cin if repeat == 0 else row.channels, row.channels, row.stride)
        for row in paper.TABLE_I
        if row.block == "CB"
        for repeat in range(row.repeat)
    ]
    stem, *_, conv, _, _, gate, out, classes = paper.TABLE_I
    assert (stem.channels, conv.channels, gate.channels, out.channels, classes.channels) == (
        space.stem_channels,
        *space.head,
        space.num_classes,
    )
    size, channels = 32, 3
    for row in paper.TABLE_I:  # each row takes what the one before leaves
        size = 1 if row.block == "Pooling" else size
        assert (row.size, row.cin) == (size, channels)
        size, channels = size // (row.stride or 1), row.channels
    assert len(space.layers) == 16
    assert len(RATIOS) == 10


def test_table_vii_is_the_block_table_but_for_its_misprints():
    expected = {
        "S": [kind.id for kind in BLOCKS[:22] if kind.branch == "shuffle"],
        "SX": [kind.id for kind in BLOCKS[:22] if kind.branch == "xception"],
        "NE": [kind.id for kind in BLOCKS[:22] if kind.attention == "embedded"],
        "NG": [kind.id for kind in BLOCKS[:22] if kind.attention == "gaussian"],
        "BN": [kind.id for kind in BLOCKS[:22] if kind.attention_norm],
        **{f"K={k}": [kind.id for kind in BLOCKS[:22] if kind.kernel == k] for k in (3, 5, 7)},
    }
    wrong = {
        row: (tuple(sorted({*printed} - {*expected[row]})), tuple(sorted({*expected[row]} - {*printed})))
        for row, printed in TABLE_VII.items()
        if list(printed) != expected[row]
    }
    assert list(TABLE_VII) == list(expected)
    assert wrong == paper.TABLE_VII_MISPRINTS


def test_reading_md_names_parameters_that_exist():
    text = (DOCS / "reading.md").read_text(encoding="utf-8")
    sections = "|".join(Params.model_fields)
    keys = set(re.findall(rf"`((?:{sections})(?:\.[a-z_0-9<>]+)+)`", text))
    assert len(keys) > 50
    unknown = [key for key in sorted(keys) if not exists(Params, key.split("."))]
    assert not unknown


def exists(kind, keys: list[str]) -> bool:
    """Whether a parameter file may have this path; `<name>` stands for any key of a mapping."""
    if not keys:
        return True
    if get_origin(kind) in (Union, UnionType):
        return any(exists(option, keys) for option in get_args(kind))
    if get_origin(kind) is dict:
        return keys[0].startswith("<") and exists(get_args(kind)[1], keys[1:])
    if isinstance(kind, type) and issubclass(kind, BaseModel) and keys[0] in kind.model_fields:
        return exists(kind.model_fields[keys[0]].annotation, keys[1:])
    return False


@pytest.mark.parametrize(("key", "known"), [("data.<name>.classes", True), ("data.<name>.colours", False)])
def test_exists(key, known):
    assert exists(Params, key.split(".")) is known


def test_contradictions_are_found_by_the_tables_they_name():
    assert any("50.35" in text for text in paper.contradictions("III"))
    assert any("50.35" in text for text in paper.contradictions("V"))
    assert not any("50.35" in text for text in paper.contradictions("II"))
    assert paper.contradictions("X") != paper.contradictions("IX") != []
