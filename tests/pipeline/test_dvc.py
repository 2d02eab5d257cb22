"""A change re-runs the stages that it affects, and no others: asked of DVC in this process, where it takes a second.

Every stage counts as run once: its outputs are stand-ins, committed to dvc.lock. After a change `fingerprint` and
`plan` run, `Repo.status` says which stages have changed dependencies, and what lies behind these in dvc.yaml runs
too. Real `dvc repro` of stand-in scripts, which make of all that they depend on a hash, show that this is what happens.
"""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

import stages.fingerprint
import stages.plan
import stages.source
from tamnas.pipeline import code
from tamnas.pipeline.code import scripts, source_files
from tests.helpers.archives import image_folder
from tests.helpers.tiny import ROOT, commit, dvc, project, tiny_params, write_params

STAND_IN = """
import hashlib, json, pathlib, sys
name = pathlib.Path(sys.argv[0]).stem
stage = json.loads(pathlib.Path("stages.json").read_text())[" ".join(["python -m stages." + name, *sys.argv[1:]])]
digest = hashlib.sha256()
for path in map(pathlib.Path, stage["deps"]):
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file).encode() + file.read_bytes())
for out in map(pathlib.Path, stage["outs"]):
    if not out.suffix:
        out = out / "hash.txt"
    out.parent.mkdir(parents=True, exist_ok=True)
    number = int(digest.hexdigest()[:6], 16)
    texts = {".json": json.dumps({"hash": number}), ".csv": f"run,generation,hypervolume\\na,0,{number}\\n"}
    out.write_text(texts.get(out.suffix, digest.hexdigest()))
raise SystemExit  # what follows is the stage's own code, for what it imports

"""
REAL = ("fingerprint", "plan", "source")  # the stages that are no stand-ins


def real(name: str) -> bool:
    return name.partition("@")[0] in REAL


@contextlib.contextmanager
def opened(repo: Path) -> Iterator[Repo]:
    with contextlib.chdir(repo), Repo(str(repo)) as found:
        yield found


def two_modes() -> dict:
    raw = tiny_params()
    raw["modes"] = {"plain": {}, "own": {"supernet": {"eps": "6/255", "attack_steps": 10}}}
    raw["run"]["rows"] = {f"digits-{mode}": {"dataset": "digits", "mode": mode} for mode in raw["modes"]}
    return raw


def blocks(repo: Path) -> dict[str, dict]:
    """Command, dependencies and outputs of every stage instance, as DVC resolves them, in an order to run them in."""
    with opened(repo) as found:
        return {
            stage.addressing: {
                "cmd": stage.cmd,
                "deps": [dep.def_path for dep in stage.deps if not hasattr(dep, "params")],
                "outs": [out.def_path for out in stage.outs],
            }
            for stage in found.index.stages
        }


def describe(repo: Path) -> None:
    """What the stand-in scripts need."""
    (repo / "stages.json").write_text(json.dumps({block["cmd"]: block for block in blocks(repo).values()}))


def plan_and_list_code(repo: Path) -> None:
    """Run the real stages on the parameters and the code in `repo`."""
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(repo):
        patch.setattr(code, "ROOT", repo)
        patch.setattr(code, "PLUGINS", repo / "plugins")
        stages.fingerprint.main.run()
        stages.plan.main.run()
        stages.source.main.run("digits")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    repo = project(tmp_path_factory.mktemp("dvc") / "project", two_modes())
    for script in (repo / "stages").glob("*.py"):
        if script.stem not in ("__init__", *REAL):
            script.write_text(STAND_IN + script.read_text())
    describe(repo)
    plan_and_list_code(repo)
    for name, block in blocks(repo).items():
        for out in map(Path, () if real(name) else block["outs"]):
            path = repo / (out if out.suffix else out / "out.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text({".json": "{}", ".csv": "run,generation,hypervolume\na,0,0\n"}.get(path.suffix, name))
    with opened(repo) as found:
        found.commit(force=True)
    commit(repo, "results")
    return repo


@pytest.fixture
def repo(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))


def runs(repo: Path) -> set[str]:
    """The stages that `dvc repro` would run."""
    plan_and_list_code(repo)
    with opened(repo) as found:
        graph, told = found.index.graph, found.status()
        changed = {stage for stage in graph if stage.addressing in told}
        behind = (nx.ancestors(graph, stage) for stage in changed if not real(stage.addressing))
        return {stage.addressing for stage in changed.union(*behind)}


def edit(repo: Path, change) -> None:
    raw = YAML(typ="safe", pure=True).load(repo / "params.yaml")
    change(raw)
    write_params(repo, raw)


def runs_after(repo: Path, change) -> set[str]:
    """The stages that `dvc repro` would run after `change` of the parameters."""
    edit(repo, change)
    return runs(repo)


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("# a change\n")


def ran(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def both_rows(*stages: str) -> set[str]:
    return {f"{stage}@digits-{mode}" for stage in stages for mode in ("plain", "own")}


ALWAYS = {"plan", "tables"}
EVALUATION = both_rows(*(f"evaluate_{kind}" for kind in ("scratch", "finetune", "legonet", "controls")))
EVALUATION |= {f"evaluate_{kind}@digits" for kind in ("legonet_pooled", "baselines", "controls_pooled")}
PER_ROW = [
    "supernet_block", "supernet_joint", "search", "random_search", "select", "retrain_scratch", "retrain_finetune",
    "legonet", "controls", "ranking", "evaluate_scratch", "evaluate_finetune", "evaluate_legonet", "evaluate_controls",
]  # fmt: skip
POOLED = {f"{stage}@digits" for stage in ("legonet_pooled", "controls_pooled")}
POOLED |= {f"evaluate_{stage}" for stage in POOLED}


# -- parameters ---------------------------------------------------------------------------------


def test_generations_rerun_the_search_but_no_supernet(repo):
    found = runs_after(repo, lambda raw: raw["search"].update(generations=3))
    behind = [stage for stage in PER_ROW if not stage.startswith("supernet")]
    assert found == ALWAYS | both_rows(*behind) | POOLED


def test_another_front_is_retrained_without_another_search(repo):
    found = runs_after(repo, lambda raw: raw["search"].update(front="population"))
    behind = [stage for stage in PER_ROW if not stage.startswith("supernet") and "search" not in stage]
    assert found == ALWAYS | both_rows(*behind) | POOLED


def finetune_epochs(raw: dict) -> None:
    raw["retrain"]["finetune"].update(epochs=2)


FINETUNED = both_rows("retrain_finetune", "evaluate_finetune", "controls", "ranking", "evaluate_controls")


def test_finetune_epochs_rerun_no_training_from_scratch(repo):
    assert runs_after(repo, finetune_epochs) == ALWAYS | FINETUNED


def test_a_control_reruns_nothing_that_it_stands_beside(repo):
    networks = both_rows("controls", "ranking", "evaluate_controls")
    assert runs_after(repo, lambda raw: raw["controls"].update(random_networks=True)) == ALWAYS | networks
    edit(repo, lambda raw: raw["controls"].update(random_networks=False))
    search = both_rows("random_search")
    assert runs_after(repo, lambda raw: raw["controls"].update(random_search=True)) == ALWAYS | search
    edit(repo, lambda raw: raw["controls"].update(random_search=False))
    final = networks | {"controls_pooled@digits", "evaluate_controls_pooled@digits"}
    assert runs_after(repo, lambda raw: raw.update(seeds=[1])) == ALWAYS | final


def test_another_space_reruns_no_hand_made_network(repo):
    edit(repo, lambda raw: raw["network"].update(stem_channels=6))
    found = runs_after(repo, lambda raw: raw["space"].update(ratios=[0.4, 0.8, 1.2]))
    assert found == ALWAYS | both_rows(*PER_ROW) | POOLED


def test_eval_eps_reruns_evaluation_and_reports_only(repo):
    assert runs_after(repo, lambda raw: raw["eval"].update(eps=["2/255"])) == ALWAYS | EVALUATION


def test_a_new_mode_reruns_only_its_own_chain(repo):
    def add(raw):
        raw["modes"]["new"] = {"supernet": {"attack_steps": 5}}
        raw["run"]["rows"]["digits-new"] = {"dataset": "digits", "mode": "new"}

    assert runs_after(repo, add) == ALWAYS | {f"{stage}@digits-new" for stage in PER_ROW} | POOLED


def test_the_base_reruns_only_modes_without_values_of_their_own(repo):
    found = runs_after(repo, lambda raw: raw["supernet"].update(eps="6/255", attack_steps=2))
    assert found == ALWAYS | {f"{stage}@digits-plain" for stage in PER_ROW} | POOLED


def test_compute_reruns_nothing(repo):
    assert runs_after(repo, lambda raw: raw["compute"].update(workers=7, engine="processes")) == set()


def test_a_comment_reruns_nothing(repo):
    append(repo / "params.yaml")
    assert runs(repo) == set()


# -- images -------------------------------------------------------------------------------------


def own_images(repo: Path) -> Path:
    """From now on the dataset is a folder of pictures that `path` names relative to the repository; one of them."""
    image_folder(repo / "pictures", 10)
    edit(repo, lambda raw: raw["data"]["digits"].update(source="imagefolder", path="pictures"))
    with (repo / ".gitignore").open("a") as file:
        file.write("/pictures/\n")
    return repo / "pictures" / "a" / "0000.png"


def test_other_images_rerun_what_reads_them(repo):
    picture = own_images(repo)
    (repo / "pictures").rename(repo / "first")
    (repo / "pictures").symlink_to("first")
    plan_and_list_code(repo)
    with opened(repo) as found:
        found.commit(force=True)
    assert runs(repo) == set()
    picture.write_bytes(bytes(reversed(picture.read_bytes())))  # of the same size
    assert {"prepare@digits", *both_rows(*PER_ROW), *POOLED} <= runs(repo)
    picture.write_bytes(bytes(reversed(picture.read_bytes())))
    assert runs(repo) == set()  # contents count, not times
    shutil.copytree(repo / "first", repo / "second")
    (repo / "second" / "a" / "0000.png").unlink()
    (repo / "pictures").unlink()
    (repo / "pictures").symlink_to("second")
    assert {"prepare@digits", *both_rows(*PER_ROW), *POOLED} <= runs(repo)


# -- code ---------------------------------------------------------------------------------------

TRAINING = ("supernet_block", "supernet_joint", "retrain_scratch", "retrain_finetune", "legonet", "controls")


def test_plotting_code_remakes_only_the_reports(repo):
    append(repo / "tamnas" / "report" / "figures" / "style.py")
    assert runs(repo) == {"fingerprint", "tables"}


def test_training_code_reruns_every_training_and_is_accepted_without_running_it(repo):
    append(repo / "tamnas" / "training" / "step.py")
    told = runs(repo)
    assert both_rows(*TRAINING) | {"baselines@digits", "legonet_pooled@digits"} <= told
    dvc(repo, "repro", "--single-item", "fingerprint")  # what `make accept` does
    with opened(repo) as found:
        found.commit(force=True)
    shutil.rmtree(repo / "code")
    assert runs(repo) <= {"fingerprint"}
    subprocess.run(["sha256sum", "--check", "--quiet", "code/search.sha256"], cwd=repo, check=True)


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


def test_the_legend_of_plots_tells_revisions_apart():
    """Where a layer has points, its legend shows them and not the dashes, so that all revisions look the same."""
    template = json.loads((ROOT / ".dvc" / "plots" / "by_run.json").read_text())
    dashed = [layer for layer in template["layer"] if "strokeDash" in layer.get("encoding", {})]
    assert [(layer["mark"], layer["encoding"]["strokeDash"]["field"]) for layer in dashed] == [("line", "rev")]


# -- real commands ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_repro_runs_what_was_told(repo):
    assert "up to date" in dvc(repo, "repro")  # every stage was committed as it would have run
    edit(repo, finetune_epochs)
    append(repo / "tamnas" / "report" / "figures" / "style.py")
    told = runs(repo)
    assert told == ALWAYS | FINETUNED | {"fingerprint"}
    for folder in ("plan", "code"):  # the command makes its own
        shutil.rmtree(repo / folder)
    assert ran(dvc(repo, "repro")) == told
    output = dvc(repo, "repro")
    assert ran(output) == set()
    assert "up to date" in output


@pytest.mark.slow
def test_a_real_repro_sees_other_images_also_from_a_workspace_of_its_own(repo):
    picture = own_images(repo)
    dvc(repo, "repro")
    assert "up to date" in dvc(repo, "repro")
    picture.unlink()
    assert {"prepare@digits", *both_rows(*PER_ROW), *POOLED} <= ran(dvc(repo, "repro"))
    assert "up to date" in dvc(repo, "repro")
    commit(repo, "pictures")
    output = dvc(repo, "exp", "run", "--temp", "-S", "retrain.finetune.epochs=2")
    assert ran(output) & {"prepare@digits", *both_rows(*PER_ROW)} == {one for one in FINETUNED if "@" in one}
    picture.parent.parent.rename(repo / "moved")
    output = dvc(repo, "repro", "--force", "source@digits", check=False)
    assert "error: data.digits.path: pictures: is not there" in output


@pytest.mark.slow
def test_a_real_experiment_runs_what_was_told_and_diffs_tell(repo):
    output = dvc(repo, "exp", "run", "-S", "supernet.eps=6/255", "-S", "supernet.attack_steps=2")
    assert ran(output) == ALWAYS | {f"{stage}@digits-plain" for stage in PER_ROW} | POOLED
    assert "6/255" in (repo / "params.yaml").read_text()
    described = dvc(repo, "params", "diff").splitlines()
    assert {line.split()[1] for line in described if "params.yaml" in line} == {"supernet.attack_steps", "supernet.eps"}
    assert "hash" in dvc(repo, "metrics", "diff")
    dvc(repo, "plots", "diff", "HEAD", "--out", "plots")
    assert (repo / "plots" / "index.html").exists()
