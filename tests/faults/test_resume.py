"""Stages that are killed go on, and end with the bits of an undisturbed run. Real processes."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tamnas.pipeline.store import Store
from tests.helpers.tiny import ROW, stage, tiny_params, write_params

UNTIL_SEARCH = [
    ("plan.py",),
    ("prepare.py", "digits"),
    ("supernet.py", "block", ROW),
    ("supernet.py", "joint", ROW),
    ("search.py", ROW),
    ("start_points.py", ROW),
    ("retrain.py", "scratch", ROW),
]
KILLED = {
    ("supernet.py", "block", ROW): "supernet-block",
    ("supernet.py", "joint", ROW): "supernet-joint",
    ("search.py", ROW): "search",
    ("retrain.py", "scratch", ROW): "retrain-scratch",
}


def run(folder: Path, *arguments: str) -> None:
    process = stage(folder, *arguments)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def copy(source: Path, target: Path, *names: str) -> None:
    for name in names:
        shutil.copytree(source / name, target / name)


def outputs(folder: Path) -> dict[str, bytes]:
    files = [path for top in ("results", "runs") for path in (folder / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    write_params(folder, tiny_params())
    for arguments in UNTIL_SEARCH:
        run(folder, *arguments)
    return folder


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
        files = [path for path in (folder / ".checkpoints").glob(f"{name}/*/*/*") if path.suffix != ".tmp"]
        return any(path.stat().st_size > 100 for path in files if path.exists())

    return ready


def test_killed_stages_with_workers_end_with_the_same_bits(undisturbed, tmp_path):
    """Without workers: tests/faults/matrix.py."""
    raw = tiny_params()
    raw["compute"].update(engine="processes", workers=2)
    write_params(tmp_path, raw)
    killed = 0
    for arguments in UNTIL_SEARCH:
        if arguments in KILLED:
            killed += kill_when(tmp_path, arguments, progressed(KILLED[arguments]))
        run(tmp_path, *arguments)
    assert killed >= 3  # a stage may be faster than the signal, not all of them
    assert outputs(tmp_path) == outputs(undisturbed)


def test_workers_and_engine_do_not_change_bits(undisturbed, tmp_path):
    raw = tiny_params()
    raw["compute"].update(engine="processes", workers=2)
    write_params(tmp_path, raw)
    copy(undisturbed, tmp_path, "plan", "data", "runs", "results")
    for arguments in (("search.py", ROW), ("retrain.py", "scratch", ROW)):
        run(tmp_path, *arguments)
    assert outputs(tmp_path) == outputs(undisturbed)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver(undisturbed, tmp_path, how):
    raw = tiny_params()
    raw["compute"].update(engine="processes", workers=2)
    raw["retrain"]["scratch"]["epochs"] = 5000
    write_params(tmp_path, raw)
    copy(undisturbed, tmp_path, "data", "runs", "results")
    run(tmp_path, "plan.py")
    process = stage(tmp_path, "retrain.py", "scratch", ROW)
    while not list(tmp_path.glob(".checkpoints/retrain-scratch/*/*/*.state.safetensors")):
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


def test_a_second_run_waits_for_the_first(undisturbed, tmp_path):
    copy(undisturbed, tmp_path, "plan", "data", "runs", "results")
    write_params(tmp_path, tiny_params())
    with Store("search", ROW, "other", root=tmp_path / ".checkpoints"):
        process = stage(tmp_path, "search.py", ROW)
        line = process.stderr.readline()
        assert "another process runs this stage" in line
        assert process.poll() is None
    process.communicate()
    assert process.returncode == 0


def test_a_changed_parameter_starts_fresh(undisturbed, tmp_path):
    write_params(tmp_path, tiny_params())
    run(tmp_path, "plan.py")
    run(tmp_path, "prepare.py", "digits")
    run(tmp_path, "supernet.py", "block", ROW)
    (before,) = (tmp_path / ".checkpoints" / "supernet-block" / ROW).iterdir()
    raw = tiny_params()
    raw["supernet"]["block"]["epochs"] = 1
    write_params(tmp_path, raw)
    run(tmp_path, "plan.py")
    run(tmp_path, "supernet.py", "block", ROW)
    (after,) = (tmp_path / ".checkpoints" / "supernet-block" / ROW).iterdir()
    assert before.name != after.name
