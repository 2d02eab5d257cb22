"""What params.yaml comes to for each row: what it inherits, and what is refused."""

import pytest

from tamnas.config.resolve import parse_params, resolve_study
from tamnas.errors import InputError
from tamnas.space.space import SearchSpace
from tests.helpers.bad_params import DATASET, MODE, RAW, ROW, edited
from tests.helpers.plans import row_plan


def test_batchnorm_of_an_attack_of_its_own():
    own = {"eps": "4/255", "attack_steps": 1}
    changes = {"supernet.resample_every": {"steps": 1}}
    changes |= {f"retrain.{init}.attack": own for init in ("scratch", "finetune")} | {"controls.common_attack": own}
    study = resolve_study(parse_params(edited(changes)))
    row, baselines = study.rows[ROW], study.datasets[DATASET].baselines
    assert row.supernet.attack.bn == "batch"
    trainings = row.retrain.scratch, row.retrain.finetune, row.controls.common_attack, baselines.training
    assert [training.attack.bn for training in trainings] == ["eval"] * 4


def test_the_equal_budget_has_the_schedule_of_training_from_scratch():
    schedule = {"kind": "milestones", "milestones": [6, 8]}
    plan = row_plan({"controls.finetune_equal_budget": True, "retrain.scratch.schedule": schedule})
    (equal,) = plan.controls.finetune
    scratch = plan.retrain.scratch.recipe
    assert (equal.training.recipe.epochs, equal.training.recipe.schedule) == (scratch.epochs, scratch.schedule)
    assert equal.training.recipe.schedule.milestones == (6, 8)


def test_the_joint_phase_begins_with_the_largest_ratios():
    space = SearchSpace.from_params(row_plan({}))
    budget = [space.parameter_range(space.ratios[:2])[1] + 1, None]
    assert row_plan({"supernet.joint.budget": budget}).supernet.joint.budget == tuple(budget)


def test_an_attack_may_have_all_test_images():
    count = RAW["data"][DATASET]["test"]
    for images, fits in ((count, True), (count + 1, False)):
        raw = edited({"eval.attacks": [{"kind": "apgd_ce", "eps": "8/255", "images": images}]})
        if fits:
            parse_params(raw)
        else:
            with pytest.raises(InputError, match=rf"eval\.attacks\.0\.images is {images}: data\.{DATASET}\.test is"):
                parse_params(raw)


def test_rows_of_one_dataset_have_one_depth():
    repeats = RAW["network"]["repeats"]
    changes = {"modes.deep": {"network": {"repeats": [*repeats[:-1], repeats[-1] + 1]}}}
    changes["run.rows.deep"] = {"dataset": DATASET, "mode": "deep"}
    with pytest.raises(InputError, match=r"network\.repeats: rows of one dataset must have equal depth, found \{"):
        parse_params(edited(changes))


def test_a_warmup_of_all_epochs_is_refused():
    epochs = RAW["retrain"]["scratch"]["epochs"]
    parse_params(edited({"retrain.scratch.schedule.warmup": epochs - 1}))
    with pytest.raises(InputError, match=rf"schedule\.warmup: {epochs} must be below the {epochs} epochs"):
        parse_params(edited({"retrain.scratch.schedule.warmup": epochs}))


def test_the_batchnorm_of_a_perturbation_tells_rows_apart():
    yopo = {"m": 1, "n": 2}
    changes = {f"modes.{MODE}": {"supernet": {"yopo": yopo | {"bn": "eval"}}}}
    changes |= {"modes.other": {"supernet": {"yopo": yopo | {"bn": "batch"}}}}
    changes["run.rows.sibling"] = {"dataset": DATASET, "mode": "other"}
    assert "sibling" in resolve_study(parse_params(edited(changes))).rows
