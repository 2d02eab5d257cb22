"""Each claim on planted results: where it holds, fails, is undecided, and where it was not run."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tamnas.attacks.registry import Pgd
from tamnas.records import Score
from tamnas.report.claims import judges
from tamnas.report.claims.claims import CLAIMS, caveats, claims_page, claims_table, judged
from tamnas.report.claims.verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED
from tamnas.report.study import ControlResults
from tests.helpers.planted import (
    another,
    around,
    counted,
    retrained_alike,
    rows_with,
    verdict,
    with_control,
    with_tests,
)


@pytest.fixture
def empty(several):
    """The same dataset before any row was run."""
    return replace(several, rows=[], missing=[row.plan for row in several.rows], pooled=None, baselines=[])


# -- the claims --------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_without_results_nothing_is_judged(empty, claim):
    assert verdict(claim.judge, empty) == NOT_RUN


@pytest.mark.parametrize(
    ("one_step", "expected"), [(around(0.50), HOLDS), (around(0.40), FAILS), (around(0.48, spread=0.05), UNDECIDED)]
)
def test_fewer_steps_suffice(several, monkeypatch, tmp_path, one_step, expected):
    monkeypatch.chdir(tmp_path)
    base = around(0.50)
    dataset = rows_with(several, S_8_10=base, S_8_1=one_step, S_6_10=base, S_2_10=base)
    assert verdict(judges.few_steps_suffice, retrained_alike(dataset)) == expected
    own = judges.few_steps_suffice(dataset)
    assert (own.verdict, "each retrained with its own attack" in own.numbers) == (UNDECIDED, True)
    alone = replace(dataset, rows=[row for row in dataset.rows if row.plan.mode != "S_8_1"])
    assert verdict(judges.few_steps_suffice, alone) == NOT_RUN


def test_transfer_is_judged_on_the_control_where_there_is_one(several):
    worse, same = around(0.40), around(0.50)
    dataset = rows_with(several, S_8_10=same, S_8_1=worse, S_6_10=same, S_2_10=same)
    rows = [
        # S_8_10's own attack is the common one
        replace(row, controls=ControlResults({"common_attack": "as the row's own"}, []))
        if row.plan.mode == "S_8_10"
        else replace(row, controls=with_control(row, around(0.51)))
        for row in dataset.rows
    ]
    finding = judges.few_steps_suffice(replace(dataset, rows=rows))
    assert finding.verdict == HOLDS
    assert "common attack" in finding.numbers
    not_run = ControlResults({"common_attack": "not run"}, [])
    rows[2] = replace(rows[2], controls=not_run)  # of another radius: it is not compared
    assert verdict(judges.few_steps_suffice, replace(dataset, rows=rows)) == HOLDS
    rows[1] = replace(rows[1], controls=not_run)
    assert verdict(judges.few_steps_suffice, replace(dataset, rows=rows)) == UNDECIDED
    assert verdict(judges.few_steps_suffice, retrained_alike(replace(dataset, rows=rows))) == FAILS


@pytest.mark.parametrize(
    ("steps_cost", "expected"), [(0.0, HOLDS), (0.05, FAILS), (None, UNDECIDED)], ids=["none", "half", "mixed"]
)
def test_eps_matters_and_steps_hardly(several, steps_cost, expected):
    """Every network loses 10 points from the smallest to the largest eps, `steps_cost` from 10 to 50 steps."""
    rows = []
    for row in several.rows:
        scratch = []
        for index, one in enumerate(row.scratch):
            # mixed: half of the networks lose nothing with steps, half of them twice the bar
            cost = steps_cost if steps_cost is not None else 0.02 * (index % 2)
            grid = {
                Pgd(eps=eps, steps=steps): 0.7 - 0.1 * float((eps * 255 - 2) / 6) - cost * (steps - 10) / 40
                for eps in several.plan.eval.eps
                for steps in several.plan.eval.steps
            }
            scratch.append(replace(one, test=replace(one.test, grid=grid)))
        rows.append(replace(row, scratch=scratch, finetune=scratch, lego=replace(row.lego, network=scratch[0])))
    dataset = replace(several, rows=rows, baselines=[], pooled=None)
    if steps_cost is None:  # 24 networks lose 0 and 24 lose 0.02; Lego-Nets repeat the first
        dataset = replace(
            dataset,
            rows=[
                replace(row, lego=replace(row.lego, network=row.scratch[i % 2])) for i, row in enumerate(dataset.rows)
            ],
        )
    assert verdict(judges.eps_not_steps, dataset) == expected


@pytest.mark.parametrize(
    ("base", "two", "expected"),
    [
        (around(0.40), around(0.30), HOLDS),
        (around(0.60), around(0.30), FAILS),
        (around(0.50, spread=0.05), around(0.30), UNDECIDED),
    ],
)
def test_the_best_eps(several, monkeypatch, tmp_path, base, two, expected):
    monkeypatch.chdir(tmp_path)
    dataset = rows_with(several, S_8_10=base, S_8_1=around(0.9), S_6_10=around(0.50), S_2_10=two)
    # S_8_1 has other steps and does not count
    assert verdict(judges.best_eps, retrained_alike(dataset)) == expected
    assert verdict(judges.best_eps, dataset) == UNDECIDED
    without = replace(dataset, rows=[row for row in dataset.rows if row.plan.mode != "S_6_10"])
    assert verdict(judges.best_eps, without) == NOT_RUN


@pytest.mark.parametrize(
    ("slope", "noise", "expected"), [(0.0, 1, HOLDS), (-1, 0.01, FAILS), (1, 0.01, UNDECIDED), (0.6, 1, UNDECIDED)]
)
def test_size(several, slope, noise, expected):
    """Robust accuracy = slope x centred log size + noise that is orthogonal to it."""
    wave = np.array([1.0, -2.0, 1.0, 1.0, -2.0, 1.0])
    rows = []
    for row in several.rows:
        sizes = np.linspace(-1, 1, 6)
        robust = 0.5 + 0.05 * (slope * sizes + noise * 0.5 * wave)
        scratch = with_tests(row.scratch, [0.9] * 6, robust)
        scratch = [another(one, parameters=round(1e6 * np.exp(size))) for one, size in zip(scratch, sizes, strict=True)]
        rows.append(replace(row, scratch=scratch))
    assert verdict(judges.size_is_not_it, replace(several, rows=rows)) == expected


@pytest.mark.parametrize(
    ("gain", "rows", "expected"),
    [(0.03, 8, HOLDS), (-0.03, 8, FAILS), (0.0, 8, UNDECIDED), (0.03, 7, HOLDS), (0.03, 6, UNDECIDED)],
)
def test_scratch_against_finetuning(several, gain, rows, expected):
    planted = []
    for index in range(rows):
        row = several.rows[index % 4]
        difference = np.array(around(gain, spread=0.01)) + 0.001 * (index - (rows - 1) / 2)
        scratch = with_tests(row.scratch, 0.8 + difference, 0.5 + difference)
        planted.append(replace(row, scratch=scratch, finetune=with_tests(row.finetune, [0.8] * 6, [0.5] * 6)))
    finding = judges.scratch_beats_finetuning(replace(several, rows=planted))
    assert finding.verdict == expected
    assert "10 epochs from scratch, 5 of fine-tuning" in finding.numbers
    assert ("p below 0.025 takes 7 modes" in finding.numbers) == (rows < 7)


def test_one_mode_is_judged_by_its_pairs(several):
    row = several.rows[0]
    networks = row.scratch * 2, row.finetune * 2
    ids = [f"n{index:02}" for index in range(12)]
    scratch, finetune = (
        [another(one, id=id_) for one, id_ in zip(with_tests(own, [share] * 12, around(share, 12)), ids, strict=True)]
        for own, share in zip(networks, (0.6, 0.5), strict=True)
    )
    finding = judges.scratch_beats_finetuning(replace(several, rows=[replace(row, scratch=scratch, finetune=finetune)]))
    assert finding.verdict == HOLDS
    assert finding.numbers.startswith("12 pairs of one supernet, 97.5% intervals: clean +10.00 (")


@pytest.mark.parametrize(("gains", "expected"), [([0.2] * 6, HOLDS), ([0.01] * 6, FAILS), ([0.2, 0.0] * 3, UNDECIDED)])
def test_tiny_networks_gain(several, gains, expected):
    rows = []
    for row in several.rows:
        scratch = []
        for index, (one, gain) in enumerate(zip(row.scratch, gains, strict=True)):
            start = next(selected for selected in row.selected if selected.id == one.id)
            shown = Score(0, start.clean + gain, start.robust + gain)
            scratch.append(another(one, best=shown, last=shown, parameters=index))
        rows.append(replace(row, scratch=scratch))
    assert verdict(judges.tiny_networks_gain, replace(several, rows=rows)) == expected


def test_a_gain_under_another_attack_counts_clean_only(several):
    row = next(row for row in several.rows if row.plan.mode == "S_2_10")  # searched at 2/255, validated at 8/255
    scratch = []
    for one in row.scratch:
        start = next(selected for selected in row.selected if selected.id == one.id)
        shown = Score(0, start.clean + 0.1, start.robust - 0.5)
        scratch.append(another(one, best=shown, last=shown))
    finding = judges.tiny_networks_gain(replace(several, rows=[replace(row, scratch=scratch)]))
    assert finding.numbers.startswith("3 subnets of 3")
    assert "3 by clean accuracy alone" in finding.numbers


def hypervolumes(several, late_gain, count=4):
    """20 generations; the first `count` searches gain `late_gain` after generation 18, the others nothing."""
    rows = []
    for index, row in enumerate(several.rows):
        late = late_gain if index < count else 0.0
        lines = [{"generation": g, "hypervolume": 0.5 + late * max(0, g - 18) / 2} for g in range(21)]
        rows.append(replace(row, hypervolume=lines))
    return replace(several, rows=rows)


def test_hypervolume(several):
    assert verdict(judges.hypervolume_converged, hypervolumes(several, 0.001)) == HOLDS
    assert verdict(judges.hypervolume_converged, hypervolumes(several, 0.1)) == FAILS
    assert verdict(judges.hypervolume_converged, hypervolumes(several, 0.1, count=1)) == UNDECIDED  # three of four
    assert verdict(judges.hypervolume_converged, several) == NOT_RUN  # ten generations


@pytest.mark.parametrize(
    ("changes", "expected"),
    [([0.0] * 6, HOLDS), ([0.05] * 6, FAILS), ([0.0, 0.05] * 3, UNDECIDED), ([-0.05, 0.05] * 3, FAILS)],
)
def test_epoch_40(several, changes, expected):
    def trained(begin: int):
        row, scratch = several.rows[0], []
        for one, change in zip(row.scratch, changes, strict=True):
            shares = [0.8 + change * (epoch > 39) for epoch in range(100)]
            lines = zip(shares, [None] * begin + [share / 2 for share in shares[begin:]], strict=True)
            scratch.append(replace(one, curve=[{"validation_clean": a, "validation_robust": b} for a, b in lines]))
        return replace(several, rows=[replace(row, scratch=scratch)])

    assert verdict(judges.training_converged, trained(0)) == expected
    finding = judges.training_converged(trained(60))
    assert finding.verdict == (FAILS if expected == FAILS else UNDECIDED)
    assert "robust not measured at epoch 40" in finding.numbers
    assert verdict(judges.training_converged, several) == NOT_RUN  # three epochs


@pytest.mark.parametrize(
    ("gene", "judge", "high", "low"),
    [("block", judges.robust_blocks_first, 18, 0), ("ratio", judges.wide_ratios_first, 2.0, 0.2)],
)
def test_where_blocks_and_ratios_go(several, gene, judge, high, low):
    def only(value):
        return lambda votes: [(value, votes)]

    def both(votes):
        return [(low, votes // 2), (high, votes // 2)]

    assert verdict(judge, counted(several, gene, only(high), only(low))) == HOLDS
    assert re.search(r"in the first \d layers of 16\b", judge(counted(several, gene, both, both)).numbers)
    assert verdict(judge, counted(several, gene, only(low), only(high))) == FAILS
    assert verdict(judge, counted(several, gene, both, both)) == UNDECIDED


@pytest.mark.parametrize(
    ("between", "expected", "words"),
    [
        (lambda layer: 1.0, HOLDS, "smallest mean 0.40 in layer 13, 14, 15 of 0 to 15 (holds)"),
        (lambda layer: 0.2, FAILS, "(does not hold)"),  # the last are below the first, not below the rest
        (lambda layer: 0.2 if layer == 7 else 1.0, UNDECIDED, "smallest mean 0.20 in layer 7 of 0 to 15 (undecided)"),
        (lambda layer: 0.4, UNDECIDED, "smallest mean 0.40 in layer 3, 4, 5"),
    ],
)
def test_the_smallest_ratios_in_the_last_layers(several, between, expected, words):
    """Always wide in the first three layers, 0.4 in the last three."""
    chosen = [1.8] * 3 + [between(layer) for layer in range(3, 13)] + [0.4] * 3
    lines = [
        {"layer": layer, "gene": "ratio", "value": value, "count": 10, "rank": 0} for layer, value in enumerate(chosen)
    ]
    finding = judges.wide_ratios_first(replace(several, pooled=replace(several.pooled, counts=lines)))
    assert finding.verdict == expected
    assert words in finding.numbers
    assert "first against last p" in finding.numbers
    assert "mean ratio 1.80 in the first 3 layers of 16" in finding.numbers
    short = replace(several, pooled=replace(several.pooled, counts=lines[:2]))
    assert verdict(judges.wide_ratios_first, short) == NOT_RUN


def test_one_is_singular(several):
    rows = [replace(row, scratch=row.scratch[:1]) for row in several.rows]
    assert "1 retrained subnet a mode" in caveats(replace(several, rows=rows))[0]
    one = replace(several, rows=several.rows[:1])
    assert "6 subnets of 1 mode;" in judges.size_is_not_it(one).numbers
    assert "1 subnet of 1," in judges.tiny_networks_gain(replace(several, rows=rows[:1])).numbers
    lines = [{"layer": layer, "gene": "ratio", "value": 1.0, "count": 2, "rank": 0} for layer in range(4)]
    ratios = judges.wide_ratios_first(replace(several, pooled=replace(several.pooled, counts=lines)))
    assert "1.00 in the first layer of 4, 1.00 between, 1.00 in the last layer;" in ratios.numbers


# -- the page ----------------------------------------------------------------------------------


def test_the_page_has_every_claim_on_every_dataset_and_says_what_is_weak(several, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    digits = replace(several, plan=several.plan.model_copy(update={"dataset": "digits"}))
    datasets = [several, digits]
    assert len(judged(datasets)) == 2 * len(CLAIMS) == len(claims_table(datasets).rows)
    page = claims_page(datasets)
    for claim in CLAIMS:
        assert claim.text in page
        assert claim.test in page
    assert caveats(several) == [
        "small sample (360 test images, 6 retrained subnets a mode)",
        "not the paper's images (source digits)",
    ]
    judgements = [
        line for line in page.splitlines() if line.startswith(("| holds |", "| does not hold |", "| undecided"))
    ]
    assert judgements
    assert all("360 test images" in line and "not the paper's images" in line for line in judgements)
