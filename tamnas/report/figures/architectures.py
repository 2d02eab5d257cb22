"""Architectures drawn so that two can be compared, and which genes a layer's best subnets use."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from tamnas.report.figures.style import BLUE, GREY, PAGE, VERMILLION, legend_above, new
from tamnas.report.study import LegoNet
from tamnas.space.architecture import Architecture
from tamnas.space.blocks import BLOCKS, SHORT, BlockKind
from tamnas.space.space import SearchSpace

# Light, middle and dark, so that grey prints tell the families apart too.
FAMILY_STYLES = {
    "pure tiny": {"facecolor": "#CFE6F5", "edgecolor": "#5B7C92", "hatch": None},
    "tiny robust": {"facecolor": "#E69F00", "edgecolor": "#6E4C00", "hatch": "///"},
    "pure robust": {"facecolor": "#00507D", "edgecolor": "#B9D7EA", "hatch": "..."},
}
FIRST = {"marker": "o", "color": VERMILLION}
SECOND = {"marker": "s", "facecolors": "white", "edgecolors": BLUE, "linewidths": 1.1}
BANDS = {"pure tiny": "#F3F8FC", "tiny robust": "#FDF3DF", "pure robust": "#DDE7EE"}


def draw_architectures(networks: Sequence[tuple[str, str, Architecture, SearchSpace]]) -> Figure:
    """One strip for each (name, what, architecture, space)."""
    figure = new(PAGE, 0.45 + 1.2 * len(networks))
    strips = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
    depth = max(len(arch.blocks) for _, _, arch, _ in networks)
    for axes, (name, what, arch, space) in zip(strips, networks, strict=True):
        _strip(axes, arch, space, depth)
        axes.set_title(f"{name}: {what}")
    handles = [Patch(**style, label=family, linewidth=0.8) for family, style in FAMILY_STYLES.items()]
    legend_above(figure, handles)
    return figure


def _strip(axes, arch: Architecture, space: SearchSpace, depth: int) -> None:
    for index, (block, ratio, layer) in enumerate(zip(arch.blocks, arch.ratios, space.layers, strict=True)):
        outline = {"fill": False, "edgecolor": "#C4C4C4", "linewidth": 0.7}
        axes.add_patch(Rectangle((index - 0.36, 0), 0.72, space.max_ratio, **outline))
        axes.add_patch(Rectangle((index - 0.36, 0), 0.72, ratio, linewidth=0.8, **FAMILY_STYLES[BLOCKS[block].family]))
        axes.text(index, space.max_ratio + 0.06, str(layer.middle(ratio)), ha="center", va="bottom", fontsize=7)
        if layer.transition and index:
            axes.axvline(index - 0.5, color=GREY, linestyle="--", linewidth=0.8)
    axes.set(xlim=(-0.55, depth - 0.45), ylim=(0, space.max_ratio * 1.22), ylabel="ratio")
    axes.set_xticks(range(len(arch.blocks)), [block_label(BLOCKS[block]) for block in arch.blocks], fontsize=7)
    axes.tick_params(axis="x", length=0, pad=2)
    axes.set_yticks([0, space.max_ratio / 2, space.max_ratio])
    axes.grid(visible=False)


def block_label(kind: BlockKind) -> str:
    """Three short lines: id; branch and kernel; attention."""
    branch = SHORT.get(kind.branch, "")
    attention = SHORT.get(kind.attention, "") + ("+" if kind.attention_norm else "")
    lines = [f"{branch} {kind.kernel}" if branch else attention, attention if branch else ""]
    return "\n".join([f"{kind.id}", *lines])


def draw_layers(space: SearchSpace, lego: LegoNet) -> Figure:
    """Figures 8 and 9: the two most frequent blocks and ratios of each layer."""
    # Rows may vote for what another's space lacks; Lego-Net then takes what its own has.
    blocks, ratios = (
        sorted({*values, *(line["value"] for line in lego.counts if line["gene"] == gene)})
        for gene, values in (("block", space.blocks), ("ratio", space.ratios))
    )
    figure = new(PAGE, 0.9 + max(1.9, 0.125 * max(len(blocks), len(ratios))))
    left, right = figure.subplots(1, 2)
    most = max(line["count"] for line in lego.counts)
    genes = ((left, "block", "block id", blocks, "d"), (right, "ratio", "channel ratio", ratios, ".1f"))
    for axes, gene, title, values, form in genes:
        position = {value: index for index, value in enumerate(values)}
        for layer in range(len(space.layers)):
            own = [line for line in lego.counts if (line["layer"], line["gene"]) == (layer, gene)]
            for line, first in _two_most_frequent(own):
                style = FIRST if first else SECOND
                axes.scatter([layer], [position[line["value"]]], s=_area(line["count"], most), zorder=3, **style)
            if space.layers[layer].transition and layer:
                axes.axvline(layer - 0.5, color=GREY, linestyle="--", linewidth=0.7)
        axes.set(xlim=(-0.6, len(space.layers) - 0.4), ylim=(-0.6, len(values) - 0.4))
        axes.set_xticks(range(len(space.layers)))
        axes.set_yticks(range(len(values)), [f"{value:{form}}" for value in values])
        axes.set(xlabel="layer", ylabel=title)
    _family_bands(left, blocks)
    alone = {"linestyle": "none"}
    handles = [
        Line2D([], [], marker="o", color=VERMILLION, markersize=6, label="most frequent", **alone),
        Line2D([], [], marker="s", color=BLUE, markerfacecolor="white", markersize=6, label="second", **alone),
    ]
    for count in sorted({1, (1 + most) // 2, most}):
        size, label = _area(count, most) ** 0.5, f"{count} of {len(lego.voters)}"
        handles.append(Line2D([], [], marker="o", color="#9A9A9A", markersize=size, label=label, **alone))
    legend_above(figure, handles, columns=5)
    return figure


def _two_most_frequent(lines: Sequence[dict]) -> list[tuple[dict, bool]]:
    """(line, is the most frequent) of the first and of all that share the second place; one vote is no preference."""
    ranked = sorted(lines, key=lambda line: line["rank"])
    seconds = [line for line in ranked[1:] if line["count"] == ranked[1]["count"] > 1]
    return [(ranked[0], True)] + [(line, False) for line in seconds]


def _area(count: int, most: int) -> float:
    return 10 + 52 * count / most


def _family_bands(axes, blocks: Sequence[int]) -> None:
    families = np.array([BLOCKS[block].family for block in blocks])
    for family, colour in BANDS.items():
        inside = np.flatnonzero(families == family)
        if len(inside):
            axes.axhspan(inside[0] - 0.5, inside[-1] + 0.5, color=colour, zorder=0, linewidth=0)
            style = {"rotation": 270, "va": "center", "ha": "left", "fontsize": 7, "color": "#444444"}
            axes.text(1.01, inside.mean(), family, transform=axes.get_yaxis_transform(), **style)
