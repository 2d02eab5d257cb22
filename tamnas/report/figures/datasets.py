"""Figures over all rows of a dataset. Each `draw_*` returns a matplotlib figure."""

from collections.abc import Sequence
from math import isfinite, log10

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tamnas.attacks.registry import Attack
from tamnas.report.accuracy import accuracy_of
from tamnas.report.figures import style
from tamnas.report.intervals import wilson
from tamnas.report.study import Dataset, TrainedNetwork
from tamnas.report.tables.networks import lego_networks
from tamnas.report.terms import name_of

# What a marker stands for: marker, colour, area in square points.
KIND_STYLE = {
    "best": ("o", style.BLUE, 46),
    "Lego-Net": ("D", style.ORANGE, 46),
    "Lego-Net, pooled": ("*", style.VERMILLION, 110),
    "hand-made": ("s", style.GREEN, 40),
}
BARS = 6  # more networks than that, and their intervals hide each other


def draw_overview(datasets: Sequence[Dataset]) -> Figure:
    figure = style.new(style.PAGE, 2.9 * len(datasets) + 0.3)
    panels = figure.subplots(len(datasets), 2, squeeze=False)
    labels = []
    for dataset, pair in zip(datasets, panels, strict=True):
        for axes, attack in zip(pair, (None, dataset.key_attack), strict=True):
            labels.append((axes, *_size_against_accuracy(axes, dataset, attack)))
        pair[0].set_title(f"{dataset.name}, n = {dataset.images['test']:,} test images")
    style.legend_above(figure, columns=5)
    for label in labels:
        style.label_points(*label)
    return figure


def _size_against_accuracy(axes, dataset: Dataset, attack: Attack | None) -> tuple[list, list[str], list[float]]:
    """Draws all networks, by clean accuracy without an attack. Returns points, texts and radii for `label_points`."""
    searched, named = [network for row in dataset.rows for network in row.scratch], _named(dataset)
    random = dataset.controls_of("random_networks", "lego_random")
    networks = [network for _, network, _ in named] + searched + random
    counts = [network.parameters for network in networks]
    unit, word = style.size_unit(counts)
    shares = [accuracy_of(network.test, attack) for network in networks]
    points = [
        (network.parameters / unit, float("nan") if share is None else 100 * share)
        for network, share in zip(networks, shares, strict=True)
    ]
    small = {"s": 14, "color": style.BLUE, "alpha": 0.55, "linewidths": 0}
    first = len(named) + len(searched)
    axes.scatter(*zip(*points[len(named) : first], strict=True), label="searched subnets", **small)
    if random:
        axes.scatter(*zip(*points[first:], strict=True), label="random networks", s=22, marker="x", color=style.GREY)
    for (kind, network, _), (x, y) in zip(named, points, strict=False):
        if len(named) <= BARS and isfinite(y):
            low, high = wilson(y / 100, network.test.images)
            axes.vlines(x, 100 * low, 100 * high, color="#A8A8A8", linewidth=0.8, zorder=0.9)  # below all networks
        marker, colour, size = KIND_STYLE[kind]
        title = {"best": "best of a row", "hand-made": "hand-made networks"}.get(kind, kind)
        ringed = {"color": colour, "edgecolors": style.BLACK, "linewidths": 0.9}
        axes.scatter(x, y, s=size, marker=marker, label=title, zorder=3, **ringed)
    _size_axis(axes, word, counts)
    axes.set_ylabel("clean accuracy (%)" if attack is None else f"accuracy under {attack.text} (%)")
    axes.margins(x=0.12, y=0.12)
    others = len(networks) - len(named)
    return points, [text for _, _, text in named] + [""] * others, [4.5] * len(named) + [2] * others


def _named(dataset: Dataset) -> list[tuple[str, TrainedNetwork, str]]:
    """(kind, network, label) of the networks that get a marker of their own; with several rows one Lego-Net, of all."""
    several = len(dataset.rows) > 1
    if several:
        legos = [("Lego-Net, pooled", dataset.pooled.network, "Lego-Net")] if dataset.pooled else []
    else:
        legos = [("Lego-Net", row.lego.network, "Lego-Net") for row in dataset.rows if row.lego]
    best = [("best", row.best, row.plan.mode if several else row.best.id) for row in dataset.rows]
    hand_made = [(name_of(network.id), network) for network in dataset.baselines]
    uniform = dataset.controls.of("lego_uniform") if several else dataset.controls_of("lego_uniform")
    hand_made += [("uniform", network) for network in uniform]
    return legos + best + [("hand-made", network, text) for text, network in hand_made]


def _size_axis(axes, word: str, counts: Sequence[int]) -> None:
    axes.set_xlabel(f"parameters ({word})")
    if max(counts) > 4 * min(counts):
        axes.set_xscale("log")
        decades = log10(max(counts) / min(counts))  # labels at 1, 2 and 5 of many decades run together
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1, 3) if decades < 2.5 else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))


def draw_robustness(dataset: Dataset) -> Figure:
    """Accuracy against eps of the final networks; with several rows searched and hand-made ones apart."""
    hand_made = [(name_of(network.id), network) for network in dataset.baselines]
    legos = [(name, network) for name, network, _ in lego_networks(dataset) if network]
    searched = [(f"{row.name} {row.best.id}", row.best) for row in dataset.rows]
    if len(dataset.rows) == 1:
        groups = [hand_made + legos + searched]
    else:
        pooled = legos[:1] if dataset.pooled else []
        searched = [(row.plan.mode, row.best) for row in dataset.rows]
        groups = [group for group in (pooled + searched, pooled + hand_made) if group]
    figure = style.new(style.PAGE, 3.4)
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, networks in zip(panels, groups, strict=True):
        _accuracy_against_eps(axes, dataset, networks)
        if len(groups) == 1:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3.2)
        else:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=3.2, ncols=3, columnspacing=1.0)
    panels[0].set_ylabel(f"accuracy under PGD-{max(dataset.plan.eval.steps)} (%)")
    return figure


def _accuracy_against_eps(axes, dataset: Dataset, networks: Sequence[tuple[str, TrainedNetwork]]) -> None:
    steps = max(dataset.plan.eval.steps)
    for index, (name, network) in enumerate(networks):
        pgd = {attack.eps: share for attack, share in network.test.pgd.items() if attack.steps == steps}
        shares = np.array([network.test.clean, *pgd.values()])
        eps = np.array([0.0, *(float(radius) * 255 for radius in pgd)])
        look = style.series(index)
        if len(networks) <= BARS:
            eps += (index - (len(networks) - 1) / 2) * 0.12
            bounds = np.array([wilson(share, network.test.images) for share in shares]).T
            axes.errorbar(
                eps, 100 * shares, 100 * abs(bounds - shares), fmt="none", elinewidth=0.7, ecolor=look["color"]
            )
        axes.plot(eps, 100 * shares, label=name, **look)
    radii = [0, *(float(radius) * 255 for radius in dataset.plan.eval.eps)]
    axes.set(xlabel="radius eps (1/255 of the pixel range)", xticks=radii)


def draw_hypervolume(dataset: Dataset) -> Figure:
    figure = style.new(style.PAGE, 2.8)
    axes = figure.subplots()
    for index, row in enumerate(dataset.rows):
        own, every = style.series(index), max(1, len(row.hypervolume) // 20)
        for lines, key, look in (
            (row.hypervolume, "hypervolume", {"label": row.name, "markevery": every, **own}),
            (row.hypervolume, "archive_hypervolume", {"color": own["color"], "linewidth": 0.7}),
            (row.random_search, "archive_hypervolume", {"color": own["color"], "linewidth": 0.9, "linestyle": ":"}),
        ):
            if lines:
                axes.plot([line["generation"] for line in lines], [line[key] for line in lines], **look)
    axes.plot([], [], color=style.GREY, linewidth=0.7, label="of all evaluated")
    if any(row.random_search for row in dataset.rows):
        axes.plot([], [], color=style.GREY, linewidth=0.9, linestyle=":", label="random search")
    axes.xaxis.set_major_locator(style.whole_numbers())
    axes.set(xlabel="generation", ylabel="hypervolume (share of the box)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3.2)
    return figure
