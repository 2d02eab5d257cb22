"""What figures show, read back from their axes and from the page's data."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from tamnas.report import collect
from tamnas.report.figures.architectures import FIRST, draw_layers
from tamnas.report.figures.datasets import draw_robustness
from tamnas.report.figures.rows import draw_ranks, draw_retraining
from tamnas.report.page import explore
from tests.helpers.planted import ranked
from tests.helpers.small_results import edit_csv, params, small_dataset, write_run


def test_equal_orders_lie_on_the_diagonal_of_the_rank_figure(folder):
    (row,) = small_dataset(folder).rows
    for axes in draw_ranks([ranked(row)]).axes[:2]:
        assert axes.collections[0].get_offsets().tolist() == [[3, 3], [2, 2], [1, 1]]  # the last is the best
        assert "tau = 1.00" in axes.get_title()


def test_the_most_frequent_choice_has_the_circle(folder):
    dataset = small_dataset(folder, networks=6)
    (row,) = dataset.rows
    for axes, gene in zip(draw_layers(row.space, row.lego).axes, ("block", "ratio"), strict=True):
        values = [float(label.get_text()) for label in axes.get_yticklabels()]
        circles = [one for one in axes.collections if np.allclose(one.get_facecolor(), to_rgba(FIRST["color"]))]
        shown = {int(x): values[int(y)] for one in circles for x, y in one.get_offsets().tolist()}
        counts = [line for line in row.lego.counts if line["gene"] == gene and line["rank"] == 0]
        assert shown == {line["layer"]: pytest.approx(line["value"]) for line in counts}


def test_the_figure_of_retraining_shows_validation(folder):
    (row,) = small_dataset(folder).rows
    for axes, networks in zip(draw_retraining([row]).axes[:2], (row.scratch, row.finetune), strict=True):
        (mean,) = (line for line in axes.lines if line.get_label() == "clean")
        epochs = [[100 * line["validation_clean"] for line in one.curve] for one in networks]
        assert mean.get_xdata().tolist() == [1, 2, 3]
        assert mean.get_ydata() == pytest.approx(np.mean(epochs, axis=0))


def test_curves_over_the_radius_have_the_most_steps(folder):
    write_run(params(), folder)
    path = Path("results/digits/evaluate_legonet/digits-S_8_1/seed-0/grid.csv")
    edit_csv(path, lambda row: row.update(accuracy="0.25") if row["attack"].startswith("pgd30_") else None)
    (dataset,) = collect.collect()
    (lego_network,) = (one for one in explore.networks([dataset]) if one["key"] == "digits-S_8_1/lego")
    assert lego_network["curve"]["eps"] == [0, 2, 4, 6, 8]
    assert lego_network["curve"]["accuracy"] == [lego_network["clean"]] + [25] * 4
    axes = draw_robustness(dataset).axes[0]
    (line,) = (line for line in axes.lines if line.get_label() == "Lego-Net of digits-S_8_1")
    assert line.get_ydata()[1:] == pytest.approx([25] * 4)
    assert "PGD-30" in axes.get_ylabel()
