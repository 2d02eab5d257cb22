import copy
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamnas.config.fields import format_fraction, parse_fraction, read_yaml, validated, write_yaml
from tamnas.config.params import merge
from tamnas.config.resolve import load_params, parse_params, resolve_study
from tamnas.errors import InputError
from tests.helpers.bad_params import DATASET, MODE, NAN, RAW, ROW, edited
from tests.helpers.plans import row_plan

ROOT = Path(__file__).parents[2]


@given(st.fractions(0, 1).filter(bool) | st.decimals(0, 255, places=3).map(lambda d: Fraction(d) / 255).filter(bool))
def test_fraction_round_trips(fraction):
    assert parse_fraction(format_fraction(fraction)) == fraction


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("8/255", Fraction(8, 255)),
        ("2.5/255", Fraction(5, 510)),
        (" 8 / 255 ", Fraction(8, 255)),
        ("0.03", Fraction(3, 100)),
        (0.03, Fraction(3, 100)),  # the decimal that was written, not the nearest binary number
        (1, Fraction(1)),
        (Fraction(1, 3), Fraction(1, 3)),
    ],
)
def test_fractions_are_exact(written, value):
    assert parse_fraction(written) == value


@pytest.mark.parametrize(
    ("value", "text"), [("8/255", "8/255"), ("5/510", "2.5/255"), ("1/3", "85/255"), ("1/7", "1/7")]
)
def test_fractions_are_written_over_255_where_that_is_short(value, text):
    assert format_fraction(Fraction(value)) == text


@pytest.mark.parametrize(
    "written",
    ["", "8", "0", "-1/255", "1/0", "256/255", "eight", "8/", "/255", "8/255/2", "nan", "inf", True, None, [], NAN],
)
def test_bad_fractions_are_refused(written):
    with pytest.raises(ValueError, match="fraction of the pixel range"):
        parse_fraction(written)


def test_merge_is_deep_and_leaves_its_inputs():
    base, patch = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 3}, "e": {"f": 4}}
    before = copy.deepcopy((base, patch))
    assert merge(base, patch) == {"a": {"b": 3, "c": [1]}, "d": 2, "e": {"f": 4}}
    assert (base, patch) == before


def test_merge_replaces_lists_and_nulls():
    assert merge({"a": [1, 2], "b": {"c": 1}}, {"a": [3], "b": None}) == {"a": [3], "b": None}


def test_attack_steps_of_a_mode_clear_the_base_yopo():
    base = {"supernet.attack_steps": None, "supernet.yopo": {"m": 4, "n": 4}}
    mode = f"modes.{MODE}.supernet"
    plan = row_plan(base | {mode: {"attack_steps": 10}})
    assert (plan.supernet.attack.m, plan.supernet.attack.n) == (5, 3)
    plan = row_plan({"supernet.attack_steps": 10, mode: {"yopo": {"m": 4, "n": 4}}})
    assert (plan.supernet.attack.m, plan.supernet.attack.n) == (4, 4)


@pytest.mark.parametrize("where", ["supernet", f"modes.{MODE}.supernet", "baselines.training.attack"])
def test_attack_steps_and_yopo_in_one_place_are_refused(where):
    both = {f"{where}.attack_steps": 1, f"{where}.yopo": {"m": 1, "n": 2}}
    with pytest.raises(InputError, match="exactly one of attack_steps and yopo"):
        parse_params(edited(both))


@pytest.mark.parametrize(
    ("steps", "m", "n", "step"), [(10, 5, 3, "2"), (5, 3, 2, "2"), (2, 2, 2, "2.5"), (1, 1, 2, "5")]
)
def test_table_of_attack_steps(steps, m, n, step):
    attack = row_plan({f"modes.{MODE}": {"supernet": {"eps": "8/255", "attack_steps": steps}}}).supernet.attack
    assert (attack.m, attack.n, attack.step_size) == (m, n, Fraction(step) / 255)


@pytest.mark.parametrize("eps", ["2/255", "6/255", "0.9"])
@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_inner_step_can_reach_the_border(eps, steps):
    attack = row_plan({f"modes.{MODE}": {"supernet": {"eps": eps, "attack_steps": steps}}}).supernet.attack
    wanted = max(attack.eps / 4, Fraction(5, 4) * attack.eps / (attack.m * attack.n))
    assert attack.step_size == wanted
    assert attack.m * attack.n * attack.step_size >= attack.eps


def test_derived_defaults():
    mode = {"supernet": {"eps": "6/255", "attack_steps": 10, "lam": 0.5}, "search": {"attack": {"eps": None}}}
    plan = row_plan({f"modes.{MODE}": mode, "search.attack.step_size": None, "retrain.scratch.attack": None})
    assert plan.search.attack.eps == Fraction(6, 255)
    assert plan.search.attack.step_size == Fraction(6, 255) / 4
    for training in (plan.retrain.scratch, plan.retrain.finetune):
        assert training.attack == plan.supernet.attack.model_copy(update={"bn": "eval"})
    assert plan.retrain.validation.attack.step_size == plan.retrain.validation.attack.eps / 4


def test_lam_of_an_attack_of_its_own():
    own = {"eps": "8/255", "attack_steps": 1, "lam": 0.25}
    plan = row_plan(
        {"supernet.lam": 0.5, "retrain.scratch.attack": own, "retrain.finetune.attack": own | {"lam": None}}
    )
    attacks = plan.supernet.attack, plan.retrain.scratch.attack, plan.retrain.finetune.attack
    assert [attack.lam for attack in attacks] == [0.5, 0.25, 0.5]


def test_retraining_attack_may_be_its_own():
    own = {"eps": "4/255", "yopo": {"m": 2, "n": 3, "step_size": "1/255"}}
    plan = row_plan({"retrain.finetune.attack": own})
    attack = plan.retrain.finetune.attack
    assert (attack.eps, attack.m, attack.n, attack.step_size) == (Fraction(4, 255), 2, 3, Fraction(1, 255))
    assert plan.retrain.scratch.attack.eps == plan.supernet.attack.eps


@pytest.mark.parametrize(
    ("every", "yopo_bn", "bn"),
    [({"steps": 1}, None, "batch"), ({"epochs": 20}, None, "eval"), ({"steps": 1}, "eval", "eval")],
)
def test_batchnorm_of_the_perturbation(every, yopo_bn, bn):
    yopo = {"m": 1, "n": 2, "bn": yopo_bn}
    plan = row_plan({"supernet.resample_every": every, f"modes.{MODE}": {"supernet": {"yopo": yopo}}})
    assert plan.supernet.attack.bn == bn
    assert plan.retrain.scratch.attack.bn == "eval"


@pytest.mark.parametrize("span", ["both", "phase"])
def test_schedule_spans_one_or_both_phases(span):
    supernet = row_plan(
        {"supernet.schedule.span": span, "supernet.block.epochs": 7, "supernet.joint.epochs": 9}
    ).supernet
    block, joint = supernet.block.recipe.schedule, supernet.joint.recipe.schedule
    expected = ((0, 16), (7, 16)) if span == "both" else ((0, 7), (0, 9))
    assert ((block.start, block.total), (joint.start, joint.total)) == expected
    assert supernet.joint.keep_momentum == (span == "both")


def test_mode_patches_one_row_alone():
    changes = {
        "modes.wide": {"network": {"width": 2}, "supernet": {"eps": "4/255"}},
        "run.rows.wide": {"dataset": DATASET, "mode": "wide"},
    }
    study = resolve_study(parse_params(edited(changes)))
    assert study.rows["wide"].network.width == 2
    assert study.rows[ROW].network.width == RAW["network"]["width"]
    assert study.datasets[DATASET].pooled.rows == (ROW, "wide")


@pytest.mark.parametrize(
    "yopo",
    [
        {"m": 1, "n": 2, "step_size": "5/255"},
        {"m": 1, "n": 5, "step_size": "2/255"},  # n * step_size is the same
        {"m": 1, "n": 10, "step_size": "1/255"},
    ],
)
def test_twins_are_refused(yopo):
    changes = {
        f"modes.{MODE}": {"supernet": {"eps": "8/255", "attack_steps": 1}},
        "modes.other": {"supernet": {"eps": "8/255", "yopo": yopo}},
        "run.rows.twin": {"dataset": DATASET, "mode": "other"},
    }
    with pytest.raises(InputError, match=f"twin is the same experiment as {ROW}"):
        parse_params(edited(changes))


def test_controls_make_no_other_experiment():
    mode = {"controls": {"random_networks": True}}
    changes = {"modes.twin": mode, "run.rows.twin": {"dataset": DATASET, "mode": "twin"}}
    with pytest.raises(InputError, match=f"twin is the same experiment as {ROW}"):
        parse_params(edited(changes))
    alone = resolve_study(parse_params(edited({"modes.twin": mode, f"run.rows.{ROW}.mode": "twin"})))
    assert alone.rows[ROW].controls.random_networks
    assert not alone.datasets[DATASET].controls.training


@pytest.mark.parametrize(
    "mode",
    [
        {"supernet": {"yopo": {"m": 2, "n": 2, "step_size": "5/255"}}},
        {"supernet": {"yopo": {"m": 1, "n": 2, "step_size": "4/255"}}},
        {"supernet": {"eps": "4/255"}},
        {"network": {"width": 2}},
        {"retrain": {"scratch": {"attack": {"eps": "8/255", "attack_steps": 10}}}},
    ],
    ids=str,
)
def test_siblings_are_no_twins(mode):
    changes = {"modes.other": mode, "run.rows.sibling": {"dataset": DATASET, "mode": "other"}}
    assert "sibling" in resolve_study(parse_params(edited(changes))).rows


def test_missing_parameter_is_named():
    raw = edited({})
    del raw["search"]["population"]
    with pytest.raises(InputError, match=r"^params\.yaml: search\.population: is missing$"):
        parse_params(raw)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "other.yaml"
    for changes, words in (
        ({"search.budget": [1, 2]}, f"modes.{MODE}: search.budget"),
        ({"run.datasets": ["none"]}, "run.datasets: 'none' is not in data"),
        ({f"modes.{MODE}": {"seed": 7}}, f"modes.{MODE}: seed: cannot differ"),
        ({f"modes.{MODE}": {"nothing": 7}}, f"modes.{MODE}: nothing: no such parameter"),
    ):
        write_yaml(path, edited(changes))
        with pytest.raises(InputError, match=f"^{re.escape(f'{path}: {words}')}"):
            load_params(path)


def test_parameters_are_frozen():
    params = parse_params(RAW)
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 1


def test_validation_takes_plain_values_back():
    params = parse_params(RAW)
    assert validated(type(params), params.plain(), "again") == params


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"seed": 1}, "modes.base: seed"),
        ({"data": {"digits": {"validation": 100}}}, "modes.base: data.digits"),
        ({"baselines": {"names": []}}, "modes.base: baselines"),
        ({"compute": {"workers": 3}}, "modes.base: compute"),
        ({"legonet": {"top": 3}}, "modes.base: legonet"),
        ({"numerics": {"threads": 2}}, "modes.base: numerics"),
    ],
)
def test_a_mode_may_not_patch_what_rows_share(patch, words):
    raw = read_yaml(ROOT / "params.yaml")
    raw["modes"]["base"] = patch
    with pytest.raises(InputError, match=words):
        parse_params(raw)


def test_a_mode_may_augment_otherwise():
    raw = read_yaml(ROOT / "params.yaml")
    raw["modes"]["base"] = {"data": {"digits": {"augment": {"pad": 1}}}}
    assert resolve_study(parse_params(raw)).rows["digits-base"].data.augment.pad == 1


def test_the_mode_of_the_pooled_lego_net_may_not_patch_what_rows_share_either():
    changes = {"legonet.pooled_mode": {DATASET: "wide"}, "modes.wide": {"network": {"width": 2}, "seed": 7}}
    with pytest.raises(InputError, match=r"modes\.wide: seed: cannot differ between modes"):
        parse_params(edited(changes))
    changes["modes.wide"] = {"data": {DATASET: {"augment": {"pad": 1}}}}
    with pytest.raises(InputError, match=rf"modes\.wide: data\.{DATASET}\.augment: the mode of the pooled Lego-Net"):
        parse_params(edited(changes))


@pytest.mark.parametrize(("gene", "own", "other"), [("blocks", [0, 6], [12, 20]), ("ratios", [0.2, 0.4], [1.0, 2.0])])
def test_rows_that_share_no_choice_cannot_be_pooled(gene, own, other):
    changes = {f"modes.{MODE}": {"space": {gene: own}}, "modes.other": {"space": {gene: other}}}
    changes |= {"run.rows.other": {"dataset": DATASET, "mode": "other"}}
    with pytest.raises(InputError, match=rf"space\.{gene}: row other has none of those of the mode {MODE}"):
        parse_params(edited(changes))
    changes["modes.other"]["space"][gene] = [own[0], *other]
    parse_params(edited(changes))


COMMON = {"eps": "8/255", "attack_steps": 10}


def test_the_common_attack_is_the_same_for_all_modes():
    modes = {"lam": {"supernet": {"lam": 0.2}}, "madry": {"supernet": {"loss": "pgd_at", "lam": None}}}
    changes = {"controls.common_attack": COMMON, "supernet.lam": 0.5}
    changes |= {f"modes.{name}": patch for name, patch in modes.items()}
    changes |= {f"run.rows.{name}": {"dataset": DATASET, "mode": name} for name in modes}
    rows = resolve_study(parse_params(edited(changes))).rows
    attacks = [rows[name].controls.common_attack.attack for name in (ROW, *modes)]
    assert [(attack.loss, attack.lam) for attack in attacks] == [("trades", 0.5)] * 3


@pytest.mark.parametrize("section", ["retrain.scratch.attack", "retrain.finetune.attack", "controls.common_attack"])
def test_a_lam_that_the_inherited_loss_does_not_have_is_refused(section):
    changes = {"supernet.loss": "pgd_at", "supernet.lam": None, section: COMMON | {"lam": 0.2}}
    with pytest.raises(InputError, match=rf"{re.escape(section)}\.lam: is 0\.2; its loss, the supernet's, is pgd_at"):
        parse_params(edited(changes))
    parse_params(edited(changes | {section: COMMON | {"lam": 0.2, "loss": "trades"}}))


def test_one_schedule_over_both_phases_has_the_milestones_of_either():
    changes = {"supernet.schedule": {"kind": "milestones", "span": "both"}}
    changes |= {"supernet.block.epochs": 12, "supernet.block.milestones": [4, 15]}
    changes |= {"supernet.joint.epochs": 18, "supernet.joint.milestones": [20, 25]}
    supernet = row_plan(changes).supernet
    for phase in (supernet.block, supernet.joint):
        assert phase.recipe.schedule.milestones == (4, 15, 20, 25)
    changes |= {"supernet.schedule": {"kind": "milestones", "span": "phase"}, "supernet.block.milestones": [4]}
    changes |= {"supernet.joint.milestones": [8]}
    supernet = row_plan(changes).supernet
    assert [phase.recipe.schedule.milestones for phase in (supernet.block, supernet.joint)] == [(4,), (8,)]


def test_several_paths_and_several_ranks_do_not_go_together():
    with pytest.raises(InputError, match=r"^params\.yaml: supernet: paths: is 2; allowed with 4 ranks: 1"):
        parse_params(edited({"supernet.paths": 2, "supernet.ranks": 4}))


@pytest.mark.parametrize("phase", ["block", "joint"])
def test_fair_draws_know_no_budget(phase):
    with pytest.raises(InputError, match=rf"^params\.yaml: supernet: draw: is 'fair', which has no {phase}\.budget; "):
        parse_params(edited({"supernet.draw": "fair", f"supernet.{phase}.budget": [None, 2_000_000]}))
