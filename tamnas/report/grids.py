"""Figures with one panel per row of a dataset, where it has several. Each `draw_*` returns a matplotlib figure.

The same things for a dataset with one row, with more detail, are in `row_plots`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from tamnas.attacks.registry import Attack
from tamnas.report.study import Row, Trained
from tamnas.report.style import (
    BLACK,
    BLUE,
    GREY,
    PAGE,
    VERMILLION,
    freeze,
    label_points,
    legend_above,
    new,
    short_count,
    whole_numbers,
)

COLUMNS = 4
FRONT_PANELS = ("2S_8_1", "S_6_10", "S_8_2")  # the modes of the paper's Figures 6 and 7


def grid(rows: Sequence[Row], draw: Callable[[object, Row], None], x: str, y: str, **shared) -> Figure:
    """One panel per row, titled by its mode; labels on the outer panels only."""
    lines = -(-len(rows) // COLUMNS)
    figure = new(PAGE, 0.7 + 1.75 * lines)
    panels = figure.subplots(lines, COLUMNS, squeeze=False, **shared).ravel()
    for axes, row in zip(panels[: len(rows)], rows, strict=True):
        draw(axes, row)
        axes.set_title(row.plan.mode)
        axes.xaxis.set_major_locator(MaxNLocator(4) if x == "clean error (%)" else whole_numbers(4))
    for unused in panels[len(rows) :]:
        unused.set_axis_off()
    for index, axes in enumerate(panels[: len(rows)]):
        if index % COLUMNS == 0:
            axes.set_ylabel(y)
        if index + COLUMNS >= len(rows):
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)
    return figure


def draw_scratch_and_finetune_grid(rows: Sequence[Row], attack: Attack) -> Figure:
    """Figure 5: both errors as axes, the size as area."""
    counts = [network.parameters for row in rows for network in (*row.scratch, *row.finetune)]
    area = _areas(counts, 6, 60)

    def errors(network: Trained) -> tuple[float, float]:
        return 100 * (1 - network.test.clean), 100 * (1 - network.test.grid.get(attack, float("nan")))

    def panel(axes, row: Row) -> None:
        finetuned = {network.id: network for network in row.finetune}
        for one in row.scratch:
            if one.id in finetuned:
                axes.plot(*zip(errors(one), errors(finetuned[one.id]), strict=True), color="#C4C4C4", linewidth=0.6,
                          zorder=1)  # fmt: skip
        for networks, style in ((row.scratch, SCRATCH), (row.finetune, FINETUNED)):
            places = np.array([errors(one) for one in networks]).reshape(-1, 2)
            axes.scatter(*places.T, s=[area(one.parameters) for one in networks], **style)

    figure = grid(rows, panel, "clean error (%)", "robust error (%)")
    sizes = sorted({min(counts), max(counts)})
    legend_above(
        figure,
        [
            Line2D([], [], linestyle="none", marker="o", color=VERMILLION, markersize=5, label="trained from scratch"),
            Line2D([], [], linestyle="none", marker="s", markerfacecolor="none", markeredgecolor=BLUE, markersize=5,
                   label="fine-tuned"),
            *_size_handles(sizes, area),
        ],
    )  # fmt: skip
    return figure


SCRATCH = {"marker": "o", "color": VERMILLION, "alpha": 0.8, "linewidths": 0, "zorder": 3}
FINETUNED = {"marker": "s", "facecolors": "none", "edgecolors": BLUE, "linewidths": 0.9, "zorder": 2}


def front_rows(rows: Sequence[Row]) -> list[Row]:
    """At most three: the modes of the paper's figures, then the first of the others."""
    by_mode = {row.plan.mode: row for row in rows}
    found = [by_mode[mode] for mode in FRONT_PANELS if mode in by_mode]
    return (found + [row for row in rows if row not in found])[:3]


def draw_fronts_grid(rows: Sequence[Row]) -> Figure:
    """Figure 6 above Figure 7: fronts before and after training, on validation."""
    rows = front_rows(rows)
    figure = new(PAGE, 4.8)
    panels = figure.subplots(2, len(rows), squeeze=False)
    counts = [one.parameters for row in rows for one in row.front]
    area, waiting = _areas(counts, 12, 110), []
    for column, row in enumerate(rows):
        chosen = sorted(row.selected, key=lambda one: (-one.robust, one.id))
        shades = {one.id: colormaps["cividis"](0.05 + 0.9 * rank / max(1, len(chosen) - 1))
                  for rank, one in enumerate(chosen)}  # fmt: skip
        before = [(one.id, one.robust, one.clean, one.parameters) for one in row.front]
        weights = row.plan.eval.weights
        after = [(one.id, one.validation[weights]["robust"], one.validation[weights]["clean"], one.parameters)
                 for one in row.scratch]  # fmt: skip
        for axes, networks in ((panels[0, column], before), (panels[1, column], after)):
            for name, robust, clean, parameters in sorted(networks, key=lambda one: (-one[3], one[0])):
                axes.scatter([100 * (1 - robust)], [100 * (1 - clean)], s=area(parameters), edgecolors=BLACK,
                             color=[shades.get(name, "white")], linewidths=0.5, alpha=0.85,
                             zorder=3 if name in shades else 2)  # fmt: skip
            axes.set_xlabel("robust error (%)")
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.margins(0.16)
            # Few labels stay readable: the extremes of what is compared.
            waiting.append((axes, [one for one in networks if one[0] in _extremes(row, shades)]))
        panels[0, column].set_title(f"{row.plan.mode}, before training")
        panels[1, column].set_title(f"{row.plan.mode}, after training")
    for axes in panels[:, 0]:
        axes.set_ylabel("clean error (%)")
    legend_above(figure, _size_handles(sorted({min(counts), (min(counts) + max(counts)) // 2, max(counts)}), area))
    freeze(figure)
    for axes, networks in waiting:
        points = [(100 * (1 - robust), 100 * (1 - clean)) for _, robust, clean, _ in networks]
        label_points(axes, points, [one[0] for one in networks], [area(one[3]) ** 0.5 / 2 for one in networks])
    return figure


def _extremes(row: Row, known: dict) -> set[str]:
    """The smallest and largest subnet, the best before training and the best after it."""
    picked = [min(row.scratch, key=lambda one: one.parameters), max(row.scratch, key=lambda one: one.parameters),
              row.best, max(row.selected, key=lambda one: one.robust)]  # fmt: skip
    return {one.id for one in picked if one.id in known}


def draw_ranks_grid(rows: Sequence[Row]) -> Figure:
    def panel(axes, row: Row) -> None:
        weights, inherited = row.plan.eval.weights, {one.id: one for one in row.selected}
        count = len(row.scratch)
        axes.plot([1, count], [1, count], color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        for which, style in (("clean", FINETUNED), ("robust", SCRATCH)):
            x = rankdata([-getattr(inherited[one.id], which) for one in row.scratch])
            y = rankdata([-one.validation[weights][which] for one in row.scratch])
            axes.scatter(x, y, s=16, **style)
        taus = [row.tau[which]["tau"] for which in ("clean", "robust")]
        axes.text(0.02, 0.98, "tau " + ", ".join("undefined" if tau is None else f"{tau:.2f}".replace("-", "−")
                                                  for tau in taus),
                  transform=axes.transAxes, va="top", fontsize=7)  # fmt: skip
        room = 0.12 * (count - 1) or 0.5
        axes.set_xlim(1 - room, count + room)
        axes.set_ylim(1 - room, count + room + 0.16 * count)
        axes.yaxis.set_major_locator(whole_numbers(4))

    figure = grid(rows, panel, "inherited rank", "rank after training")
    legend_above(
        figure,
        [
            Line2D([], [], linestyle="none", marker="s", markerfacecolor="none", markeredgecolor=BLUE, markersize=5,
                   label="clean (first tau)"),
            Line2D([], [], linestyle="none", marker="o", color=VERMILLION, markersize=5, label="robust (second tau)"),
        ],
    )  # fmt: skip
    return figure


def draw_supernet_grid(rows: Sequence[Row]) -> Figure:
    def panel(axes, row: Row) -> None:
        lines = [*row.block_curve, *row.joint_curve]
        every = max(1, len(lines) // 8)
        for which, label, style in (("clean", "clean", LINES["scratch clean"]),
                                    ("robust", "under the training attack", LINES["scratch robust"])):  # fmt: skip
            axes.plot(np.arange(len(lines)) + 1, [100 * line[f"train_{which}"] for line in lines], markevery=every,
                      label=label, **style)  # fmt: skip
        axes.axvline(len(row.block_curve) + 0.5, color=GREY, linestyle="--", linewidth=0.9)

    figure = grid(rows, panel, "epoch", "training accuracy (%)", sharey=True)
    legend_above(figure)
    return figure


LINES = {
    "scratch clean": {"color": BLUE, "marker": "o", "linestyle": "-", "markersize": 3.5},
    "scratch robust": {"color": VERMILLION, "marker": "s", "linestyle": "--", "markersize": 3.5},
    "fine-tuned clean": {"color": BLACK, "marker": "^", "linestyle": ":", "markersize": 3.5},
    "fine-tuned robust": {"color": GREY, "marker": "v", "linestyle": "-.", "markersize": 3.5},
}


def draw_retraining_grid(rows: Sequence[Row]) -> Figure:
    def panel(axes, row: Row) -> None:
        for kind, networks in (("scratch", row.scratch), ("fine-tuned", row.finetune)):
            for which in ("clean", "robust"):
                means = _mean_curve(networks, f"validation_{which}")
                label = f"{kind}, {which}"
                axes.plot(list(means), list(means.values()), markevery=max(1, len(means) // 8), label=label,
                          **LINES[f"{kind} {which}"])  # fmt: skip

    figure = grid(rows, panel, "epoch", "validation accuracy (%)", sharey=True)
    legend_above(figure)
    return figure


def _mean_curve(networks: Sequence[Trained], key: str) -> dict[int, float]:
    """Mean over the networks, in percent, by epoch from 1; epochs in which it was measured for all."""
    curves = [{line["epoch"] + 1: line[key] for line in one.curve if line[key] is not None} for one in networks]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    return {epoch: 100 * float(np.mean([curve[epoch] for curve in curves])) for epoch in shared}


def _areas(counts: Sequence[int], least: float, most: float) -> Callable[[int], float]:
    """Marker area in square points, linear in the number of parameters."""
    low, high = min(counts), max(counts)
    return lambda count: least + (most - least) * ((count - low) / (high - low) if high > low else 0.5)


def _size_handles(counts: Sequence[int], area: Callable[[int], float]) -> list[Line2D]:
    return [Line2D([], [], linestyle="none", marker="o", markersize=area(count) ** 0.5, markerfacecolor="#DDDDDD",
                   markeredgecolor=BLACK, markeredgewidth=0.6, label=f"{short_count(count)} parameters")
            for count in counts]  # fmt: skip
