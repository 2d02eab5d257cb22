"""Figures of one row; Figures 5 to 7 of the paper among them. Each `draw_*` returns a matplotlib figure."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from tamnas.attacks.registry import Pgd
from tamnas.config.fields import format_fraction
from tamnas.report.study import Row
from tamnas.report.style import (
    BLACK,
    BLUE,
    GREY,
    MARKERS,
    PAGE,
    VERMILLION,
    freeze,
    label_points,
    legend_above,
    new,
    short_count,
    size_unit,
    whole_numbers,
)
from tamnas.report.terms import tau_text

LINES = {
    "clean": {"color": BLUE, "marker": "o", "linestyle": "-"},
    "robust": {"color": VERMILLION, "marker": "s", "linestyle": "--"},
}


def draw_scratch_and_finetune(row: Row, attack: Pgd) -> Figure:
    """Figure 5 as its three projections: a 3D cloud cannot be read off on paper."""
    figure = new(PAGE, 2.7)
    panels = figure.subplots(1, 3)
    finetuned = {network.id: network for network in row.finetune}
    pairs = [(network, finetuned[network.id]) for network in row.scratch if network.id in finetuned]
    unit, word = size_unit([network.parameters for network in row.scratch])
    radius = f"{attack.name}, {format_fraction(attack.eps)}"
    objectives = {
        "size": (f"parameters ({word})", lambda one: one.parameters / unit),
        "clean": ("clean error (%)", lambda one: 100 * (1 - one.test.clean)),
        "robust": (f"robust error ({radius}) (%)", lambda one: 100 * (1 - one.test.grid.get(attack, float("nan")))),
    }
    for axes, (x, y) in zip(panels, (("size", "clean"), ("size", "robust"), ("clean", "robust")), strict=True):
        (x_label, get_x), (y_label, get_y) = objectives[x], objectives[y]
        for pair in pairs:
            axes.plot(
                [get_x(one) for one in pair], [get_y(one) for one in pair], color="#B5B5B5", linewidth=0.7, zorder=1
            )
        axes.scatter([get_x(one) for one in row.scratch], [get_y(one) for one in row.scratch], s=24, marker="o",
                     color=VERMILLION, label="trained from scratch", zorder=3)  # fmt: skip
        axes.scatter([get_x(one) for one in row.finetune], [get_y(one) for one in row.finetune], s=22, marker="s",
                     facecolors="white", edgecolors=BLUE, linewidths=1.2, label="fine-tuned", zorder=2)  # fmt: skip
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.margins(0.1)
    legend_above(figure)
    return figure


def draw_fronts(row: Row) -> Figure:
    """Figures 6 and 7 side by side, both on validation."""
    figure = new(PAGE, 3.7)
    panels = figure.subplots(1, 2)
    trained = {network.id: network for network in row.scratch}
    weights = row.plan.eval.weights
    sizes = [one.parameters for one in row.front]
    low, high = min(sizes), max(sizes)

    def area(count: int) -> float:
        return 30 + 190 * ((count - low) / (high - low) if high > low else 0.5)

    ranks = {one.id: rank for rank, one in enumerate(sorted(row.selected, key=lambda one: (-one.robust, one.id)))}
    shades = {name: colormaps["cividis"](0.05 + 0.9 * rank / max(1, len(ranks) - 1)) for name, rank in ranks.items()}
    before = [(one.id, one.robust, one.clean, one.parameters) for one in row.front]
    after = [(name, one.validation[weights]["robust"], one.validation[weights]["clean"], one.parameters)
             for name, one in trained.items()]  # fmt: skip
    waiting = []
    for axes, networks, title in ((panels[0], before, "before training (inherited weights)"),
                                  (panels[1], after, "after training from scratch")):  # fmt: skip
        for name, robust, clean, parameters in sorted(networks, key=lambda one: (-one[3], one[0])):
            place = {"x": [100 * (1 - robust)], "y": [100 * (1 - clean)], "s": area(parameters)}
            shade, order = shades.get(name, "white"), 3 if name in shades else 2
            axes.scatter(**place, color=[shade], edgecolors=BLACK, linewidths=0.6, alpha=0.85, zorder=order)
        axes.set_title(title)
        axes.set_xlabel("robust error (%)")
        axes.set_ylabel("clean error (%)")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.margins(0.16)
        labelled = [one for one in networks if one[0] in shades]
        waiting.append((axes, labelled))
    shown = sorted({low, (low + high) // 2, high})
    handles = [Line2D([], [], linestyle="none", marker="o", markersize=area(count) ** 0.5, markerfacecolor="#DDDDDD",
                      markeredgecolor=BLACK, markeredgewidth=0.6, label=f"{short_count(count)} parameters")
               for count in shown]  # fmt: skip
    legend_above(figure, handles, borderpad=0.8)
    freeze(figure)
    for axes, networks in waiting:
        points = [(100 * (1 - robust), 100 * (1 - clean)) for _, robust, clean, _ in networks]
        label_points(axes, points, [one[0] for one in networks], [area(one[3]) ** 0.5 / 2 for one in networks])
    return figure


def draw_ranks(row: Row) -> Figure:
    figure = new(PAGE, 3.3)
    panels = figure.subplots(1, 2)
    weights = row.plan.eval.weights
    inherited = {one.id: one for one in row.selected}
    ids = [network.id for network in row.scratch]
    waiting = []
    for axes, which in zip(panels, ("clean", "robust"), strict=True):
        x = rankdata([-getattr(inherited[name], which) for name in ids])
        y = rankdata([-network.validation[weights][which] for network in row.scratch])
        axes.plot([1, len(ids)], [1, len(ids)], color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        axes.scatter(x, y, s=26, color=BLUE, marker="o" if which == "clean" else "s", zorder=3)
        axes.set_title(f"{which}: tau = {tau_text(row.tau[which])}")
        axes.set_xlabel("rank with inherited weights")
        axes.set_ylabel("rank after training from scratch")
        ticks = range(1, len(ids) + 1) if len(ids) <= 10 else [1, *range(5, len(ids) + 1, 5)]
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        room = 0.12 * (len(ids) - 1) or 0.5
        axes.set_xlim(1 - room, len(ids) + room)
        axes.set_ylim(1 - room, len(ids) + room)
        waiting.append((axes, list(zip(x, y, strict=True))))
    freeze(figure)
    for axes, points in waiting:
        label_points(axes, points, ids, [2.8] * len(points))
    return figure


def draw_supernet(row: Row) -> Figure:
    lines = [*row.block_curve, *row.joint_curve]
    epochs, border = np.arange(len(lines)) + 1, len(row.block_curve) + 0.5
    figure = new(PAGE, 2.7)
    left, right = figure.subplots(1, 2)
    every = max(1, len(lines) // 12)
    for which, label in (("clean", "clean"), ("robust", "under the training attack")):
        shares = [100 * line[f"train_{which}"] for line in lines]
        left.plot(epochs, shares, markevery=every, label=label, **LINES[which])
    right.plot(epochs, [line["loss"] for line in lines], color=BLACK, marker=MARKERS[2], markevery=every)
    left.set_ylabel("accuracy on training batches (%)")
    right.set_ylabel("training loss")
    legend_above(figure)
    for axes in (left, right):
        axes.axvline(border, color=GREY, linestyle="--", linewidth=0.9)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(whole_numbers())
        for x, text, side in ((border, "block phase  ", "right"), (border, "  joint phase", "left")):
            axes.text(
                x, 1.01, text, transform=axes.get_xaxis_transform(), ha=side, va="bottom", fontsize=7, color="#444444"
            )
    return figure


def draw_retraining(row: Row) -> Figure:
    figure = new(PAGE, 2.7)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, networks, title in ((panels[0], row.scratch, "from scratch"), (panels[1], row.finetune, "fine-tuned")):
        for which, style in LINES.items():
            curves = []
            for network in networks:
                measured = [(line["epoch"] + 1, line[f"validation_{which}"]) for line in network.curve]
                curve = {epoch: 100 * share for epoch, share in measured if share is not None}
                thin = style | {"marker": None, "linewidth": 0.6, "alpha": 0.4}
                axes.plot(list(curve), list(curve.values()), **thin)
                curves.append(curve)
            shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
            means = [np.mean([curve[epoch] for curve in curves]) for epoch in shared]
            axes.plot(shared, means, linewidth=1.8, markevery=max(1, len(shared) // 10), label=which, **style)
        axes.set_title(title if networks else f"{title}: not run")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(whole_numbers())
    panels[0].set_ylabel("validation accuracy (%)")
    legend_above(figure)
    return figure
