"""The search space from the code that defines it, so that the tables cannot drift: Table I, upper part of VII."""

from collections.abc import Mapping, Sequence

from tamnas.paper import TABLE_I, TABLE_VII_MISPRINTS
from tamnas.report.study import Dataset
from tamnas.report.tables.table import Column, Table
from tamnas.report.terms import in_order
from tamnas.space.blocks import BLOCKS, BlockKind
from tamnas.space.layers import se_parameters
from tamnas.space.space import SearchSpace


def geometry_table(datasets: Sequence[Dataset]) -> Table:
    """Table I from the plans' own search spaces; one part per distinct geometry."""
    parts: dict[SearchSpace, list[str]] = {}
    for dataset in datasets:
        for plan, _ in in_order(dataset):
            parts.setdefault(SearchSpace.from_params(plan), []).append(plan.row)
    names_of = _part_names(parts)
    lines = [
        ({Column("rows", "Network"): names_of[part]} if len(parts) > 1 else {}) | line
        for part in parts
        for line in _geometry_lines(part)
    ]
    notes = [
        "CB: choice block, its parameters from the smallest to the largest choice. "
        "Every convolution of the head is 1x1."
    ]
    notes += [
        f"{names_of[part]} ({', '.join(rows_of)}): {low:,} to {high:,} parameters in all, {part.head_parameters:,} "
        "of them in the head."
        for part, rows_of in parts.items()
        for low, high in [part.parameter_range()]
    ]
    notes.append(_published_geometry())
    return Table.of("table-01", "Table I. The network", lines, notes)


def _part_names(parts: Mapping[SearchSpace, Sequence[str]]) -> dict[SearchSpace, str]:
    """What a geometry is called: by its width where that tells it from the others, else by its rows."""
    widths = [space.width for space in parts]
    unique = len(set(widths)) == len(widths)
    return {space: f"width {space.width:g}" if unique else ", ".join(rows) for space, rows in parts.items()}


def _published_geometry() -> str:
    lines = [row for row in TABLE_I if row.block != "BN"]
    text = ", ".join(f"{row.block} {row.channels}" + (f" x {row.repeat}" if row.repeat > 1 else "") for row in lines)
    return f"The paper's Table I, at {TABLE_I[0].size} x {TABLE_I[0].size} pixels: {text}."


def _geometry_lines(space: SearchSpace) -> list[dict[Column, str | None]]:
    stem, size = space.stem_channels, space.size
    lines = [
        (size, 3, "3x3 Conv", stem, 1, 1, f"{27 * stem:,}"),
        (size, stem, "BN, activation", stem, 1, None, f"{2 * stem:,}"),
    ]
    index, legal = 0, [table[table >= 0] for table in space.table.reshape(len(space.layers), -1)]
    for repeat in space.repeats:
        for count, first in ((1, index), (repeat - 1, index + 1)):
            if count:
                layer, sizes = space.layers[first], legal[first]
                text = f"{sizes.min():,} to {sizes.max():,}" + (" each" if count > 1 else "")
                lines.append((space.sizes[first], layer.cin, "CB", layer.cout, count, layer.stride, text))
        index += repeat
    lines += _head_lines(space, space.sizes[-1])
    titles = ("Input", "Layer", "Channels", "Repeat", "Stride", "Parameters")
    columns = [Column(title.lower(), title) for title in titles]
    cells = ([f"{pixels}² × {cin}", *rest] for pixels, cin, *rest in lines)
    texts = ([None if cell is None else str(cell) for cell in line] for line in cells)
    return [dict(zip(columns, line, strict=True)) for line in texts]


def _head_lines(space: SearchSpace, size: int) -> list[tuple]:
    last, classes = space.layers[-1].cout, space.num_classes
    if space.head is None:
        return [
            (size, last, "Pooling", last, 1, None, "0"),
            (1, last, "FC", classes, 1, None, f"{last * classes + classes:,}"),
        ]
    conv, hidden, out = space.head
    return [
        (size, last, "1x1 Conv", conv, 1, 1, f"{last * conv:,}"),
        (size, conv, "BN, activation", conv, 1, None, f"{2 * conv:,}"),
        (size, conv, "Pooling", conv, 1, None, "0"),
        (1, conv, "1x1 Conv, activation", hidden, 1, 1, f"{conv * hidden + hidden:,}"),
        (1, hidden, "SE", hidden, 1, None, f"{se_parameters(hidden):,}"),
        (1, hidden, "1x1 Conv, activation", out, 1, 1, f"{hidden * out + out:,}"),
        (1, out, "FC", classes, 1, None, f"{out * classes + classes:,}"),
    ]


FULL_NAMES = {
    "shuffle": "ShuffleNetV2",
    "xception": "Shuffle-Xception",
    "embedded": "embedded Gaussian",
    "gaussian": "Gaussian",
}


def blocks_table(datasets: Sequence[Dataset]) -> Table:
    """The upper part of Table VII, from the code's own block table."""
    used = {block for dataset in datasets for plan, _ in in_order(dataset) for block in plan.space.blocks}
    space = SearchSpace.paper()
    first, inner = space.layers[4], space.layers[5]

    def yes(answer: bool) -> str:
        return "yes" if answer else "no"

    def line(kind: BlockKind) -> dict[Column, str | int | None]:
        return {
            Column("block", "Block"): str(kind.id),
            Column("name", "Name"): kind.name,
            Column("branch", "Branch"): FULL_NAMES.get(kind.branch),
            Column("kernel", "Kernel"): f"{kind.kernel}x{kind.kernel}" if kind.kernel else None,
            Column("non_local", "Non-local"): FULL_NAMES.get(kind.attention),
            Column("norm", "BN in non-local"): yes(kind.attention_norm) if kind.attention else None,
            Column("family", "Family"): kind.family,
            Column("transition", "Where a stage begins"): yes(kind.allowed(first)),
            Column("used", "In this run"): yes(kind.id in used),
            Column("parameters_96", "Parameters at 96 channels, ratio 1.0", "count"): kind.parameters(inner, 1.0),
        }

    wrong = "; ".join(
        f"{name}: " + ", ".join([f"{i} ticked" for i in ticked] + [f"{i} not ticked" for i in unticked])
        for name, (ticked, unticked) in TABLE_VII_MISPRINTS.items()
    )
    notes = [
        "S: ShuffleNetV2 branch, SX: Shuffle-Xception branch, NE, NG: non-local with an embedded Gaussian or a "
        "Gaussian. Every block ends in squeeze-and-excitation.",
        f"The paper's table differs in five cells, taken for misprints ({wrong}).",
    ]
    return Table.of("table-07", "Table VII. The choice blocks (upper part)", [*map(line, BLOCKS)], notes)
