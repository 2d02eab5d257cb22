"""The stage scripts as commands: help, exit codes, one line on stderr for bad input."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tamnas.pipeline.stages import stages
from tests.helpers.refusals import one_line
from tests.helpers.tiny import ROOT, ROW, copy_of, invoke, planned, run_here, stage, tiny_params, write_params

SCRIPTS = sorted({stage.script.stem for stage in stages().values()})
PER = {stage.script.stem: stage.per for stage in stages().values()}
ARGUMENTS = {stage.script.stem: [word for word in stage.command.split()[3:] if word[0] != "$"]
             for stage in stages().values()}  # fmt: skip


@pytest.fixture(scope="module")
def planned_only(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    write_params(folder, tiny_params())
    run_here(folder, "plan")
    return folder


@pytest.fixture
def plans(planned_only, monkeypatch) -> Path:
    """The working directory: tiny parameters and their plans, for what fails before it writes."""
    monkeypatch.chdir(planned_only)
    return planned_only


@pytest.mark.parametrize("stale", [False, True])
def test_code_that_changed_after_it_was_listed_is_not_run(folder, monkeypatch, stale):
    write_params(folder, tiny_params())
    assert invoke("fingerprint").exit_code == 0
    monkeypatch.setenv("DVC_ROOT", str(folder))
    if stale:
        with (folder / "code" / "plan.sha256").open("a") as file:
            file.write("0  tamnas/gone.py\n")
    result = invoke("plan")
    assert (result.exit_code, "code/plan.sha256: the code changed" in result.stderr) == (
        (2, True) if stale else (0, False)
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_is_read_and_written(script):
    result = invoke(script, "--help")
    assert result.exit_code == 0
    text = " ".join(result.output.lower().split())
    assert "reads " in text
    assert "writes " in text or "write " in text
    # the command line stands on a line of its own
    assert any(line.strip().startswith(f"python -m stages.{script}") for line in result.output.splitlines())


def test_help_of_a_real_process(tmp_path):
    process = stage(tmp_path, "search", "--help")
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert output.startswith("Usage: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", [script for script in SCRIPTS if PER[script] != "run"])
@pytest.mark.parametrize("name", ["nowhere", "../nowhere"])
def test_a_missing_plan_is_one_line(folder, script, name):
    write_params(folder, tiny_params())
    result = invoke(script, *ARGUMENTS[script], name)
    assert result.exit_code == 2
    assert "no such plan" in one_line(result.stderr)
    assert result.stdout == ""


@pytest.mark.parametrize("script", [script for script in SCRIPTS if PER[script] != "run"])
def test_a_dataset_is_no_row_and_a_row_is_no_dataset(plans, script):
    result = invoke(script, *ARGUMENTS[script], "digits" if PER[script] == "row" else ROW)
    assert result.exit_code == 2
    assert one_line(result.stderr)
    assert not [path for path in plans.iterdir() if path.name in ("data", "results", "runs")]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("supernet", ("block", ROW)),
        ("supernet", ("joint", ROW)),
        ("search", (ROW,)),
        ("select", (ROW,)),
        ("retrain", ("scratch", ROW)),
        ("retrain", ("finetune", ROW)),
        ("legonet", ("row", ROW)),
        ("legonet", ("pooled", "digits")),
        ("baselines", ("digits",)),
        ("evaluate", ("scratch", ROW)),
        ("evaluate", ("baselines", "digits")),
    ],
    ids=str,
)
def test_missing_inputs_are_one_line(plans, script, arguments):
    result = invoke(script, *arguments)
    assert result.exit_code == 2, result.exception
    assert "dvc repro" in one_line(result.stderr)
    assert not (plans / "results").exists()
    assert not (plans / "runs").exists()


@pytest.mark.parametrize(("script", "words"), [("plan", "params.yaml: cannot be read"), ("tables", "no such plan")])
def test_an_empty_folder_is_one_line(folder, script, words):
    result = invoke(script)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in one_line(result.stderr)
    assert [path for path in folder.iterdir() if path.name not in ("logs", ".locks")] == []


def test_a_gpu_that_is_not_there_is_one_line(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    raw = tiny_params()
    raw["compute"]["device"] = "cuda"
    write_params(folder, raw)
    run_here(folder, "plan", "prepare")
    result = invoke("supernet", "block", ROW)
    assert result.exit_code == 2
    assert "compute.device" in one_line(result.stderr)


def test_an_unknown_row_from_a_real_process(tmp_path):
    process = stage(tmp_path, "prepare", "nowhere")
    output, errors = process.communicate()
    assert process.returncode == 2
    assert output == ""
    assert one_line(errors)
    assert not list(tmp_path.iterdir())


INSPECT = """
import sys
from stages.plan import main
main([], standalone_mode=False)
sys.exit([name for name in ("torch", "torchvision", "pymoo", "sklearn", "matplotlib", "ray") if name in sys.modules])
"""


def test_plans_are_made_without_torch(tmp_path):
    """For what is wrong with parameters test_bad_params.py shows it."""
    write_params(tmp_path, tiny_params())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", INSPECT], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stderr.endswith("[]\n"), done.stderr
    assert done.stderr.startswith("plan run: ")
    assert (tmp_path / "plan").exists()


def test_divergence_exits_with_1_and_leaves_only_word_of_it(folder):
    raw = tiny_params()
    raw["supernet"].update(lr=1e30, clip_norm=None)
    raw["supernet"]["schedule"]["warmup"] = 0
    write_params(folder, raw)
    for arguments in (("plan",), ("prepare", "digits")):
        assert invoke(*arguments).exit_code == 0
    result = invoke("supernet", "block", ROW)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: training diverged: ")
    assert "epoch 0, step " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "runs").exists()
    left = [path.name for path in (folder / "results" / "digits" / "supernet_block" / ROW).iterdir()]
    assert left == ["diverged.json"]


@contextlib.contextmanager
def as_somebody_else():
    """Root may write anywhere."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture(scope="module")
def not_ours(finished_run, tmp_path_factory) -> Path:
    """A finished run in which this user may read everything and write nothing."""
    folder = tmp_path_factory.mktemp("not ours")
    copy_of(finished_run, folder, "plan", "code", "source", "data", "runs", "results", ".locks")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


@pytest.mark.parametrize("one", planned(tiny_params()), ids=lambda one: one.name)
def test_another_users_checkout_is_one_line_in_every_stage(not_ours, monkeypatch, one):
    monkeypatch.chdir(not_ours)
    with as_somebody_else():
        result = invoke(one.stage.script.stem, *one.arguments)
    assert result.exit_code == 1
    assert one_line(result.stderr)
    assert "permission denied; is it another user's?" in result.stderr
