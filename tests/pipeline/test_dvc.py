"""Real `dvc` on the real dvc.yaml: a change re-runs the stages it affects, and no others.

All stages but `fingerprint` and `plan` are stand-ins that write a hash of what they depend on, so
that every dependency that is declared, and none that is not, travels down the pipeline.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tamnas.pipeline.code import scripts, source_files
from tests.helpers.tiny import ROOT, commit, dvc, project, tiny_params, write_params

STAND_IN = """
import hashlib, json, pathlib, sys
here = json.loads(pathlib.Path("stages.json").read_text())
stage = here["python " + " ".join(sys.argv)]
digest = hashlib.sha256()
for path in stage["deps"]:
    path = pathlib.Path(path)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file).encode() + file.read_bytes())
for path, keys in stage["params"].items():
    from ruamel.yaml import YAML
    values = YAML(typ="safe", pure=True).load(pathlib.Path(path))
    for key in keys:
        value = values
        for part in key.split("."):
            value = value[part]
        digest.update(f"{key}={value}".encode())
for out in stage["outs"]:
    out = pathlib.Path(out)
    if not out.suffix:
        out = out / "hash.txt"
    out.parent.mkdir(parents=True, exist_ok=True)
    number = int(digest.hexdigest()[:6], 16)
    texts = {".json": json.dumps({"hash": number}), ".csv": f"run,generation,hypervolume\\na,0,{number}\\n"}
    out.write_text(texts.get(out.suffix, digest.hexdigest()))
raise SystemExit  # what follows is the stage's own code, for what it imports

"""


def three_modes() -> dict:
    raw = tiny_params()
    raw["modes"] = {"plain": {}, "own": {"supernet": {"eps": "6/255", "attack_steps": 10}}}
    raw["run"]["rows"] = {f"digits-{mode}": {"dataset": "digits", "mode": mode} for mode in raw["modes"]}
    return raw


def describe(folder: Path) -> None:
    """What the stand-ins need: each command's dependencies, parameters and outputs, as DVC resolves them."""
    from dvc.repo import Repo

    stages = {}
    with Repo(str(folder)) as repo:
        for stage in repo.index.stages:
            params: dict[str, list] = {}
            for dep in stage.deps:
                if hasattr(dep, "params"):
                    params.setdefault(dep.def_path, []).extend(dep.params)
            stages[stage.cmd] = {
                "deps": [dep.def_path for dep in stage.deps if not hasattr(dep, "params")],
                "params": params,
                "outs": [out.def_path for out in stage.outs],
            }
    (folder / "stages.json").write_text(json.dumps(stages))


def with_stand_ins(folder: Path, raw: dict) -> Path:
    project(folder, raw)
    for script in (folder / "stages").glob("*.py"):
        if script.stem not in ("__init__", "fingerprint", "plan"):
            script.write_text(STAND_IN + script.read_text())
    describe(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = with_stand_ins(tmp_path_factory.mktemp("dvc") / "project", three_modes())
    dvc(folder, "repro")
    commit(folder, "results")
    return folder


@pytest.fixture
def repo(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))


def change(repo: Path, edit) -> set[str]:
    """The stages that `dvc repro` runs after `edit` of the parameters."""
    raw = YAML(typ="safe", pure=True).load(repo / "params.yaml")
    edit(raw)
    write_params(repo, raw)
    describe(repo)
    return ran(dvc(repo, "repro"))


def ran(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


EVALUATION = {
    f"evaluate_{kind}@digits-{mode}"
    for kind in ("scratch", "finetune", "legonet", "controls")
    for mode in ("plain", "own")
}
EVALUATION |= {f"evaluate_{kind}@digits" for kind in ("legonet_pooled", "baselines", "controls_pooled")}
PER_ROW = [
    "supernet_block", "supernet_joint", "search", "random_search", "select", "retrain_scratch", "retrain_finetune",
    "legonet", "controls", "evaluate_scratch", "evaluate_finetune", "evaluate_legonet", "evaluate_controls",
]  # fmt: skip
POOLED = {f"{stage}@digits" for stage in ("legonet_pooled", "controls_pooled")}
POOLED |= {f"evaluate_{stage}" for stage in POOLED}


def test_a_second_repro_runs_nothing(repo):
    output = dvc(repo, "repro")
    assert ran(output) == set()
    assert "up to date" in output


def test_generations_rerun_the_search_but_no_supernet(repo):
    stages = change(repo, lambda raw: raw["search"].update(generations=3))
    assert {"search@digits-plain", "select@digits-own", "retrain_scratch@digits-plain", "tables"} <= stages
    assert not any(name.startswith(("supernet", "prepare", "baselines", "evaluate_baselines")) for name in stages)


def test_finetune_epochs_rerun_no_training_from_scratch(repo):
    stages = change(repo, lambda raw: raw["retrain"]["finetune"].update(epochs=2))
    again = ("retrain_finetune", "evaluate_finetune", "controls", "evaluate_controls")
    assert stages == {"plan", "tables"} | both_rows(*again)


def both_rows(*stages: str) -> set[str]:
    return {f"{stage}@digits-{mode}" for stage in stages for mode in ("plain", "own")}


def test_a_control_reruns_nothing_that_it_stands_beside(repo):
    always = {"plan", "tables"}
    stages = change(repo, lambda raw: raw["controls"].update(random_networks=True))
    assert stages == always | both_rows("controls", "evaluate_controls")
    assert change(repo, lambda raw: raw["controls"].update(random_search=True)) == always | both_rows("random_search")
    final = both_rows("controls", "evaluate_controls") | {"controls_pooled@digits", "evaluate_controls_pooled@digits"}
    assert change(repo, lambda raw: raw.update(seeds=[1])) == always | final


def test_eval_eps_reruns_evaluation_and_reports_only(repo):
    assert change(repo, lambda raw: raw["eval"].update(eps=["2/255"])) == {"plan", "tables"} | EVALUATION


def test_a_new_mode_reruns_only_its_own_chain(repo):
    def add(raw):
        raw["modes"]["new"] = {"supernet": {"attack_steps": 5}}
        raw["run"]["rows"]["digits-new"] = {"dataset": "digits", "mode": "new"}

    assert change(repo, add) == {"plan", "tables"} | {f"{stage}@digits-new" for stage in PER_ROW} | POOLED


def test_plotting_code_remakes_only_the_reports(repo):
    with (repo / "tamnas" / "report" / "figures" / "pictures.py").open("a") as file:
        file.write("# a change\n")
    assert ran(dvc(repo, "repro")) == {"fingerprint", "tables"}


def test_training_code_reruns_every_training(repo):
    with (repo / "tamnas" / "step.py").open("a") as file:
        file.write("# a change\n")
    training = ("supernet_block", "supernet_joint", "retrain_scratch", "retrain_finetune", "legonet", "controls")
    assert both_rows(*training) | {"baselines@digits", "legonet_pooled@digits"} <= ran(dvc(repo, "repro"))


def test_a_change_of_code_is_accepted_without_running_it(repo):
    with (repo / "tamnas" / "step.py").open("a") as file:
        file.write("# a change\n")
    dvc(repo, "repro", "--single-item", "fingerprint")  # what `make accept` does
    dvc(repo, "commit", "--force")
    shutil.rmtree(repo / "code")
    assert ran(dvc(repo, "repro")) <= {"fingerprint"}
    subprocess.run(["sha256sum", "--check", "--quiet", "code/search.sha256"], cwd=repo, check=True)


def test_compute_reruns_nothing(repo):
    assert change(repo, lambda raw: raw["compute"].update(workers=7, engine="processes")) == set()


def test_a_comment_reruns_nothing(repo):
    with (repo / "params.yaml").open("a") as file:
        file.write("# a comment\n")
    assert ran(dvc(repo, "repro")) == set()


def test_an_experiment_reruns_only_modes_without_values_of_their_own_and_diffs_tell(repo):
    output = dvc(repo, "exp", "run", "-S", "supernet.eps=6/255", "-S", "supernet.attack_steps=2")
    assert ran(output) == {"plan", "tables"} | {f"{stage}@digits-plain" for stage in PER_ROW} | POOLED
    assert "6/255" in (repo / "params.yaml").read_text()
    described = dvc(repo, "params", "diff", "--targets", "params.yaml").splitlines()
    assert {line.split()[1] for line in described if "params.yaml" in line} == {"supernet.attack_steps", "supernet.eps"}
    assert "hash" in dvc(repo, "metrics", "diff")
    dvc(repo, "plots", "diff", "HEAD", "--out", "plots")
    assert (repo / "plots" / "index.html").exists()


def test_every_stage_depends_on_the_list_of_its_own_code():
    pipeline = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    for name, stage in pipeline["stages"].items():
        body = stage.get("do", stage)
        listed = [dep for dep in body["deps"] if dep.startswith("code/")]
        script = Path(body["cmd"].split()[1]).stem
        assert listed == ([] if name == "fingerprint" else [f"code/{script}.sha256"])


def test_the_lists_of_code_are_checked_by_sha256sum(finished):
    subprocess.run(["sha256sum", "--check", "--quiet", "code/search.sha256"], cwd=finished, check=True)
    with (finished / "code" / "search.sha256").open() as file:
        listed = {line.split()[1] for line in file}
    assert {"stages/search.py", "tamnas/search/nsga2.py", "tamnas/attacks/ascent.py", "tamnas/__init__.py"} <= listed


def test_training_stages_do_not_depend_on_reports_or_raw_parameters():
    for script in scripts():
        if script.stem not in ("tables", "plan", "fingerprint"):
            late = ("tamnas/config/resolve.py", "tamnas/config/params.py", "tamnas/paper.py")
            files = [str(file) for file in source_files(script)]
            assert not any("report" in file or file in late for file in files), script
