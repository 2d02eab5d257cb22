"""Folders of checkpoints: keys, what is forgotten, and which locks keep processes apart."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout

from tamnas.errors import InputError
from tamnas.files import FORMAT, file_digest
from tamnas.pipeline import store
from tamnas.pipeline.checkpoint import load_latest, save
from tamnas.pipeline.store import KEPT, checkpoint_folder, key_of
from tests.helpers.tiny import ROOT

TENSORS, META = {"weight": torch.tensor([1.5, -0.0])}, {"epoch": 3}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The working directory; `tmp_path` itself stands for the folder of checkpoints."""
    (tmp_path / "workspace").mkdir()
    monkeypatch.chdir(tmp_path / "workspace")


def test_a_record_of_another_format_is_refused():
    sealed = json.loads(store.seal([1, 2]))
    assert store.unseal(json.dumps(sealed)) == [1, 2]
    with pytest.raises(ValueError, match=f"format {FORMAT + 1}; this tamnas reads {FORMAT}"):
        store.unseal(json.dumps(sealed | {"format": FORMAT + 1}))


def folders(place) -> set[str]:
    return {path.name for path in place.iterdir() if path.is_dir()}


def test_a_key_that_comes_back_finds_its_state(tmp_path, workspace):
    for key in ("a", "b", "a"):
        with checkpoint_folder("search", "row", key, tmp_path) as folder:
            found = load_latest(folder / "state.safetensors")
            save(folder / "state.safetensors", TENSORS, {"key": key})
    assert found[1] == {"key": "a"}


def use(place, key: str, day: int) -> None:
    """A checkpoint of 100 bytes, last used that day."""
    with checkpoint_folder("search", "row", key, place) as folder:
        (folder / "state").write_bytes(bytes(100))
    os.utime(folder, (86_400 * day,) * 2)


def test_store_forgets_the_longest_unused_keys_of_its_instance_alone(tmp_path, workspace):
    for place in (("search", "other"), ("supernet_block", "row")):
        for key in range(KEPT + 3):
            with checkpoint_folder(*place, str(key), tmp_path):
                pass
    for day, key in enumerate("abcdef"):
        use(tmp_path, key, day)
    use(tmp_path, "b", 10)  # set back: not the longest unused any more
    with checkpoint_folder("search", "row", "c", tmp_path):  # found finished: nothing is written
        pass
    (tmp_path / "search" / "row" / ".DS_Store").touch()  # what a file manager leaves
    with checkpoint_folder("search", "row", "new", tmp_path):
        pass
    assert folders(tmp_path / "search" / "row") == {"new", "b", "c", *"def"[-KEPT + 2 :]}
    assert {path.stem for path in (tmp_path / "search" / "row").glob("*.lock")} == folders(tmp_path / "search" / "row")
    assert len(folders(tmp_path / "search" / "other")) == len(folders(tmp_path / "supernet_block" / "row")) == KEPT + 1


def test_store_keeps_what_is_small_enough(tmp_path, workspace, monkeypatch):
    monkeypatch.setattr(store, "KEPT_BYTES", 250)
    for day, key in enumerate("abcd"):
        use(tmp_path, key, day)
    with checkpoint_folder("search", "row", "new", tmp_path) as folder:
        (folder / "state").write_bytes(bytes(1000))  # one's own does not count
    assert folders(tmp_path / "search" / "row") == {"new", "c", "d"}


def test_a_key_in_use_is_never_forgotten(tmp_path, workspace, monkeypatch):
    monkeypatch.setattr(store, "KEPT", 0)
    other = tmp_path / "other workspace"
    other.mkdir()
    with checkpoint_folder("search", "row", "a", tmp_path) as first:
        monkeypatch.chdir(other)
        with checkpoint_folder("search", "row", "b", tmp_path):  # at the same time: another workspace, another key
            assert first.is_dir()
    with checkpoint_folder("search", "row", "b", tmp_path):
        assert not first.exists()


def test_processes_that_differ_apart_share_a_key_at_one_time_and_keep_it(tmp_path, workspace, monkeypatch):
    """Two queued experiments that evaluate other weights under one plan."""
    monkeypatch.setattr(store, "KEPT", 0)
    other = tmp_path / "other workspace"
    other.mkdir()
    with checkpoint_folder("evaluate_scratch", "row", "a", tmp_path, apart="-1") as first:
        monkeypatch.chdir(other)
        with checkpoint_folder("evaluate_scratch", "row", "a", tmp_path, apart="-2") as second:
            assert first == second
        with checkpoint_folder("evaluate_scratch", "row", "b", tmp_path):
            assert first.is_dir()  # one of the two still uses it
    with checkpoint_folder("evaluate_scratch", "row", "b", tmp_path):
        assert not first.exists()
    assert [path.name for path in (tmp_path / "evaluate_scratch" / "row").glob("*.lock")] == ["b.lock"]


def test_one_key_is_computed_in_one_workspace_at_a_time(tmp_path, workspace, monkeypatch, caplog):
    entered = threading.Event()

    def second():
        with checkpoint_folder("search", "row", "a", tmp_path):
            entered.set()

    with checkpoint_folder("search", "row", "a", tmp_path):
        monkeypatch.chdir(tmp_path)
        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(5)
    thread.join(5)
    assert "another process runs the same with the same inputs, in another workspace perhaps; waiting" in caplog.text


def test_whoever_waits_for_a_key_that_is_forgotten_still_holds_it_alone(tmp_path, workspace):
    path = tmp_path / "search" / "row" / "a.lock"
    with checkpoint_folder("search", "row", "a", tmp_path):
        holder: list[FileLock] = []

        def wait():
            lock = FileLock(path)
            lock.acquire(timeout=5)
            holder.append(lock)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        waiting.join(0.2)
        path.unlink()  # as `_forget_old` does while it holds the lock
    waiting.join(5)
    with pytest.raises(Timeout):
        FileLock(path).acquire(timeout=0)
    holder[0].release()


TOGETHER = """
import os, sys, time
from pathlib import Path
from tamnas.pipeline.store import checkpoint_folder, kept

root, own = Path(sys.argv[1]), int(sys.argv[2])

def together(what):
    (root / f"{what}-{own}").touch()
    while not (root / f"{what}-{1 - own}").exists():
        time.sleep(0.0001)

for number in range(8):
    for old in range(3):
        folder = root / "search" / "row" / f"old-{number}-{own}-{old}"
        folder.mkdir(parents=True)
        for file in range(10):
            (folder / str(file)).touch()
    together(f"start-{number}")
    with checkpoint_folder("search", "row", f"new-{number}-{own}", root):
        pass
    with checkpoint_folder("evaluate_scratch", "row", "same", root, apart=f"-{own}") as folder:
        together(f"kept-{number}")
        for file in range(10):
            assert kept(folder / f"{number}-{file}.json", lambda: [1], "again") == [1]
"""


def test_two_experiments_that_start_a_stage_at_once_do_not_disturb_each_other(tmp_path):
    """They forget the same old keys, and keep the same evaluations."""
    processes = []
    for own in (0, 1):
        place = tmp_path / f"workspace {own}"
        place.mkdir()
        command = [sys.executable, "-c", TOGETHER, str(tmp_path), str(own)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes.append(subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        for process in processes:
            errors = process.communicate(timeout=60)[1]
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()  # it would wait for the other for ever
    assert len(list((tmp_path / "evaluate_scratch" / "row" / "same").iterdir())) == 8 * 10  # and nothing half written


def test_store_lives_under_the_dvc_root(tmp_path, workspace, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with checkpoint_folder("search", "row", "a") as folder:
        assert folder == tmp_path / ".checkpoints" / "search" / "row" / "a"


def test_store_waits_for_the_instance_of_its_workspace_whatever_the_key(tmp_path, workspace, caplog):
    entered = threading.Event()

    def second():
        with checkpoint_folder("search", "row", "b", tmp_path):
            entered.set()

    thread = threading.Thread(target=second, daemon=True)
    with checkpoint_folder("search", "row", "a", tmp_path) as first:
        with checkpoint_folder("search", "other", "a", tmp_path):
            pass  # another instance is free
        thread.start()
        assert not entered.wait(0.3)
        assert first.exists()  # the waiting one has touched nothing
    assert entered.wait(5)
    thread.join(5)
    assert "search row: another process runs this stage; waiting" in caplog.text


def test_store_excludes_another_process_and_outlives_its_kill(tmp_path, workspace):
    code = (
        "import sys, time; from pathlib import Path; from filelock import FileLock\n"
        "lock = FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    lock = Path(".locks", "search", "row.lock")
    lock.parent.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        entered = threading.Event()

        def enter():
            with checkpoint_folder("search", "row", "a", tmp_path):
                entered.set()

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        assert not entered.wait(0.3)
    finally:
        holder.kill()
        holder.wait()
    assert entered.wait(5)  # a killed holder blocks nobody
    thread.join(5)


def test_store_is_free_after_an_error(tmp_path, workspace):
    with pytest.raises(RuntimeError, match="inside"), checkpoint_folder("search", "row", "a", tmp_path):
        raise RuntimeError("inside")
    with checkpoint_folder("search", "row", "a", tmp_path):
        pass


def test_keys_follow_the_parts_not_their_order():
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert len({key_of(parts) for parts in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"})}) == 4


def test_file_digest_sees_content_and_names(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    seen = {file_digest(folder), file_digest(folder / "a")}
    (folder / "a").write_text("2")
    seen |= {file_digest(folder), file_digest(folder / "a")}
    (folder / "a").rename(folder / "b")
    seen.add(file_digest(folder))
    assert len(seen) == 5
    with pytest.raises(InputError, match="is missing"):
        file_digest(tmp_path / "none")
