"""Stages that are killed go on, and end with the bits of an undisturbed run. Real processes."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tamnas.pipeline import runner
from tamnas.pipeline.progress import NETWORK
from tamnas.pipeline.store import checkpoint_folder
from tests.helpers.tiny import ROW, contents, copy_of, planned, run_here, stage, tiny_params, write_params

COMPUTED = ("supernet_block", "supernet_joint", "search", "select", "retrain_scratch")  # in order
KILLED = {
    "supernet_block": ("supernet", "block", ROW),
    "supernet_joint": ("supernet", "joint", ROW),
    "search": ("search", ROW),
    "retrain_scratch": ("retrain", "scratch", ROW),
}


def in_processes(folder: Path, **scratch) -> None:
    """Tiny parameters with two worker processes, and `scratch` for retraining."""
    raw = tiny_params()
    raw["compute"].update(engine="processes", workers=2)
    raw["retrain"]["scratch"].update(scratch)
    write_params(folder, raw)


def kill_when(folder: Path, arguments: tuple[str, ...], ready) -> bool:
    """Start a stage and kill it as soon as `ready(folder)`; False if it finished before."""
    process = stage(folder, *arguments)
    while process.poll() is None:
        if ready(folder):
            process.kill()
            process.communicate()
            return True
        time.sleep(0.002)
    process.communicate()
    return False


def progressed(name: str):
    """Whether the stage's checkpoint folder holds work that a killed run would lose."""

    def ready(folder: Path) -> bool:
        files = [
            path for path in (folder / ".checkpoints").glob(f"{name}/*/*/*") if path.suffix not in (".tmp", NETWORK)
        ]
        return any(path.stat().st_size > 100 for path in files if path.exists())

    return ready


@pytest.mark.slow
def test_every_killed_stage_with_workers_ends_with_the_same_bits(finished_run, tmp_path):
    in_processes(tmp_path)
    run_here(tmp_path, "plan", "prepare")
    killed = 0
    for name in COMPUTED:
        if name in KILLED:
            killed += kill_when(tmp_path, KILLED[name], progressed(name))
        run_here(tmp_path, name)
    assert killed >= 3  # a stage may be faster than the signal, not all of them
    for name in COMPUTED:
        (outs,) = ([str(out) for out in one.outs] for one in planned(tiny_params()) if one.stage.name == name)
        assert contents(tmp_path, *outs) == contents(finished_run, *outs)


@pytest.mark.system
def test_a_killed_stage_with_workers_ends_with_the_same_bits(finished_run, tmp_path, monkeypatch):
    """The workers' engine: another than the finished run's. Kills without workers: tests/faults/matrix.py."""
    in_processes(tmp_path)
    copy_of(finished_run, tmp_path, "data", "plan", "runs", "results")
    shutil.rmtree(tmp_path / "runs" / ROW / "retrain_scratch")
    struck = kill_when(tmp_path, KILLED["retrain_scratch"], progressed("retrain_scratch"))
    monkeypatch.chdir(tmp_path)
    assert runner.run(only=["search", "retrain_scratch"]).unfinished == []  # their workers are kept from stage to stage
    assert struck
    for top in ("runs", "results"):
        assert contents(tmp_path, top) == contents(finished_run, top)


@pytest.mark.system
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_workers_end_with_their_driver(finished_run, tmp_path, how):
    in_processes(tmp_path, epochs=5000)
    copy_of(finished_run, tmp_path, "data", "runs", "results")
    run_here(tmp_path, "plan")
    process = stage(tmp_path, "retrain", "scratch", ROW)
    while not list(tmp_path.glob(".checkpoints/retrain_scratch/*/*/*.state.safetensors")):
        time.sleep(0.05)
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    children = [int(pid) for pid in text.split()]
    assert len(children) >= 2
    process.send_signal(how)
    try:
        process.wait(timeout=60)
    finally:
        process.kill()
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in children)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "goes on from the last checkpoint" in process.stderr.read()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_second_run_waits_for_the_first(finished_run, tmp_path):
    copy_of(finished_run, tmp_path, "plan", "data", "runs", "results")
    with contextlib.chdir(tmp_path), checkpoint_folder("select", ROW, "other"):
        process = stage(tmp_path, "select", ROW)
        line = process.stderr.readline()
        assert "another process runs this stage" in line
        assert process.poll() is None
    process.communicate()
    assert process.returncode == 0


def test_a_changed_parameter_starts_fresh_and_one_set_back_goes_on(finished_run, tmp_path):
    copy_of(finished_run, tmp_path, "data")
    seen = []
    for epochs in (2, 1, 2):
        raw = tiny_params()
        raw["supernet"]["block"]["epochs"] = epochs
        raw["supernet"]["joint"]["epochs"] = 3
        write_params(tmp_path, raw)
        run_here(tmp_path, "plan", "supernet_block")
        seen.append({path: path.stat().st_mtime_ns for path in tmp_path.glob(f".checkpoints/supernet_block/{ROW}/*/*")})
    first, second, third = seen
    assert first.items() < second.items()
    assert third == second  # the first key's state, which was kept, is whole
