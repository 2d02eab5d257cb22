"""Figures of a dataset's rows; Figures 5 to 7 of the paper among them. Each `draw_*` returns a matplotlib figure.

One row has a page's width for its panels; several rows share it, in less detail.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from tamnas.attacks.registry import Attack
from tamnas.config.fields import format_fraction
from tamnas.report.agreement import as_searched, recalibration_of
from tamnas.report.figures import style
from tamnas.report.study import RowResults
from tamnas.report.terms import tau_text
from tamnas.search.objectives import OBJECTIVES, Objective

FRONT_MODES = ("2S_8_1", "S_6_10", "S_8_2")  # of the paper's Figures 6 and 7
CIRCLES = {"marker": "o", "s": 24, "color": style.VERMILLION, "label": "trained from scratch", "zorder": 3}
SQUARES = {
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

    Panels of several rows are smaller, in lines of `columns`, with modes in their titles and, if their searches have
    the same objectives, labels at the edges only.
    """
    several, alike = len(rows) > 1, len({row.plan.search.objectives for row in rows}) == 1
    cells = [(row, part) for row in rows for part in parts]
    columns = columns if several else min(len(parts), columns, 3)
    lines = -(-len(cells) // columns)
    figure = style.new(style.PAGE, 0.7 + 0.65 * height * lines if several else height * lines)
    panels = figure.subplots(lines, columns, squeeze=False, **shared).ravel()
    for index, (axes, (row, part)) in enumerate(zip(panels, cells, strict=False)):
        draw(axes, row, part)
        if several:
            axes.set_title("\n".join(filter(None, (row.plan.mode, axes.get_title(loc="left")))))
        if index % columns and (several or shared) and alike:
            axes.set_ylabel("")
        if index + columns < len(cells) and several and alike:
            axes.set_xlabel("")
    for unused in panels[len(cells) :]:
        unused.set_axis_off()
    return figure


def draw_scratch_and_finetune(rows: Sequence[RowResults], attack: Attack) -> Figure:
    """Figure 5 as projections to each two objectives: a cloud cannot be read off on paper.

    Of several rows one, the size as area.
    """
    counts = [network.parameters for row in rows for network in (*row.scratch, *row.finetune)]
    area = _areas(counts, 6, 60)
    under = f" ({attack.name}, {format_fraction(attack.eps)})" if len(rows) == 1 else ""
    projections = {row.name: _projections(row) for row in rows}

    def draw(axes, row: RowResults, part: int) -> None:
        values = _tested_values(row, attack)
        shown = [
            _scaled(objective, [costs[objective.name] for costs in values.values()])
            for objective in projections[row.name][part]
        ]

        def points(networks: Sequence[tuple[str, str]]) -> list[list[float]]:
            return [
                [values[network][objective.name] / divisor for network in networks] for objective, _, divisor in shown
            ]

        scratch, finetuned = (
            [(kind, network.id) for network in getattr(row, kind)] for kind in ("scratch", "finetune")
        )
        for _, name in scratch:
            if ("finetune", name) in finetuned:
                axes.plot(*points([("scratch", name), ("finetune", name)]), color="#B5B5B5", linewidth=0.7, zorder=1)
        for networks, kind, look in ((row.scratch, scratch, CIRCLES), (row.finetune, finetuned, SQUARES)):
            sizes = {"s": [area(network.parameters) for network in networks]} if len(rows) > 1 else {}
            axes.scatter(*points(kind), **look | sizes)
        labels = [text.replace("robust error", f"robust error{under}") for _, text, _ in shown]
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.margins(0.1)

    if len(rows) > 1:
        figure = _panels(rows, [-1], draw, 2.7)
        style.legend_above(figure, _size_handles({min(counts), max(counts)}, area))
    else:
        figure = _panels(rows, range(len(projections[rows[0].name])), draw, 2.7)
        style.legend_above(figure)
    return figure


def _projections(row: RowResults) -> list[tuple[Objective, Objective]]:
    """Each two objectives of the row's search, sizes before errors; the last are the two errors, if it has both."""
    return list(combinations(sorted(objectives_of(row), key=lambda objective: objective.maximise), 2))


def _tested_values(row: RowResults, attack: Attack) -> dict[tuple[str, str], dict[str, float]]:
    """Costs of retrained networks by (kind, id): errors on test images, the rest as the search measured it."""
    searched = {subnet.id: subnet.measured for subnet in row.selected}
    return {
        (kind, network.id): _costs(
            row, searched[network.id], clean=network.test.clean, robust=network.test.grid.get(attack, float("nan"))
        )
        for kind in ("scratch", "finetune")
        for network in getattr(row, kind)
    }


def objectives_of(row: RowResults) -> list[Objective]:
    return [OBJECTIVES[name] for name in row.plan.search.objectives]


def _costs(row: RowResults, measured: Mapping[str, float], **changed: float) -> dict[str, float]:
    """By objective, the parameters always among them."""
    values = {**measured, **changed}
    return {
        objective.name: objective.cost(values[objective.column])
        for objective in (*objectives_of(row), OBJECTIVES["parameters"])
    }


def _scaled(objective: Objective, costs: Sequence[float]) -> tuple[Objective, str, float]:
    """(objective, axis label, what costs are divided by on it)."""
    divisor, unit = (0.01, "%") if objective.maximise else (1, objective.unit)
    if max(costs) >= 1e4:
        divisor, unit = style.size_unit(costs)
    return objective, f"{objective.label} ({unit})", divisor


def front_rows(rows: Sequence[RowResults]) -> list[RowResults]:
    """At most three: the modes of the paper's figures, then the first of the others."""
    by_mode = {row.plan.mode: row for row in rows}
    chosen = [by_mode[mode] for mode in FRONT_MODES if mode in by_mode]
    return (chosen + [row for row in rows if row not in chosen])[:3]


def area_objective(rows: Sequence[RowResults]) -> Objective:
    """What marker areas of fronts show: the third objective where all searches have the same, else the parameters."""
    thirds = {objective.name for row in rows for objective in _errors_first(row)[2:3] if not objective.maximise}
    same = len(thirds) == 1 and all(len(row.plan.search.objectives) > 2 for row in rows)
    return OBJECTIVES[thirds.pop() if same else "parameters"]


def _errors_first(row: RowResults) -> list[Objective]:
    """They are what training changes: they belong on axes, and sizes into areas."""
    return sorted(objectives_of(row), key=lambda objective: not objective.maximise)


def draw_fronts(rows: Sequence[RowResults]) -> Figure:
    """Figures 6 and 7 side by side, both on validation: the first objective against the second, or a fourth."""
    third = area_objective(rows)
    sizes = [_costs(row, subnet.measured)[third.name] for row in rows for subnet in row.front]
    low, high = min(sizes), max(sizes)
    area = _areas(sizes, 30, 220)
    labels = []

    def draw(axes, row: RowResults, part: tuple[str, int]) -> None:
        best_first = sorted(row.selected, key=lambda network: (-network.robust, network.id))
        last = max(1, len(best_first) - 1)
        shades = {network.id: colormaps["cividis"](0.05 + 0.9 * rank / last) for rank, network in enumerate(best_first)}
        when, other = part
        if other >= len(row.plan.search.objectives):
            axes.set_axis_off()
            return
        if when == "before":
            costs_of = {network.id: _costs(row, network.measured) for network in row.front}
            axes.set_title("before training (inherited weights)")
        else:
            searched = {network.id: network.measured for network in row.selected}
            weights = row.plan.eval.weights
            costs_of = {
                network.id: _costs(row, searched[network.id], **vars(network.record.score(weights)))
                for network in row.scratch
            }
            axes.set_title("after training from scratch")
        y, x = _errors_first(row)[0], _errors_first(row)[other]
        scales = [_scaled(objective, [costs[objective.name] for costs in costs_of.values()]) for objective in (x, y)]
        networks = [
            (name, costs[third.name], [costs[objective.name] / divisor for objective, _, divisor in scales])
            for name, costs in costs_of.items()
        ]
        for name, size, point in sorted(networks, key=lambda network: (-network[1], network[0])):
            look = {"color": [shades.get(name, "white")], "edgecolors": style.BLACK, "linewidths": 0.6}
            axes.scatter(*point, s=area(size), zorder=3 if name in shades else 2, **look)
        axes.set(xlabel=scales[0][1], ylabel=scales[1][1])
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.margins(0.16)
        names, drawn, points = zip(*networks, strict=True)
        texts = [name if name in shades else "" for name in names]
        labels.append((axes, points, texts, [area(size) ** 0.5 / 2 for size in drawn]))

    others = (1, 3) if any(len(row.plan.search.objectives) > 3 for row in rows) else (1,)
    figure = _panels(rows, [(when, other) for other in others for when in ("before", "after")], draw, 3.7, columns=2)
    style.legend_above(figure, _size_handles({low, (low + high) / 2, high}, area, third), borderpad=0.8)
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
        x = rankdata([-network.inherited[recalibration_of(row)][part] for network in row.ranking])
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
                shares = np.array([line[f"train_{which}"] for line in lines], dtype=float)  # none: clean epochs
                axes.plot(epochs, 100 * shares, markevery=every, label=label, **LINES[which])
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


def _areas(counts: Sequence[float], least: float, most: float) -> Callable[[float], float]:
    """Marker area in square points, linear in a size."""
    low, high = min(counts), max(counts)
    return lambda count: least + (most - least) * ((count - low) / (high - low) if high > low else 0.5)


def _size_handles(
    counts: set[float], area: Callable[[float], float], of: Objective = OBJECTIVES["parameters"]
) -> list[Line2D]:
    look = {
        "linestyle": "none",
        "marker": "o",
        "color": "#DDDDDD",
        "markeredgecolor": style.BLACK,
        "markeredgewidth": 0.6,
    }
    return [
        Line2D([], [], markersize=area(count) ** 0.5, label=_size_text(count, of), **look) for count in sorted(counts)
    ]


def _size_text(size: float, of: Objective) -> str:
    if of.maximise:
        return f"{100 * size:.3g}% {of.label}"
    return f"{style.short_count(size)} {of.unit}" if size >= 1e3 else f"{size:.3g} {of.unit}"
