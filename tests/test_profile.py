import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tamnas import profile
from tamnas.errors import InputError
from tamnas.fields import read_yaml
from tamnas.params import load_params, resolve_all
from tamnas.plan import BASELINES, RowPlan

ROOT = Path(__file__).parents[1]
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
    resolve_all(load_params("params.yaml"))
    assert "# everything random derives from it" in Path("params.yaml").read_text()
    assert profile.apply(name) == []  # applied already


def test_the_paper_profile_is_the_papers_study(project):
    profile.apply("paper")
    resolved = resolve_all(load_params("params.yaml"))
    assert all(resolved[dataset].baselines.names == BASELINES for dataset in ("cifar10", "svhn"))
    plans = [plan for plan in resolved.values() if isinstance(plan, RowPlan)]
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


def test_a_misspelt_key_changes_nothing(project):
    Path("profiles/broken.yaml").write_text("supernet: {epps: 6/255}\n")
    before = Path("params.yaml").read_text()
    with pytest.raises(InputError, match=r"profiles/broken.yaml.*supernet.epps: no such parameter"):
        profile.apply("broken")
    assert Path("params.yaml").read_text() == before


def test_settings_go_over_the_profile(project):
    settings = ["data.cifar10.source=npz", "data.cifar10.path=/images.npz", "compute.workers=3", "eval.steps=[10, 20]"]
    assert "data.cifar10.source: cifar10 -> npz" in profile.apply("paper-cifar10", settings=settings)
    params = load_params("params.yaml")
    assert (params.data["cifar10"].path, params.compute.workers, params.eval.steps) == ("/images.npz", 3, (10, 20))


@pytest.mark.parametrize("setting", ["seed", "=1", "a..b=1", "seed=[1", "seed=-1", "sead=1"])
def test_a_bad_setting_is_one_line_and_changes_nothing(project, setting):
    before = Path("params.yaml").read_text()
    result = CliRunner().invoke(profile.main, ["paper-cifar10", "--set", setting])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert Path("params.yaml").read_text() == before


def test_an_unknown_profile_names_those_there_are(project):
    result = CliRunner().invoke(profile.main, ["papre"])
    assert result.exit_code == 2
    with pytest.raises(InputError, match="paper-cifar10"):
        profile.apply("papre")


def test_values_outside_a_profile_stay(project):
    before = read_yaml("params.yaml")
    profile.apply("paper-svhn")
    after = read_yaml("params.yaml")
    assert after["seed"] == before["seed"]
    assert after["data"]["digits"] == before["data"]["digits"]
