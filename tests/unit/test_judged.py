"""Which networks and which level each claim is judged by."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from tamnas.records import Label, Score
from tamnas.report.claims import judges, lego
from tamnas.report.claims.claims import caveats
from tamnas.report.claims.verdicts import FAILS, HOLDS, NOT_RUN
from tamnas.report.intervals import paired, pooled_margin, welch
from tamnas.report.page.explore import best_keys
from tests.helpers.planted import (
    another,
    around,
    counted,
    retrained_alike,
    rows_with,
    with_control,
    with_pooled,
    with_tests,
)


def test_modes_with_fewer_steps_share_the_level(several):
    base, one_step = around(0.50), around(0.49, spread=0.01)
    dataset = retrained_alike(rows_with(several, S_8_10=base, S_8_1=one_step, S_6_10=base, S_2_10=base))
    full, few = (next(row for row in dataset.rows if row.plan.mode == mode) for mode in ("S_8_10", "S_8_1"))
    again = replace(few, plan=few.plan.model_copy(update={"row": "cifar10-again"}))
    numbers = judges.few_steps_suffice(replace(dataset, rows=[full, few, again])).numbers
    assert numbers.count(welch(one_step, base, 0.975).points) == 2


def test_other_radii_share_the_level(several):
    robust = {"S_6_10": around(0.50), "S_8_10": around(0.45, spread=0.01), "S_2_10": around(0.40, spread=0.02)}
    dataset = retrained_alike(rows_with(several, S_8_1=around(0.9), **robust))
    numbers = judges.best_eps(dataset).numbers
    ours, *others = ([0.9 - (0.9 - share) * 5 / 8 for share in shares] for shares in robust.values())  # radii 2 to 8
    for theirs in others:
        assert welch(ours, theirs, 0.975).points in numbers


def test_another_mode_of_the_same_radius_is_not_one_of_the_others(several):
    robust = {"S_6_10": around(0.50), "S_8_10": around(0.45), "S_2_10": around(0.40)}
    dataset = retrained_alike(rows_with(several, S_8_1=around(0.9), **robust))
    again = next(row for row in dataset.rows if row.plan.mode == "S_6_10")
    again = replace(again, plan=again.plan.model_copy(update={"row": "cifar10-again"}))
    assert judges.best_eps(replace(dataset, rows=[*dataset.rows, again])).verdict == HOLDS


@pytest.mark.parametrize("judge", [judges.few_steps_suffice, judges.best_eps])
def test_supernets_that_were_trained_otherwise_are_not_compared(several, judge):
    rows = []
    for index, row in enumerate(retrained_alike(several).rows):
        supernet = row.plan.supernet.model_copy(update={"paths": index + 1})
        rows.append(replace(row, plan=row.plan.model_copy(update={"supernet": supernet})))
    assert judge(several).verdict != NOT_RUN
    assert judge(replace(several, rows=rows)).verdict == NOT_RUN


def test_clean_and_robust_share_the_level(several):
    rows, gains = [], 0.03 + 0.001 * np.arange(8)
    for index, gain in enumerate(gains):
        row = several.rows[index % 4]
        scratch = with_tests(row.scratch, [0.8 + gain] * 6, [0.5 + gain] * 6)
        rows.append(replace(row, scratch=scratch, finetune=with_tests(row.finetune, [0.8] * 6, [0.5] * 6)))
    found = paired(gains.tolist(), 0.975).points
    assert f"clean {found}, robust {found};" in judges.scratch_beats_finetuning(replace(several, rows=rows)).numbers


def gained(several, gains, modes=("S_8_10", "S_8_1")):
    """Networks of growing size that gain so much (clean, robust) over their inherited weights."""
    rows = []
    for row in (row for row in several.rows if row.plan.mode in modes):
        scratch = []
        for index, (one, (clean, robust)) in enumerate(zip(row.scratch, gains, strict=True)):
            start = next(selected for selected in row.selected if selected.id == one.id)
            shown = Score(0, start.clean + clean, start.robust + robust)
            scratch.append(another(one, best=shown, last=shown, parameters=index))
        rows.append(replace(row, scratch=scratch))
    return replace(several, rows=rows)


@pytest.mark.parametrize("gains", [(0.2, 0.0), (0.0, 0.2)])
def test_a_gain_is_one_of_both_accuracies(several, gains):
    assert judges.tiny_networks_gain(gained(several, [gains] * 6)).verdict == FAILS


def test_the_smaller_half_is_judged(several):
    small, large = [(0.2, 0.2)] * 3, [(0.0, 0.0)] * 3
    assert judges.tiny_networks_gain(gained(several, small + large)).verdict == HOLDS
    assert judges.tiny_networks_gain(gained(several, large + small)).verdict == FAILS


def test_the_first_quarter_is_judged_and_all_blocks_with_attention_count(several):
    tiny = counted(several, "block", lambda votes: [(0, votes)], lambda votes: [(0, votes)]).pooled
    for block in (6, 18):  # tiny robust, pure robust
        lines = [line | {"value": block} if line["layer"] < 4 else line for line in tiny.counts]
        finding = judges.robust_blocks_first(replace(several, pooled=replace(tiny, counts=lines)))
        assert finding.verdict == HOLDS
        assert "40 of 40 choices in the first 4 layers of 16, 0 of 80 in the last 8 layers;" in finding.numbers


def test_lego_net_at_the_common_attack_is_no_subnet(several):
    dataset = rows_with(several, **{row.plan.mode: around(0.50) for row in several.rows})
    rows = []
    for row in dataset.rows:
        controls = with_control(row, around(0.50))
        label = Label("common_attack", "legonet", "lego", 0)
        (network,) = with_tests([another(row.lego.network, id="common_attack-lego", label=label)], [0.9], [0.1])
        rows.append(replace(row, controls=replace(controls, networks=[*controls.networks, network])))
    numbers = judges.few_steps_suffice(replace(dataset, rows=rows)).numbers
    assert "(6 and 6 networks): +0.00 (" in numbers


def test_a_smaller_lego_net_has_fewer_parameters(several):
    dataset = with_pooled(several, 1_000_000, 0.95, 0.60)
    other = another(dataset.baselines[0], id="resnet18", parameters=5_000_000)
    numbers = lego.lego_beats_resnet18(replace(dataset, baselines=[other])).numbers
    assert "minus ResNet-18: −4,000,000 parameters, clean +" in numbers


def test_the_smallest_mode_makes_the_sample_small(several):
    first, *others = several.rows
    assert (
        "2 retrained subnets a mode"
        in caveats(replace(several, rows=[replace(first, scratch=first.scratch[:2]), *others]))[0]
    )


def test_the_best_row_has_the_best_subnet_on_validation(several):
    ids = {(row.name, one.id): one.record.best for row in several.rows for one in row.scratch}
    row, ident = max(ids, key=lambda key: (ids[key].robust, ids[key].clean))
    assert (several.best_row.name, several.best_row.best.id) == (row, ident)
    assert best_keys([several]) == {"cifar10": f"{row}/{ident}"}


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_the_pooled_margin_has_the_level_asked_for(level):
    a, b = np.random.default_rng(0).normal(size=(2, 3)).tolist()
    interval = scipy.stats.ttest_ind(a, b, equal_var=True).confidence_interval(level)
    assert pooled_margin([a, b, [7.0]], 3, level) == pytest.approx((interval.high - interval.low) / 2)
