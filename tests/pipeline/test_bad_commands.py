"""Bad input to real commands: one clear line, exit code 2, at once, and no output touched."""

import os
import resource
import subprocess
import sys

import pytest

from tests.helpers.refusals import SECONDS, one_line
from tests.helpers.tiny import ROOT, ROW, stage, tiny_params, write_params

COMMANDS = {
    "plan without params.yaml": (lambda raw: None, ("plan",), "params.yaml: cannot be read"),
    "plan with eps 0": (lambda raw: raw["supernet"].update(eps=0), ("plan",), "supernet.eps"),
    "plan with a mode with a dot": (lambda raw: raw["modes"].update({"a.b": {}}), ("plan",), "modes.a.b"),
    "prepare without a plan": (lambda raw: raw, ("prepare", "digits"), "no such plan"),
    "search without a plan": (lambda raw: raw, ("search", ROW), "no such plan"),
    "supernet of a row that is a path": (lambda raw: raw, ("supernet", "block", "../row"), "no such plan"),
    "tables without plans": (lambda raw: raw, ("tables",), "plan/tables.yaml: no such plan"),
}  # fmt: skip


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("name", COMMANDS)
def test_real_commands(folder, name):
    change, command, words = COMMANDS[name]
    raw = tiny_params()
    change(raw)
    if name != "plan without params.yaml":
        write_params(folder, raw)
    before, started = sorted(folder.rglob("*")), cpu_seconds()
    process = stage(folder, *command)
    output, errors = process.communicate(timeout=120)
    assert cpu_seconds() - started < SECONDS
    assert (process.returncode, output) == (2, "")
    assert words in one_line(errors)
    assert [path for path in sorted(folder.rglob("*")) if ".locks" not in path.parts] == before


@pytest.mark.parametrize("arguments", [["run"], ["profile", "smoke"]])
def test_other_commands(folder, arguments):
    raw = tiny_params()
    raw["seed"] = -1
    write_params(folder, raw)
    done = subprocess.run(
        [sys.executable, "-m", "tamnas", *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    one_line(done.stderr)
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]
