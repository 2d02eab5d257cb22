"""Stages beside each other: the same bytes, a failure costs what needs it, and no process is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tamnas.errors import InputError
from tamnas.pipeline import runner
from tamnas.pipeline.lanes import Beside
from tests.helpers.tiny import ROOT, ROW, contents, copy_of, tiny_params, write_params

pytestmark = pytest.mark.system
OTHER = "digits-other"


def two_rows() -> dict:
    """The finished run's row and one like it, without baselines."""
    raw = tiny_params()
    raw["baselines"]["names"] = []
    raw["modes"]["other"] = {"supernet": {"lam": 0.5}}
    raw["run"]["rows"][OTHER] = {"dataset": "digits", "mode": "other"}
    return raw


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, two_rows())
    return tmp_path


def of_row(folder: Path) -> dict[str, bytes]:
    """What a run left of ROW."""
    return {path: text for path, text in contents(folder, "runs", "results").items() if f"/{ROW}/" in path}


def test_the_bytes_are_those_of_one_after_the_other(finished_run, folder, capfd, caplog):
    caplog.set_level("INFO")
    assert runner.run(until="select", parallel=2).unfinished == []
    expected = {path: text for path, text in of_row(finished_run).items() if (folder / path).exists()}
    assert of_row(folder) == expected
    assert {Path(path).parts[2] for path in expected if path.startswith("results")} >= {"supernet_joint", "select"}
    started = [record.getMessage() for record in caplog.records]
    first = started.index(f"stage supernet_block@{ROW}")
    assert started[first + 1] == f"stage supernet_block@{OTHER}"  # before the first ended
    out, err = capfd.readouterr()
    lines = (out + err).splitlines()
    assert {line.partition(": ")[0] for line in lines} >= {f"{stage}@{row}" for stage in ("search", "select")
                                                           for row in (ROW, OTHER)}  # fmt: skip
    assert all("@" in line.partition(": ")[0] or line.startswith(("plan: ", "fingerprint: ")) for line in lines)


@pytest.mark.parametrize("parallel", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_failure_costs_what_needs_it_and_is_raised_at_the_end(finished_run, folder, caplog, parallel):
    copy_of(finished_run, folder, "data", "runs")
    with pytest.raises(InputError, match=rf"runs/{OTHER}/joint\.safetensors: is missing"):
        runner.run(only=["search", "select", "tables"], parallel=parallel)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"stage select@{OTHER}: skipped, it needs search@{OTHER}" in warnings
    assert f"stage tables: skipped, it needs search@{OTHER}, select@{OTHER}" in warnings
    assert not (folder / "reports").exists()
    names = [f"results/digits/{stage}/{ROW}" for stage in ("search", "select")]
    assert contents(folder, *names) == contents(finished_run, *names)


@pytest.mark.parametrize(
    "struck",
    [
        "driver, Ctrl-C",
        "lane, terminated",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("lane, killed", "driver, killed")),
    ],
)
def test_no_process_outlives_a_run_that_breaks_off(finished_run, folder, struck):
    raw = two_rows()
    raw["supernet"]["block"]["epochs"] = 5000
    write_params(folder, raw)
    copy_of(finished_run, folder, "data")
    command = [sys.executable, "-m", "tamnas", "run", "--only", "supernet_block", "--parallel", "2"]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while len(list(folder.glob(".checkpoints/supernet_block/*/*/state.safetensors"))) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        if struck.startswith("lane"):
            os.kill(computing(process.pid)[0], signal.SIGKILL if struck == "lane, killed" else signal.SIGTERM)
        elif struck == "driver, killed":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)
        lines = process.communicate(timeout=60)[1].splitlines()
        waited = time.monotonic() + 30
        while members(process.pid) and time.monotonic() < waited:
            time.sleep(0.1)
        assert not members(process.pid)
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
    if struck.startswith("lane"):
        assert process.returncode == 1
        assert f"error: {runner.KILLED}" in lines
    if struck == "driver, Ctrl-C":
        assert (process.returncode, lines[-1]) == (130, "interrupted; the next run goes on from the last checkpoint")


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(folder.name))
    return found


def computing(group: int) -> list[int]:
    """Those of a run that hold a stage: the lanes."""
    return [pid for pid in members(group) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


KEPT: list = []


def chatter(text: str) -> None:
    print(text, end="")
    KEPT.append(sys.stdout)  # as a handler of a library does that was imported in this call
    KEPT[0].write("late\n")


def test_a_last_line_without_an_end_is_printed_and_the_stream_outlasts_the_call(capfd):
    pool = Beside(1)
    for name in ("one", "two"):
        pool.submit(chatter, name, "first\n").result()
    pool.submit(unended, "three").result()
    pool.shutdown()
    assert capfd.readouterr().out == "one: first\none: late\ntwo: first\none: late\nthree: last\n"


def unended() -> None:
    print("last", end="")
