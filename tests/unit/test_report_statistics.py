"""Intervals, paired differences, spread over seeds, and warnings about suspicious accuracies."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tamnas.attacks.registry import Pgd
from tamnas.records import NetworkSpec, Record, Score
from tamnas.report import collect, study
from tamnas.report.accuracy import accuracy_value, mean_difference
from tamnas.report.claims.verdicts import FAILS, HOLDS, UNDECIDED, above, all_of
from tamnas.report.intervals import Interval, correlation, mean_interval, paired, pooled_margin, welch, wilson
from tamnas.report.tables.table import Column, Table, Value, latex, markdown
from tamnas.report.warnings import MASKING, suspicious, warnings
from tests.helpers.small_results import edit_csv, params, records, tables_by_name, write_run


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0), (0.9, 1000, 0.8798, 0.9171)],
)
def test_wilson_intervals(share, n, low, high):
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


def test_paired_differences():
    found = paired([0.01, 0.03, 0.02, 0.04])
    assert found.mean == pytest.approx(0.025)
    assert (found.low, found.high) == pytest.approx((0.025 - 0.02054, 0.025 + 0.02054), abs=1e-4)
    assert found.p_value == pytest.approx(0.125)
    assert paired([0.02]).low is None
    assert paired([0.0, 0.0]).p_value is None


def share_grid(**cells: float) -> dict:
    """`e8s10=0.5` as {PGD-10 at 8/255: 0.5}."""
    found = {}
    for name, share in cells.items():
        eps, steps = name[1:].split("s")
        found[Pgd(eps=f"{eps}/255", steps=int(steps))] = share
    return found


@pytest.mark.parametrize(
    ("grid", "sign"),
    [
        ({"e2s10": 0.9, "e8s10": 0.5}, "above clean"),
        ({"e2s10": 0.5, "e8s10": 0.6}, "rises from 50.00% at 2/255"),
        ({"e8s10": 0.5, "e8s30": 0.6}, "under PGD-10 to 60.00% under PGD-30"),
        ({"e8s10": 0.6, "e8s100": 0.5}, "has not converged"),
    ],
)
def test_suspicious_accuracies(grid, sign):
    test = study.Test(0.8, share_grid(**grid), 1000, "best")
    assert any(sign in line for line in suspicious(test))


def test_noise_and_sound_results_are_not_suspicious():
    grid = share_grid(e2s10=0.7, e4s10=0.702, e8s10=0.5, e8s30=0.501)
    assert suspicious(study.Test(0.8, grid, 1000, "best")) == []


def test_planted_masking_and_merged_validation_are_reported(folder):
    raw = params()
    raw["data"]["digits"]["merge_validation"] = True
    write_run(raw, folder)

    def plant(row):
        if row["network"] == "n02" and row["eps"] == "8/255":
            row["accuracy"] = "1.0"

    edit_csv(Path("results/digits/evaluate_scratch/digits-S_8_1/seed-0/grid.csv"), plant)
    (dataset,) = collect.collect()
    lines = warnings(dataset)
    assert "selection saw the test split" in lines[0]
    assert any(line.startswith("digits-S_8_1/n02") and MASKING in line for line in lines)
    assert "test images (data.merge_validation)" in markdown(tables_by_name([dataset])["digits-grid"])
    assert not any(row.name in line for row in dataset.rows for line in lines if "/n01:" in line)


def network(clean: float, robust: float, images: int = 360, repeats: tuple[float, ...] = ()) -> study.TrainedNetwork:
    def test(share: float) -> study.Test:
        return study.Test(share, {ATTACK: robust}, images, "best")

    costs, score = study.Costs(100, 900, 5000), Score(0, 0.5, 0.5)
    record = Record(NetworkSpec("n"), 1000, 1, score, score)
    return study.TrainedNetwork(record, [], test(clean), costs, repeats=dict(enumerate(map(test, repeats))))


ATTACK = Pgd(eps="8/255", steps=10)


def test_several_seeds_give_mean_and_sample_deviation():
    value = accuracy_value(network(0.9, 0.5, repeats=(0.8, 0.85)), None)
    assert value.measured == pytest.approx(0.85)
    assert value.spread == (pytest.approx(0.05), 3)
    assert value.interval == pytest.approx(wilson(0.85, 360))
    table = Table("t", "T", [Column("clean", "Clean", "percent", "max")], [[value], [Value(0.5)]], images=360)
    assert "| **85.00 ± 5.00** [80.9, 88.3] |" in markdown(table)
    line, other = records(table)
    assert (line["images"], line["clean"], line["clean_sd"], line["clean_seeds"]) == ("360", "85.0", "5.0", "3")
    assert (other["clean"], other["clean_low"], other["clean_sd"], other["clean_seeds"]) == ("50.0", "", "", "")
    assert r"\shortstack[r]{\textbf{85.00 $\pm$ 5.00} \\ {\scriptsize [80.9, 88.3]}}" in latex(table)
    assert accuracy_value(network(0.9, 0.5), None).spread is None
    assert accuracy_value(network(0.9, 0.5), (Fraction(1, 255), 1)) == Value()


def test_difference_of_a_pair_and_of_several():
    # Newcombe (1998), method 10, 56/70 against 48/80: 0.2000, 0.0524 to 0.3339
    one = mean_difference([(network(56 / 70, 0, 70), network(48 / 80, 0, 80))], None)
    assert (one.mean, one.low, one.high) == (
        pytest.approx(0.2), pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4)
    )  # fmt: skip
    pairs = [(network(0.9, 0.5), network(0.8, 0.6)), (network(0.7, 0.5), network(0.5, 0.2))]
    assert mean_difference(pairs, None) == paired([0.9 - 0.8, 0.7 - 0.5])
    assert mean_difference(pairs, ATTACK).mean == pytest.approx(0.1)
    beside = network(0.6, 0.4)
    one_beside = mean_difference([(first, beside) for first, _ in pairs], None)
    assert (one_beside.mean, one_beside.low, one_beside.p_value) == (pytest.approx(0.2), None, None)
    assert mean_difference(pairs, (Fraction(1, 255), 1)) is None
    assert mean_difference([], None) is None


def test_a_network_that_survives_a_large_radius_is_warned_of(folder):
    write_run(params(), folder)
    (dataset,) = collect.collect()
    assert not [line for line in warnings(dataset) if "64/255" in line]
    (row,) = dataset.rows
    for survivors, warned in ((0.05, 0), (0.2, 1)):
        checked = replace(row.lego.network, checks={"any": 0.5, "last": 0.5, "restarts": 0.4, "large_eps": survivors})
        changed = replace(dataset, rows=[replace(row, lego=replace(row.lego, network=checked))])
        assert len([line for line in warnings(changed) if "20.00% survive a radius of 64/255" in line]) == warned
        (line,) = [line for line in records(tables_by_name([changed])["digits-attack-checks"]) if "Lego-Net of" in
                   line["network"]]  # fmt: skip
        assert float(line["large_eps"]) == pytest.approx(100 * survivors)


def test_correlation_against_scipy():
    from scipy.stats import pearsonr

    x, y = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) - 3.5, np.array([1.0, 3.0, 2.0, 5.0, 4.0, 6.0]) - 3.5
    expected = pearsonr(x, y)
    found = correlation(x, y, 1)
    assert found.value == pytest.approx(expected.statistic)
    # one degree of freedom went into the centring that scipy's interval already counts: n - 3
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert correlation([0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0], 1) is None


def test_pooled_margin_is_that_of_the_t_test_with_equal_variances():
    a, b = np.random.default_rng(0).normal(size=(2, 3)).tolist()
    interval = scipy.stats.ttest_ind(a, b, equal_var=True).confidence_interval(0.95)
    assert pooled_margin([a, b, [7.0]], 3) == pytest.approx((interval.high - interval.low) / 2)
    assert pooled_margin([[1.0], []], 2) == np.inf


def test_independent_errors_widen_an_interval_to_either_side():
    assert Interval(1.0, 0.7, 1.4).widened(0.3).ends == pytest.approx((1 - 0.3 * 2**0.5, 1.5))


def test_a_claim_of_several_parts():
    assert all_of([HOLDS, HOLDS]) == HOLDS
    assert all_of([HOLDS, UNDECIDED]) == UNDECIDED
    assert all_of([UNDECIDED, FAILS]) == FAILS
    assert above(Interval(1, 0.5, 1.5), 0.5) == UNDECIDED


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_intervals_have_the_level_asked_for(level):
    ours, theirs = [0.61, 0.58, 0.64, 0.6], [0.55, 0.57, 0.5]
    wanted = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(level)
    assert welch(ours, theirs, level).ends == pytest.approx((wanted.low, wanted.high))
    assert welch([0.5], theirs, level) is None
    found = mean_interval(ours, level)
    assert found.ends == pytest.approx(scipy.stats.t.interval(level, 3, np.mean(ours), scipy.stats.sem(ours)))


def test_each_group_that_is_centred_costs_the_correlation_a_degree_of_freedom():
    """Fisher's interval of r from n - 3 freedoms, of which each further centred group takes one."""
    x, y = np.random.default_rng(0).normal(size=(2, 24))
    for groups in (1, 4):
        found = correlation(x, y, groups)
        reach = scipy.stats.norm.ppf(0.975) / np.sqrt(24 - groups + 1 - 3)
        assert found.ends == pytest.approx(np.tanh(np.arctanh(found.value) + np.array([-reach, reach])))
