"""Whether one figure predicts the order of networks by another: by definition, by hand, and in the report's table."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import kendalltau

from tamnas.report import collect
from tamnas.report.agreement import agreement, as_searched, chance_of_top
from tamnas.report.metrics import metrics
from tamnas.report.study import Ranked
from tamnas.report.tables.table import markdown
from tests.helpers.small_results import params, records, tables_by_name, write_run

SCORES = [  # predicted, truth
    ((0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)),
    ((0.1, 0.2, 0.3, 0.4), (0.8, 0.7, 0.6, 0.5)),
    ((0.1, 0.2, 0.2, 0.4), (0.5, 0.6, 0.7, 0.8)),
    ((0.1, 0.2, 0.2), (0.5, 0.5, 0.7)),
    ((0.2, 0.4, 0.4, 0.4, 0.3), (0.5, 0.9, 0.9, 0.7, 0.6)),
]


def tau_b(xs, ys) -> float:
    """By definition: (concordant - discordant) / sqrt(pairs untied in x * pairs untied in y)."""
    signs = [(np.sign(xs[i] - xs[j]), np.sign(ys[i] - ys[j])) for i, j in combinations(range(len(xs)), 2)]
    return sum(a * b for a, b in signs) / (sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)) ** 0.5


def tops(values, top: int) -> list[set[int]]:
    """Every choice of the `top` best that breaking ties can give."""
    return [
        set(chosen)
        for chosen in combinations(range(len(values)), top)
        if min(values[i] for i in chosen) >= max((values[i] for i in range(len(values)) if i not in chosen), default=0)
    ]


@pytest.mark.parametrize(("predicted", "truth"), SCORES)
def test_by_definition(predicted, truth):
    for top in range(1, len(truth) + 1):
        found = agreement(predicted, truth, top)
        assert (
            found.tau.value == pytest.approx(tau_b(predicted, truth)) == pytest.approx(kendalltau(predicted, truth)[0])
        )
        pairs = list(product(tops(predicted, top), tops(truth, top)))
        assert found.overlap == pytest.approx(np.mean([len(ours & theirs) / top for ours, theirs in pairs]))
        picked = np.mean([truth[next(iter(chosen))] for chosen in tops(predicted, 1)])
        assert found.regret == pytest.approx(max(truth) - picked)
        assert (found.top, found.networks) == (top, len(truth))


@pytest.mark.parametrize(("predicted", "truth"), [((0.5,) * 3, (0.1, 0.2, 0.3)), ((0.1, 0.2, 0.3), (0.5,) * 3)])
def test_no_tau_of_a_constant(predicted, truth):
    found = agreement(predicted, truth)
    assert found.tau is None
    assert found.overlap == pytest.approx(1 / 3)
    assert found.regret == pytest.approx(max(truth) - np.mean(truth))


def test_a_third_is_the_top_if_nothing_is_said():
    assert [agreement(range(n), range(n)).top for n in (3, 5, 6, 7, 30)] == [1, 1, 2, 2, 10]


def test_chances_add_up_to_the_top():
    for values, top in product(np.random.default_rng(0).integers(4, size=(50, 9)), (1, 4, 9)):
        chances = chance_of_top(values, top)
        assert chances.sum() == pytest.approx(top)
        assert chances.min() >= 0
        assert chances.max() <= 1


def test_intervals_are_those_of_resampled_networks():
    """The bootstrap again, with a loop, other draws and scipy's tau of the networks drawn."""
    random = np.random.default_rng(3)
    truth = random.random(25)
    predicted = truth + random.normal(0, 0.2, 25)
    found = agreement(predicted, truth, 5)
    draws = [np.random.default_rng(i).integers(25, size=25) for i in range(1000)]
    taus = [kendalltau(predicted[draw], truth[draw]).statistic for draw in draws]
    assert found.tau.ends == pytest.approx(np.percentile(taus, (2.5, 97.5)), abs=0.06)
    assert found.tau.low < found.tau.value < found.tau.high
    assert agreement(predicted, truth, 5) == found


# -- the table ----------------------------------------------------------------------------------


@pytest.fixture
def dataset(folder):
    """Two rows of six networks each, without their Lego-Nets."""
    write_run(params(modes={"S_8_1": {}, "S_6_10": {}}), folder, networks=6)
    (dataset,) = collect.collect()
    return dataset


def test_the_table_has_a_line_for_every_way_to_predict(dataset):
    lines = records(tables_by_name([dataset])["digits-ranking"])
    assert len(lines) == 2 * 6
    for row, own in zip(dataset.rows, (lines[:6], lines[6:]), strict=True):
        assert {line["row"] for line in own} == {row.name}
        inherited = {one.id: one for one in row.selected}
        pairs = [(inherited[one.id].robust, one.record.best.robust) for one in row.scratch]
        for line in own[:4]:  # the recalibrations, which order alike in these results
            assert float(line["tau_robust"]) == pytest.approx(tau_b(*zip(*pairs, strict=True)), abs=0.0051)
            assert float(line["tau_robust_low"]) <= float(line["tau_robust"]) <= float(line["tau_robust_high"])
        mean = 100 * np.mean([before for before, _ in pairs])
        assert float(own[1]["inherited_robust"]) == pytest.approx(mean, abs=1e-3)
        assert own[4]["inherited_robust"] == own[5]["tau_robust"] == ""
        assert float(own[5]["overlap_clean"]) == pytest.approx(100 / 3, abs=1e-3)
        assert {line["networks"] for line in own} == {"6"}
        assert metrics([dataset])["digits"][row.name]["kendall_tau"]["robust"] == round(
            as_searched(row)["robust"].tau.value, 4
        )


def test_too_few_networks_have_no_line_and_are_named(dataset):
    first, second = dataset.rows
    few = replace(dataset, rows=[replace(first, ranking=first.ranking[:2]), second])
    table = tables_by_name([few])["digits-ranking"]
    assert {line["row"] for line in records(table)} == {second.name}
    assert f"Left out, for fewer than 3 such networks: {first.name}." in markdown(table)
    none = replace(dataset, rows=[replace(row, ranking=row.ranking[:2]) for row in dataset.rows])
    assert "digits-ranking" not in tables_by_name([none])
    assert as_searched(none.rows[0]) == {}


def test_rows_that_never_recalibrate_show_what_there_is(dataset):
    ranking = [
        Ranked(one.id, one.parameters, one.trained, {"none": one.inherited["none"]}) for one in dataset.rows[0].ranking
    ]
    search = dataset.rows[0].plan.search.model_copy(update={"bn_calibration_images": 0})
    row = replace(dataset.rows[0], ranking=ranking, plan=dataset.rows[0].plan.model_copy(update={"search": search}))
    lines = records(tables_by_name([replace(dataset, rows=[row, dataset.rows[1]])])["digits-ranking"])
    assert len(lines) == 3 + 6
    assert as_searched(row)["clean"].networks == 6
