"""Functions as commands: arguments, help, exit codes, and whose code they run."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from tamnas.errors import DivergenceError, InputError, JobError, WorkerError
from tamnas.pipeline.command import stage_command
from tests.helpers.refusals import one_line
from tests.helpers.tiny import ROOT

SOURCE = '''"""Toy stage.

    python -m stages.toy scratch|finetune ROW

Reads nothing.
"""

from typing import Literal


def main(init: Literal["scratch", "finetune"], row: str) -> None:
    act(init, row)
'''


def command(act):
    """The command of a script with SOURCE."""
    names = {"__name__": "stages.toy", "act": act}
    exec(compile(SOURCE, str(ROOT / "stages" / "toy.py"), "exec"), names)
    return stage_command(names["main"])


def invoke(act, *arguments: str) -> Result:
    return CliRunner().invoke(command(act), arguments)


def test_arguments_and_choices_come_from_the_signature():
    called = []
    assert invoke(lambda *given: called.append(given), "finetune", "a-row").exit_code == 0
    assert called == [("finetune", "a-row")]
    for wrong in (("scratsh", "a-row"), ("scratch",), ("scratch", "a-row", "more")):
        assert invoke(lambda *given: called.append(given), *wrong).exit_code == 2
    assert "'scratsh' is not one of 'scratch', 'finetune'" in invoke(None, "scratsh", "a-row").output
    assert len(called) == 1


def test_help_is_the_docstring_of_the_script():
    text = invoke(None, "--help").output
    assert text.startswith("Usage: ")
    assert "{scratch|finetune} ROW" in text
    assert "  python -m stages.toy scratch|finetune ROW\n" in text


def test_run_is_the_function_itself():
    called = []
    command(lambda *given: called.append(given)).run("scratch", "a-row")
    assert called == [("scratch", "a-row")]
    with pytest.raises(InputError):
        command(raising(InputError("eps is 0"))).run("scratch", "a-row")


OWN = "is it another user's? Make it yours, or work in a checkout of your own"
LESS = "fewer compute.workers, or compute.engine: inline, need less; the next run goes on from the last checkpoint"


def raising(error: BaseException):
    def act(init, row):
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("eps is 0"), 2, "error: eps is 0"),
        (DivergenceError("the loss is NaN"), 1, "error: training diverged: the loss is NaN"),
        (WorkerError("a worker was killed"), 1, "error: a worker was killed"),
        (KeyboardInterrupt(), 130, "interrupted; the next run goes on from the last checkpoint"),
        (
            OSError(28, "No space left on device", "runs/a"),
            1,
            "error: runs/a cannot be written: no space left on device; make room and run again: it goes on from the "
            "last checkpoint",
        ),
        (
            PermissionError(13, "Permission denied", ".locks/search/row.lock"),
            1,
            f"error: .locks/search/row.lock: permission denied; {OWN}",
        ),
        (OSError(30, "Read-only file system", "runs"), 1, f"error: runs: read-only file system; {OWN}"),
        (MemoryError(), 1, f"error: no memory is left; {LESS}"),
        (OSError(12, "Cannot allocate memory"), 1, f"error: [Errno 12] Cannot allocate memory; {LESS}"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you\nmore"),
            1,
            f"error: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you; {LESS}",
        ),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            1,
            f"error: libtorch_cpu.so: failed to map segment from shared object; {LESS}",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 1, f"error: CUDA out of memory. Tried; {LESS}"),
        (JobError("net-7", RuntimeError("out of memory")), 1, f"error: net-7: out of memory; {LESS}"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_a_user_can_mend_is_one_line(error, code, line):
    result = invoke(raising(error), "scratch", "a-row")
    assert (result.exit_code, result.stderr, result.stdout) == (code, f"{line}\n", "")


def test_memory_that_is_not_there_is_one_line():
    for ask in (lambda *_: torch.empty(2**50), lambda *_: np.empty(2**50, np.uint8)):
        result = invoke(ask, "scratch", "a-row")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: ")
        assert result.stderr.endswith(f"{LESS}\n")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "bug",
    [
        ValueError("a bug"),
        FileNotFoundError(2, "No such file", "x"),
        ImportError("a bug"),
        JobError("net-7", ValueError("a bug")),
    ],
    ids=repr,
)
def test_a_bug_keeps_its_traceback(bug):
    result = invoke(raising(bug), "scratch", "a-row")
    assert result.exception is bug
    assert result.stderr == ""


def test_a_script_that_finds_no_library_beside_it_computes_nothing(tmp_path):
    """As in a workspace that holds other code than the installed one."""
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "stages.plan"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    script = tmp_path / "stages" / "plan.py"
    assert one_line(done.stderr).startswith(f"error: {script}: tamnas was imported from {ROOT}, ")
    assert not (tmp_path / "plan").exists()
