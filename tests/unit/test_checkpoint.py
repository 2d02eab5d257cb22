import logging
import os
import pickle
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save as to_safetensors

from tamnas.errors import InputError
from tamnas.files import file_digest
from tamnas.pipeline import store
from tamnas.pipeline.checkpoint import load, load_latest, previous, save, to_bytes, write_weights
from tamnas.pipeline.store import KEPT, checkpoint_folder, key_of

TENSORS = {
    "weight": torch.tensor([[1.5, -0.0, float("nan")], [float("inf"), 1e-45, 3.0]]),
    "half": torch.arange(5, dtype=torch.bfloat16),
    "double": torch.tensor(1 / 3, dtype=torch.float64),  # no dimension
    "steps": torch.tensor(7),
    "pixels": torch.arange(256, dtype=torch.uint8).reshape(4, 64),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
}
META = {"epoch": 3, "text": "Grüße \u2603\n", "nested": {"list": [1, 2.5, None, True]}, "tiny": 1e-300}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "state.safetensors"


def assert_bitwise(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        raw = (t.contiguous().flatten().view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(*raw), name


def test_round_trip_is_bitwise(path):
    save(path, TENSORS, META)
    tensors, meta = load(path)
    assert_bitwise(tensors, TENSORS)
    assert meta == META
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_views_and_parameters_are_saved_by_value(path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "slice": base[:2, :3],
        "transposed": base.t(),
        "strided": base[:, ::2],
        "whole": torch.nn.Parameter(base),
    }
    save(path, tensors, {})
    assert_bitwise(load(path)[0], {name: tensor.detach() for name, tensor in tensors.items()})


def test_the_same_state_is_the_same_file():
    # DVC compares bytes: a stage that ran again with the same result must not look changed.
    shuffled = dict(reversed(TENSORS.items()))
    assert len({to_bytes(TENSORS, META) for _ in range(20)} | {to_bytes(shuffled, META)}) == 1


def test_saving_again_keeps_the_previous_version(path):
    for epoch in range(3):
        save(path, {"epoch": torch.tensor(epoch)}, {"epoch": epoch})
    assert load(path)[1] == {"epoch": 2}
    assert load(previous(path))[1] == {"epoch": 1}
    write_weights(path, TENSORS, META)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_failing_to_write_leaves_a_good_version(path, monkeypatch, broken):
    save(path, TENSORS, {"epoch": 1})

    def fail(*args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, broken, fail)
        with pytest.raises(OSError, match="no space"):
            save(path, TENSORS, {"epoch": 2})
    assert load_latest(path)[1] == {"epoch": 1}
    save(path, TENSORS, {"epoch": 2})
    assert load_latest(path)[1] == {"epoch": 2}


def test_a_kill_between_the_two_renames_loses_nothing(path, caplog):
    save(path, TENSORS, {"epoch": 1})
    os.replace(path, previous(path))
    assert load_latest(path)[1] == {"epoch": 1}


def test_meta_that_is_no_json_leaves_the_old_file(path):
    save(path, TENSORS, {"epoch": 1})
    with pytest.raises(TypeError):
        save(path, TENSORS, {"epoch": object()})
    assert load(path)[1] == {"epoch": 1}
    assert not previous(path).exists()


def test_every_truncation_is_refused(path):
    blob = to_bytes(TENSORS, META)
    path.parent.mkdir()
    for length in (*range(0, len(blob), 7), len(blob) - 1):
        path.write_bytes(blob[:length])
        with pytest.raises(InputError, match=r"^.*state\.safetensors: .*$"):
            load(path)


def test_every_flipped_byte_is_refused(path):
    blob = to_bytes({"weight": torch.arange(6.0), "steps": torch.tensor(7)}, {"epoch": 3})
    path.parent.mkdir()
    for i in range(len(blob)):
        for flip in (0x01, 0x20, 0xFF):  # a neighbour, the other case, all bits
            path.write_bytes(blob[:i] + bytes([blob[i] ^ flip]) + blob[i + 1 :])
            with pytest.raises(InputError, match=r"^.*state\.safetensors: .*$"):
                load(path)


def test_appended_bytes_are_refused(path):
    path.parent.mkdir()
    path.write_bytes(to_bytes(TENSORS, META) + b"\0")
    with pytest.raises(InputError, match="damaged"):
        load(path)


def test_a_damaged_file_gives_way_to_the_previous_one(path, caplog):
    save(path, TENSORS, {"epoch": 1})
    save(path, TENSORS, {"epoch": 2})
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert load_latest(path)[1] == {"epoch": 1}
    (record,) = caplog.records
    assert f"{path}: " in record.getMessage()
    assert str(previous(path)) in record.getMessage()


def test_two_damaged_files_mean_a_fresh_start(path, caplog):
    save(path, TENSORS, {"epoch": 1})
    save(path, TENSORS, {"epoch": 2})
    for file in (path, previous(path)):
        file.write_bytes(b"")
    assert load_latest(path) is None
    assert "fresh start" in caplog.records[-1].getMessage()


def test_nothing_saved_is_a_silent_fresh_start(path, caplog):
    assert load_latest(path) is None
    assert not caplog.records


def test_missing_file_and_folder_are_refused(tmp_path):
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            load(place)


def test_another_format_is_refused(path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr("tamnas.pipeline.checkpoint.FORMAT", 2)
        save(path, TENSORS, META)
    with pytest.raises(InputError, match="format 2 is of a newer tamnas, this one reads 1: update it"):
        load(path)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"not safetensors",
        b"\xff" * 64,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
        to_safetensors({"weight": torch.ones(2)}),
        *(
            to_safetensors({"weight": torch.ones(2)}, {"tamnas": header})
            for header in ("", "null", "[]", "{}", '{"format": 1}', '{"format": 1, "meta": {}, "sha256": ""}')
        ),
    ],
    ids=lambda blob: repr(blob[:20]),
)
def test_foreign_files_are_refused(path, blob):
    path.parent.mkdir()
    path.write_bytes(blob)
    with pytest.raises(InputError, match=r"^.*state\.safetensors: .*$"):
        load(path)


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_pickles_are_refused_and_not_run(path, tmp_path, dump):
    marker = tmp_path / "executed"
    path.parent.mkdir()
    with path.open("wb") as file:
        dump({"weight": Bomb(marker)}, file)
    with pytest.raises(InputError, match="damaged or not a tamnas file"):
        load(path)
    assert not marker.exists()
    with path.open("rb") as file:  # the bomb is live
        torch.load(file, weights_only=False) if dump is torch.save else pickle.load(file)
    assert marker.exists()


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The working directory; `tmp_path` itself stands for the folder of checkpoints."""
    (tmp_path / "workspace").mkdir()
    monkeypatch.chdir(tmp_path / "workspace")


def folders(place) -> set[str]:
    return {path.name for path in place.iterdir() if path.is_dir()}


def test_store_keeps_its_state_under_one_key(tmp_path, workspace):
    for _ in range(2):
        with checkpoint_folder("search", "row", "a", tmp_path) as folder:
            found = load_latest(folder / "state.safetensors")
            save(folder / "state.safetensors", TENSORS, META)
    assert found[1] == META
    assert folder == tmp_path / "search" / "row" / "a"


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
    (tmp_path / "search" / "row" / ".DS_Store").touch()  # what a file manager leaves
    with checkpoint_folder("search", "row", "new", tmp_path):
        pass
    assert folders(tmp_path / "search" / "row") == {"new", "b", *"def"[-KEPT + 1 :]}
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
