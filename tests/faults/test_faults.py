"""The quick part of the fault harness (tests/faults/matrix.py): a fault or two a stage, in an interpreter of its own.

The long part is `make faults`; docs/reliability.md has its counts.
"""

import json
import os
import subprocess
import sys

import pytest

from tamnas.pipeline import runner
from tests.helpers.tiny import ROOT

KINDS = ("SIGKILL", "SIGTERM", "Ctrl-C", "full disk", "damaged checkpoint", "started twice", "orphan")


@pytest.fixture(scope="module")
def faults(tmp_path_factory) -> list[dict]:
    """Every fault of the quick part and what became of it."""
    report = tmp_path_factory.mktemp("faults") / "faults.json"
    command = [sys.executable, "-m", "tests.faults.matrix", "--quick", "--json", str(report)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # told by the tests below
    assert report.exists(), done.stderr[-3000:]
    return json.loads(report.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_is_survived(faults, kind):
    found = [fault for fault in faults if fault["kind"] == kind]
    assert len(found) >= 2
    assert [fault for fault in found if not fault["survived"]] == []


def test_every_stage_is_struck_and_no_byte_is_lost(faults):
    assert {fault["stage"].partition("@")[0] for fault in faults} == {stage for stage, *_ in runner.STAGES}
    assert sum(fault["lost"] for fault in faults) == 0
