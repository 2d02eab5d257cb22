"""Reports are made of results and plans that belong together, as far as dvc.lock can tell."""

import hashlib
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tamnas.errors import InputError
from tamnas.files import write_json
from tamnas.report.locked import require_plans_of_results
from tests.helpers.tiny import ROW, planned, tiny_params


@pytest.fixture
def locked(finished_run, tmp_path, monkeypatch) -> Path:
    """A finished run with its dvc.lock, under DVC; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("plan", "results"):
        shutil.copytree(finished_run / name, name)
    stages = {}
    for one in planned(tiny_params()):
        files = [dep for dep in one.deps if dep.is_file()]
        deps = [{"path": str(dep), "md5": hashlib.md5(dep.read_bytes()).hexdigest()} for dep in files]
        stages[one.name] = {"cmd": one.stage.command, "deps": deps}
    YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, Path("dvc.lock"))
    return tmp_path


def change(stage: str, name: str = ROW) -> None:
    with Path("plan", name, f"{stage}.yaml").open("a") as file:
        file.write("# of another experiment\n")


@pytest.mark.parametrize("stage", ["prepare", "supernet_block", "search", "evaluate_scratch", "legonet_pooled"])
def test_a_plan_of_another_experiment_is_noticed(locked, stage, monkeypatch):
    require_plans_of_results()
    name = "digits" if stage in ("prepare", "legonet_pooled") else ROW
    change(stage, name)
    with pytest.raises(InputError, match=rf"^plan/{name}/{stage}.yaml: results/digits/{stage}.* `dvc repro plan` if"):
        require_plans_of_results()
    monkeypatch.delenv("DVC_ROOT")  # the runner and a stage by hand write no dvc.lock
    require_plans_of_results()


def test_results_that_are_in_no_report_may_be_of_another_plan(locked):
    for stage in ("retrain_scratch", "legonet", "evaluate_scratch"):
        change(stage)
    write_json(Path("results/digits/retrain_scratch", ROW, "diverged.json"), {"reason": "the loss is NaN"})
    require_plans_of_results()  # what needs a stage that diverged is left out
    change("evaluate_finetune")
    with pytest.raises(InputError, match="evaluate_finetune"):
        require_plans_of_results()


def test_results_that_dvc_did_not_make_are_taken_as_they_are(locked):
    change("search")
    shutil.rmtree(Path("results/digits/search", ROW))  # not run
    change("select")
    Path("dvc.lock").write_text(Path("dvc.lock").read_text().replace(f"select@{ROW}:", "select@gone:"))
    require_plans_of_results()
