"""The command `tamnas` itself: which commands it has, that help costs nothing, where it refuses to work."""

import json
import os
import subprocess
import sys

import pytest

from tamnas.cli import main as cli
from tests.helpers.command import output, tamnas
from tests.helpers.refusals import one_line
from tests.helpers.tiny import ROOT, tiny_params, write_params

INSPECT = """
import json, sys
from tamnas.cli.main import main
main(["--help"], standalone_mode=False)
print(json.dumps([name for name in ("torch", "pandas", "scipy", "pydantic", "rich") if name in sys.modules]))
"""


def test_help_lists_every_command_and_imports_none():
    done = subprocess.run([sys.executable, "-c", INSPECT], cwd=ROOT, capture_output=True, text=True, check=True)
    *text, heavy = done.stdout.splitlines()
    assert json.loads(heavy) == []
    for name, entry in cli.ENTRIES.items():
        assert any(line.split()[:1] == [name] and entry.summary in line for line in text), name


@pytest.mark.parametrize("name", cli.ENTRIES)
def test_every_command_has_help_of_its_own(name):
    text = output(name, "--help")
    assert text.startswith(f"Usage: tamnas {name} ")
    assert len(text.split("\n\n")[1].split()) > 4


def test_names_are_completed_without_importing_commands():
    environment = {**os.environ, "_TAMNAS_COMPLETE": "bash_complete", "COMP_WORDS": "tamnas p", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tamnas"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["plain,predict", "plain,profile"]
    assert "tamnas.cli.predict" not in done.stderr


def test_bad_parameters_are_one_line_from_a_real_process(folder):
    write_params(folder, tiny_params() | {"seed": -1})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tamnas", "run"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "params.yaml: seed" in one_line(done.stderr)
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


def test_an_unknown_command_exits_with_2():
    result = tamnas("serch")
    assert result.exit_code == 2
    assert "No such command 'serch'" in result.stderr


@pytest.mark.parametrize("name", cli.STUDY)
def test_what_runs_stages_needs_a_checkout(name, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "ROOT", tmp_path)  # as where a wheel was installed
    result = tamnas(name)
    assert result.exit_code == 2
    assert f"Error: {name}: works in a checkout of tamnas" in result.stderr
    assert output("models", "--help")
