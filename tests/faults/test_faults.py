"""The fault harness (tests/faults/matrix.py) in an interpreter of its own: every kind of fault, over all stages.

Longer still is `make faults`; docs/reliability.md has its counts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tamnas.pipeline.stages import stages
from tests.helpers.tiny import ROOT

KINDS = ("SIGKILL", "SIGTERM", "Ctrl-C", "full disk", "damaged checkpoint", "started twice", "orphan")


def struck(report: Path, *arguments: str) -> list[dict]:
    """Every fault that was tried and what became of it."""
    command = [sys.executable, "-m", "tests.faults.matrix", *arguments, "--json", str(report)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # told by the tests below
    assert report.exists(), done.stderr[-3000:]
    return json.loads(report.read_text())


@pytest.mark.slow
def test_every_stage_survives_faults(tmp_path):
    faults = struck(tmp_path / "faults.json", "--quick")
    assert {fault["stage"].partition("@")[0] for fault in faults} == set(stages())
    for kind in KINDS:
        assert sum(fault["kind"] == kind for fault in faults) >= 2
    assert [fault for fault in faults if not fault["survived"]] == []
