import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from tamnas.config.fields import read_yaml
from tamnas.config.resolve import load_params, resolve_study
from tamnas.config.sections import PAPER_BASELINES
from tamnas.errors import InputError
from tamnas.pipeline import profiles as profile
from tamnas.space.space import SearchSpace

ROOT = Path(__file__).parents[2]
PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_valid_and_change_what_they_print(project, name):
    changes = profile.apply(name)
    assert changes
    assert "&" not in Path("params.yaml").read_text()  # no anchors: `dvc exp run -S` writes them out
    resolve_study(load_params("params.yaml"))
    assert "# everything random derives from it" in Path("params.yaml").read_text()
    assert profile.apply(name) == []  # applied already


@pytest.mark.parametrize("name", [None, *PROFILES])
def test_dvc_changes_one_line_for_one_parameter(project, name):
    """`dvc exp run -S` writes the whole of params.yaml anew."""
    if name:
        profile.apply(name)
    before = Path("params.yaml").read_text().splitlines()
    with modify_yaml("params.yaml") as raw:
        raw["search"]["population"] += 1
    changed = [new for old, new in zip(before, Path("params.yaml").read_text().splitlines(), strict=True) if new != old]
    assert [line.strip() for line in changed] == [f"population: {raw['search']['population']}"]


def lists(raw: dict) -> list[tuple[dict, str]]:
    """(the section that holds it, key) of every list."""
    inner = [place for value in raw.values() if isinstance(value, dict) for place in lists(value)]
    return [(raw, key) for key, value in raw.items() if isinstance(value, list)] + inner


def test_dvc_may_fill_and_empty_any_lists(project):
    """A list whose key has a comment behind it would be written so that nothing can read it (ruamel.yaml 0.19.1)."""
    text, count = Path("params.yaml").read_text(), len(lists(read_yaml(Path("params.yaml"))))
    for chosen in [*([place] for place in range(count)), range(count)]:
        Path("params.yaml").write_text(text)
        for value in ([1], []):
            with modify_yaml("params.yaml") as raw:
                for section, key in [lists(raw)[place] for place in chosen]:
                    section[key] = value
            assert read_yaml(Path("params.yaml")) == raw


def test_the_paper_profile_is_the_papers_study(project):
    profile.apply("paper")
    study = resolve_study(load_params("params.yaml"))
    assert all(study.datasets[dataset].baselines.names == PAPER_BASELINES for dataset in ("cifar10", "svhn"))
    plans = study.rows.values()
    assert len(plans) == 15
    assert sorted({plan.dataset: sum(p.dataset == plan.dataset for p in plans) for plan in plans}.items()) == [
        ("cifar10", 7),
        ("svhn", 8),
    ]
    attacks = {plan.mode: plan.supernet.attack for plan in plans}
    assert (attacks["S_8_10"].m, attacks["S_8_10"].n, attacks["S_8_10"].step_size * 255) == (5, 3, 2)
    assert (attacks["S_8_1"].m, attacks["S_8_1"].n, attacks["S_8_1"].step_size * 255) == (1, 2, 5)
    assert float(attacks["S_8_2"].step_size * 255) == 2.5
    assert {plan.mode for plan in plans if plan.network.width == 2} == {"2S_8_1", "2S_8_5"}
    for plan in plans:
        assert plan.supernet.block.recipe.epochs == plan.supernet.joint.recipe.epochs == 500
        assert plan.supernet.joint.recipe.schedule.milestones == (100, 200, 300)
        assert plan.data.augment.flip is (plan.dataset == "cifar10")
        assert plan.retrain.scratch.attack == attacks[plan.mode]
        assert plan.search.attack.eps == attacks[plan.mode].eps


@pytest.mark.parametrize(
    ("text", "key"), [("{epps: 6/255}", "supernet.epps"), ("{stagnaton: null}", "search.stagnaton")]
)
def test_a_misspelt_key_changes_nothing(project, text, key):
    Path("profiles/broken.yaml").write_text(f"{key.partition('.')[0]}: {text}\n")
    before = Path("params.yaml").read_text()
    with pytest.raises(InputError, match=rf"profiles/broken.yaml.*{re.escape(key)}: no such parameter"):
        profile.apply("broken")
    assert Path("params.yaml").read_text() == before


def test_settings_go_over_the_profile(project):
    settings = ["data.cifar10.source=npz", "data.cifar10.path=/images.npz", "compute.workers=3", "eval.steps=[10, 20]"]
    assert "data.cifar10.source: cifar10 -> npz" in profile.apply("paper-cifar10", settings=settings)
    params = load_params("params.yaml")
    assert (params.data["cifar10"].path, params.compute.workers, params.eval.steps) == ("/images.npz", 3, (10, 20))


def test_a_setting_changes_nothing_beside_what_it_names(project):
    settings = ["legonet.pooled_mode.svhn=S_8_1", "modes.S_8_1.supernet.eps=6/255", "search={tournament: 3}"]
    profile.apply("paper", settings=settings)
    raw = read_yaml("params.yaml")
    assert raw["legonet"]["pooled_mode"] == {"cifar10": "2S_8_1", "svhn": "S_8_1"}
    assert (len(raw["modes"]), raw["modes"]["S_8_1"]["supernet"]) == (9, {"eps": "6/255", "attack_steps": 1})
    assert (raw["search"]["tournament"], raw["search"]["generations"]) == (3, 20)
    rows = {f"{dataset}-S_8_1": {"dataset": dataset, "mode": "S_8_1"} for dataset in ("cifar10", "svhn")}
    profile.apply("smoke", settings=[f"run.rows={json.dumps(rows)}"])
    assert read_yaml("params.yaml")["run"]["rows"] == rows


def test_what_an_alias_of_params_yaml_shares_is_set_apart(project):
    yaml = YAML()
    raw = yaml.load(Path("params.yaml"))
    raw["retrain"]["finetune"] = raw["retrain"]["scratch"]
    yaml.dump(raw, Path("params.yaml"))
    assert re.search(r"finetune: \*\w+\n", Path("params.yaml").read_text())
    profile.apply("h200")
    now = read_yaml("params.yaml")["retrain"]
    assert (now["scratch"]["epochs"], now["finetune"]["epochs"]) == (25, 8)


@pytest.mark.parametrize(
    "setting",
    [
        *("seed", "=1", "a..b=1", "seed=[1", "seed=-1", "sead=1", "sead=null", "seed=2020-13-45", "seed=!!int x"),
        *("seed=!!bool x", "seed=!!int ''", f"seed={'[' * 3000}", "seeds=&a [*a]"),
    ],
)
def test_a_bad_setting_is_one_line_and_changes_nothing(project, setting):
    before = Path("params.yaml").read_text()
    result = CliRunner().invoke(profile.main, ["paper-cifar10", "--set", setting])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert Path("params.yaml").read_text() == before


def test_without_params_yaml(project):
    Path("params.yaml").unlink()
    result = CliRunner().invoke(profile.main, ["smoke"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_an_unknown_profile_names_those_there_are(project):
    result = CliRunner().invoke(profile.main, ["papre"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "paper-cifar10" in result.stderr


def test_values_outside_a_profile_stay(project):
    before = read_yaml("params.yaml")
    profile.apply("paper-svhn")
    after = read_yaml("params.yaml")
    assert after["seed"] == before["seed"]
    assert after["data"]["digits"] == before["data"]["digits"]


def test_a_profile_that_extends_another_holds_only_what_differs(project):
    Path("profiles/a.yaml").write_text("seed: 3\nsearch: {population: 30, offspring: 30}\nmodes: {base: {}, x: {}}\n")
    Path("profiles/b.yaml").write_text("extends: a\nsearch: {offspring: 20}\nmodes: {base: {}}\n")
    profile.apply("b")
    params = load_params("params.yaml")
    assert (params.seed, params.search.population, params.search.offspring) == (3, 30, 20)
    assert list(params.modes) == ["base"]  # free names are replaced as a whole
    assert "extends" not in Path("params.yaml").read_text()


@pytest.mark.parametrize(
    ("extended", "message"), [("a", r"b.yaml: extends: b -> a -> b is circular"), ("c", "'c' does not exist")]
)
def test_a_profile_that_cannot_be_extended(project, extended, message):
    Path("profiles/a.yaml").write_text("extends: b\n")
    Path("profiles/b.yaml").write_text(f"extends: {extended}\n")
    before = Path("params.yaml").read_text()
    with pytest.raises(InputError, match=message):
        profile.apply("b")
    assert Path("params.yaml").read_text() == before


def test_the_smoke_profile_has_the_papers_rows_and_attacks(project):
    def resolved(name):
        shutil.copy(ROOT / "params.yaml", project)
        profile.apply(name)
        return resolve_study(load_params("params.yaml")).rows

    smoke, paper = resolved("smoke"), resolved("paper")
    assert list(smoke) == list(paper)
    for row, plan in smoke.items():
        ours, theirs = plan.supernet.attack, paper[row].supernet.attack
        assert (ours.eps, ours.m, ours.n, ours.step_size) == (theirs.eps, theirs.m, theirs.n, theirs.step_size)
        assert plan.network.width == paper[row].network.width
        assert (plan.eval.eps, plan.eval.steps) == (paper[row].eval.eps, paper[row].eval.steps)


def test_the_h200_profile_is_one_mode_of_the_paper_shortened(project):
    profile.apply("h200")
    plan = resolve_study(load_params("params.yaml")).rows["cifar10-S_8_10"]
    assert plan.supernet.block.recipe.epochs + plan.supernet.joint.recipe.epochs == 160
    assert plan.retrain.max_subnets == 8
    assert (plan.retrain.scratch.recipe.epochs, plan.retrain.finetune.recipe.epochs) == (25, 8)
    assert (plan.supernet.attack.m, plan.supernet.attack.n) == (5, 3)
    # What docs/profiles.md counts: Table X's own networks would take longer than all else.
    assert resolve_study(load_params("params.yaml")).datasets["cifar10"].baselines.names == ("resnet20",)


def test_the_levers_are_tried_on_what_the_h200_profile_finds(project):
    """One row, whose architectures are legal in both; its training is that of `modern`, shortened."""

    def resolved(name: str) -> dict:
        shutil.copy(ROOT / "params.yaml", project)
        profile.apply(name)
        return resolve_study(load_params("params.yaml")).rows

    h200, modern, levers = map(resolved, ("h200", "modern", "levers"))
    row = "cifar10-S_8_10"
    assert list(levers) == [row]
    assert (levers[row].network, levers[row].eval.weights) == (modern[row].network, "best")
    ours, theirs = levers[row].retrain.scratch, modern[row].retrain.scratch
    shortened = theirs.recipe.model_copy(update={"epochs": 40, "batch_size": 256})
    assert ours == theirs.model_copy(update={"recipe": shortened})
    found, used = SearchSpace.from_params(h200[row]), SearchSpace.from_params(levers[row])
    for seed in range(20):
        arch = found.sample(np.random.default_rng(seed))
        assert used.is_legal(arch)
        assert used.parameters(arch) == found.parameters(arch)


def test_the_levers_do_not_depend_on_the_profile_before_them(project):
    """A packed run brings the parameters of its own profile along."""
    profile.apply("levers")
    alone = resolve_study(load_params("params.yaml"))
    shutil.copy(ROOT / "params.yaml", project)
    profile.apply("h200")
    profile.apply("levers")
    assert resolve_study(load_params("params.yaml")) == alone


def test_the_modern_profile_uses_what_there_is_beyond_the_paper(project):
    profile.apply("modern")
    plan = resolve_study(load_params("params.yaml")).rows["cifar10-S_8_10"]
    assert 1 / plan.retrain.scratch.attack.lam == pytest.approx(6)
    assert (plan.network.activation, plan.network.strides) == ("silu", (1, 2, 2))
    assert plan.supernet.attack.bn == "batch"
    assert plan.eval.weights == "best"
    for recipe in (plan.supernet.block.recipe, plan.retrain.scratch.recipe):
        assert (recipe.weight_decay, recipe.schedule.kind) == (5e-4, "cosine")
    hand_made = resolve_study(load_params("params.yaml")).datasets["cifar10"].baselines.training
    assert 1 / hand_made.attack.lam == pytest.approx(6)
    for training in (plan.retrain.scratch, plan.retrain.finetune, hand_made):
        recipe = training.recipe
        assert (recipe.label_smoothing, recipe.ema, recipe.awp) == (0.1, 0.995, 0.005)
