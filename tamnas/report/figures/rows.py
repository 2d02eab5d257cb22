"""Figures of a dataset's rows; Figures 5 to 7 of the paper among them. Each `draw_*` returns a matplotlib figure.

One row has a page's width for its panels; several rows share it, in less detail.
"""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from tamnas.attacks.registry import Attack
from tamnas.config.fields import format_fraction
from tamnas.report.agreement import as_searched, searched
from tamnas.report.figures import style
from tamnas.report.study import RowResults
from tamnas.report.terms import tau_text

FRONT_MODES = ("2S_8_1", "S_6_10", "S_8_2")  # of the paper's Figures 6 and 7
SCRATCH = {"marker": "o", "s": 24, "color": style.VERMILLION, "label": "trained from scratch", "zorder": 3}
FINETUNED = {
    "marker": "s",
    "s": 22,
    "facecolors": "white",
    "edgecolors": style.BLUE,
    "linewidths": 1.2,
    "label": "fine-tuned",
    "zorder": 2,
}
LINES = {
    "clean": {"color": style.BLUE, "marker": "o", "linestyle": "-"},
    "robust": {"color": style.VERMILLION, "marker": "s", "linestyle": "--"},
}


def _panels(
    rows: Sequence[RowResults], parts: Sequence, draw: Callable, height: float, columns: int = 4, **shared
) -> Figure:
    """A figure of panels, each drawn by `draw(axes, row, part)`: those of one row side by side, `height` inches high.

    Panels of several rows are smaller, in lines of `columns`, with modes in their titles and labels at the edges only.
    """
    several = len(rows) > 1
    cells = [(row, part) for row in rows for part in parts]
    columns = columns if several else len(parts)
    lines = -(-len(cells) // columns)
    figure = style.new(style.PAGE, 0.7 + 0.65 * height * lines if several else height)
    panels = figure.subplots(lines, columns, squeeze=False, **shared).ravel()
    for index, (axes, (row, part)) in enumerate(zip(panels, cells, strict=False)):
        draw(axes, row, part)
        if several:
            axes.set_title("\n".join(filter(None, (row.plan.mode, axes.get_title(loc="left")))))
        if index % columns and (several or shared):
            axes.set_ylabel("")
        if index + columns < len(cells):
            axes.set_xlabel("")
    for unused in panels[len(cells) :]:
        unused.set_axis_off()
    return figure


def draw_scratch_and_finetune(rows: Sequence[RowResults], attack: Attack) -> Figure:
    """Figure 5 as its three projections: a 3D cloud cannot be read off on paper. Of several rows one, size as area."""
    counts = [network.parameters for row in rows for network in (*row.scratch, *row.finetune)]
    unit, word = style.size_unit(counts)
    area = _areas(counts, 6, 60)
    under = f" ({attack.name}, {format_fraction(attack.eps)})" if len(rows) == 1 else ""
    objectives = {
        "size": (f"parameters ({word})", lambda network: network.parameters / unit),
        "clean": ("clean error (%)", lambda network: 100 * (1 - network.test.clean)),
        "robust": (f"robust error{under} (%)", lambda network: 100 * (1 - network.test.grid.get(attack, float("nan")))),
    }

    def draw(axes, row: RowResults, part: tuple[str, str]) -> None:
        (x_label, get_x), (y_label, get_y) = (objectives[name] for name in part)
        finetuned = {network.id: network for network in row.finetune}
        for network in row.scratch:
            if network.id in finetuned:
                pair = (network, finetuned[network.id])
                axes.plot([*map(get_x, pair)], [*map(get_y, pair)], color="#B5B5B5", linewidth=0.7, zorder=1)
        for networks, look in ((row.scratch, SCRATCH), (row.finetune, FINETUNED)):
            sizes = {"s": [area(network.parameters) for network in networks]} if len(rows) > 1 else {}
            axes.scatter([*map(get_x, networks)], [*map(get_y, networks)], **look | sizes)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.margins(0.1)

    if len(rows) > 1:
        figure = _panels(rows, [("clean", "robust")], draw, 2.7)
        style.legend_above(figure, _size_handles({min(counts), max(counts)}, area))
    else:
        figure = _panels(rows, [("size", "clean"), ("size", "robust"), ("clean", "robust")], draw, 2.7)
        style.legend_above(figure)
    return figure


def front_rows(rows: Sequence[RowResults]) -> list[RowResults]:
    """At most three: the modes of the paper's figures, then the first of the others."""
    by_mode = {row.plan.mode: row for row in rows}
    chosen = [by_mode[mode] for mode in FRONT_MODES if mode in by_mode]
    return (chosen + [row for row in rows if row not in chosen])[:3]


def draw_fronts(rows: Sequence[RowResults]) -> Figure:
    """Figures 6 and 7 side by side, both on validation."""
    counts = [network.parameters for row in rows for network in row.front]
    low, high = min(counts), max(counts)
    area = _areas(counts, 30, 220)
    labels = []

    def draw(axes, row: RowResults, part: str) -> None:
        best_first = sorted(row.selected, key=lambda network: (-network.robust, network.id))
        last = max(1, len(best_first) - 1)
        shades = {one.id: colormaps["cividis"](0.05 + 0.9 * rank / last) for rank, one in enumerate(best_first)}
        if part == "before":
            measured = [(one, one.robust, one.clean) for one in row.front]
            axes.set_title("before training (inherited weights)")
        else:
            shares = ((one, one.validation[row.plan.eval.weights]) for one in row.scratch)
            measured = [(one, share["robust"], share["clean"]) for one, share in shares]
            axes.set_title("after training from scratch")
        errors = ((one, 100 * (1 - robust), 100 * (1 - clean)) for one, robust, clean in measured)
        networks = [(one.id, one.parameters, point) for one, *point in errors]
        for name, count, point in sorted(networks, key=lambda network: (-network[1], network[0])):
            look = {"color": [shades.get(name, "white")], "edgecolors": style.BLACK, "linewidths": 0.6}
            axes.scatter(*point, s=area(count), zorder=3 if name in shades else 2, **look)
        axes.set(xlabel="robust error (%)", ylabel="clean error (%)")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.margins(0.16)
        names, counts, points = zip(*networks, strict=True)
        texts = [name if name in shades else "" for name in names]
        labels.append((axes, points, texts, [area(count) ** 0.5 / 2 for count in counts]))

    figure = _panels(rows, ("before", "after"), draw, 3.7, columns=2)
    style.legend_above(figure, _size_handles({low, (low + high) // 2, high}, area), borderpad=0.8)
    for label in labels:
        style.label_points(*label)
    return figure


def draw_ranks(rows: Sequence[RowResults]) -> Figure:
    labels = []

    def draw(axes, row: RowResults, part: str) -> None:
        ids = [network.id for network in row.ranking]
        count = len(ids)
        if not ids:
            axes.set_title(f"{part}: not run")
            return
        x = rankdata([-network.inherited[searched(row)][part] for network in row.ranking])
        y = rankdata([-network.trained[part] for network in row.ranking])
        axes.plot([1, count], [1, count], color=style.GREY, linewidth=0.8, linestyle="--", zorder=1)
        axes.scatter(x, y, s=26, color=style.BLUE, marker="o" if part == "clean" else "s", zorder=3)
        tau = tau_text(as_searched(row).get(part), count)
        axes.set_title(f"{part}: tau = {tau if len(rows) == 1 else tau.split(' (')[0]}")
        axes.set_xlabel("rank with inherited weights")
        axes.set_ylabel("rank after training from scratch" if len(rows) == 1 else "rank after training")
        ticks = range(1, count + 1) if count <= 10 else [1, *range(5, count + 1, 5)]
        room = 0.12 * (count - 1) or 0.5
        axes.set(xticks=ticks, yticks=ticks, xlim=(1 - room, count + room), ylim=(1 - room, count + room))
        labels.append((axes, list(zip(x, y, strict=True)), ids, [2.8] * count))

    figure = _panels(rows, ("clean", "robust"), draw, 3.3)
    if len(rows) == 1:
        for label in labels:
            style.label_points(*label)
    return figure


def draw_supernet(rows: Sequence[RowResults]) -> Figure:
    def draw(axes, row: RowResults, part: str) -> None:
        lines = [*row.block_curve, *row.joint_curve]
        epochs, border = np.arange(len(lines)) + 1, len(row.block_curve) + 0.5
        every = max(1, len(lines) // 12)
        if part == "accuracy":
            for which, label in (("clean", "clean"), ("robust", "under the training attack")):
                shares = [100 * line[f"train_{which}"] for line in lines]
                axes.plot(epochs, shares, markevery=every, label=label, **LINES[which])
            axes.set_ylabel("accuracy on training batches (%)" if len(rows) == 1 else "training accuracy (%)")
        else:
            losses = [line["loss"] for line in lines]
            axes.plot(epochs, losses, color=style.BLACK, marker=style.MARKERS[2], markevery=every)
            axes.set_ylabel("training loss")
        axes.set_xlabel("epoch")
        axes.axvline(border, color=style.GREY, linestyle="--", linewidth=0.9)
        axes.xaxis.set_major_locator(style.whole_numbers())
        if len(rows) == 1:
            above = {"transform": axes.get_xaxis_transform(), "va": "bottom", "fontsize": 7, "color": "#444444"}
            axes.text(border, 1.01, "block phase  ", ha="right", **above)
            axes.text(border, 1.01, "  joint phase", ha="left", **above)

    if len(rows) > 1:
        figure = _panels(rows, ["accuracy"], draw, 2.7, sharey=True)
    else:
        figure = _panels(rows, ["accuracy", "loss"], draw, 2.7)
    style.legend_above(figure)
    return figure


def draw_retraining(rows: Sequence[RowResults]) -> Figure:
    def draw(axes, row: RowResults, part: str) -> None:
        networks = row.scratch if part == "from scratch" else row.finetune
        for which, look in LINES.items():
            curves = []
            for network in networks:
                measured = [(line["epoch"] + 1, line[f"validation_{which}"]) for line in network.curve]
                curve = {epoch: 100 * share for epoch, share in measured if share is not None}
                thin = look | {"marker": None, "linewidth": 0.6, "alpha": 0.4}
                axes.plot(list(curve), list(curve.values()), **thin)
                curves.append(curve)
            shared = sorted(set.intersection(*map(set, curves))) if curves else []
            means = [np.mean([curve[epoch] for curve in curves]) for epoch in shared]
            axes.plot(shared, means, linewidth=1.8, markevery=max(1, len(shared) // 10), label=which, **look)
        title = part if networks else f"{part}: not run"
        axes.set(title=title, xlabel="epoch", ylabel="validation accuracy (%)")
        axes.xaxis.set_major_locator(style.whole_numbers())

    figure = _panels(rows, ("from scratch", "fine-tuned"), draw, 2.7, sharey=True)
    style.legend_above(figure)
    return figure


def _areas(counts: Sequence[int], least: float, most: float) -> Callable[[int], float]:
    """Marker area in square points, linear in the number of parameters."""
    low, high = min(counts), max(counts)
    return lambda count: least + (most - least) * ((count - low) / (high - low) if high > low else 0.5)


def _size_handles(counts: set[int], area: Callable[[int], float]) -> list[Line2D]:
    look = {
        "linestyle": "none",
        "marker": "o",
        "color": "#DDDDDD",
        "markeredgecolor": style.BLACK,
        "markeredgewidth": 0.6,
    }
    return [
        Line2D([], [], markersize=area(count) ** 0.5, label=f"{style.short_count(count)} parameters", **look)
        for count in sorted(counts)
    ]
