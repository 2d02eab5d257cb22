"""The stage scripts from outside: help, exit codes, one line on stderr for bad input."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tamnas.pipeline.stages import stages
from tests.helpers.tiny import ROOT, ROW, copy_of, invoke, planned, stage, tiny_params, write_params

SCRIPTS = sorted({stage.script.stem for stage in stages().values()})
PER = {stage.script.stem: stage.per for stage in stages().values()}
ARGUMENTS = {stage.script.stem: [word for word in stage.command.split()[3:] if word[0] != "$"]
             for stage in stages().values()}  # fmt: skip


def one_line(text: str) -> bool:
    return text.startswith("error: ") and text.count("\n") == 1 and text.endswith("\n")


@pytest.fixture
def prepared(folder):
    """A project with tiny parameters, plans and data."""
    write_params(folder, tiny_params())
    for arguments in (("plan",), ("prepare", "digits")):
        assert invoke(*arguments).exit_code == 0
    return folder


@pytest.mark.parametrize("stale", [False, True])
def test_code_that_changed_after_it_was_listed_is_not_run(folder, monkeypatch, stale):
    write_params(folder, tiny_params())
    assert invoke("fingerprint").exit_code == 0
    monkeypatch.setenv("DVC_ROOT", str(folder))
    if stale:
        with (folder / "code" / "plan.sha256").open("a") as file:
            file.write("0  tamnas/gone.py\n")
    result = invoke("plan")
    assert result.exit_code == (2 if stale else 0)
    assert one_line(result.stderr) == stale
    assert "code/plan.sha256: the code changed" in result.stderr or not stale


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_is_read_and_written(script):
    result = invoke(script, "--help")
    assert result.exit_code == 0
    text = " ".join(result.output.lower().split())
    assert "reads " in text
    assert "writes " in text or "write " in text
    # the command line stands on a line of its own
    assert any(line.strip().startswith(f"python -m stages.{script}") for line in result.output.splitlines())


@pytest.mark.parametrize("script", ["plan", "search"])
def test_help_of_a_real_process(script, tmp_path):
    process = stage(tmp_path, script, "--help")
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert output.startswith("Usage: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", [script for script in SCRIPTS if PER[script] != "run"])
def test_a_missing_plan_is_one_line(folder, script):
    write_params(folder, tiny_params())
    result = invoke(script, *ARGUMENTS[script], "nowhere")
    assert result.exit_code == 2
    assert one_line(result.stderr)
    assert "error: plan/nowhere/" in result.stderr
    assert "no such plan" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("script", [script for script in SCRIPTS if PER[script] != "run"])
def test_a_dataset_is_no_row_and_a_row_is_no_dataset(folder, script):
    write_params(folder, tiny_params())
    assert invoke("plan").exit_code == 0
    result = invoke(script, *ARGUMENTS[script], "digits" if PER[script] == "row" else ROW)
    assert result.exit_code == 2
    assert one_line(result.stderr)
    assert {path.name for path in folder.iterdir()} == {"params.yaml", "plan", "logs", ".locks"}


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
def test_missing_inputs_are_one_line(folder, script, arguments):
    write_params(folder, tiny_params())
    assert invoke("plan").exit_code == 0
    result = invoke(script, *arguments)
    assert result.exit_code == 2, result.exception
    assert one_line(result.stderr)
    assert "dvc repro" in result.stderr
    assert not (folder / "results").exists()
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("script", "arguments"), [("retrain", ("scratsh", "row")), ("supernet", ("row",)), ("plan", ("more",))]
)
def test_wrong_usage_exits_with_2(folder, script, arguments):
    result = invoke(script, *arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert not list(folder.iterdir())


def test_an_unknown_row_from_a_real_process(tmp_path):
    process = stage(tmp_path, "prepare", "nowhere")
    output, errors = process.communicate()
    assert process.returncode == 2
    assert output == ""
    assert one_line(errors)
    assert not list(tmp_path.iterdir())


INSPECT = """
import json, runpy, sys
try:
    runpy.run_module("stages.plan", run_name="__main__")
except SystemExit as exit:
    code = exit.code
heavy = [name for name in ("torch", "torchvision", "pymoo", "sklearn", "matplotlib", "ray") if name in sys.modules]
print(json.dumps({"code": code, "heavy": heavy}))
"""


@pytest.mark.parametrize("good", [True, False])
def test_parameters_are_checked_without_torch(tmp_path, good):
    raw = tiny_params()
    if not good:
        raw["search"]["population"] = 2
    write_params(tmp_path, raw)
    done = subprocess.run(
        [sys.executable, "-c", INSPECT], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"code": 0 if good else 2, "heavy": []}, done.stderr
    assert done.stderr.startswith("plan run: ") if good else one_line(done.stderr)
    assert (tmp_path / "plan").exists() == good


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


def test_bad_input_found_by_a_worker_exits_with_2(prepared):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has what the test asks for in vain")
    raw = tiny_params()
    raw["compute"].update(engine="processes", workers=2, device="cuda")
    write_params(prepared, raw)
    assert invoke("supernet", "block", ROW).exit_code == 2  # in the stage's own process it is told
    (prepared / "runs" / ROW).mkdir(parents=True)
    (prepared / "runs" / ROW / "joint.safetensors").write_bytes(b"damaged")
    result = invoke("search", ROW)
    assert result.exit_code == 2
    assert one_line(result.stderr)
