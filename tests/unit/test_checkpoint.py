import errno
import json
import logging
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save as to_safetensors

from tamnas.errors import InputError
from tamnas.pipeline.checkpoint import load, load_latest, previous, save, to_bytes, write_weights

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


def test_a_disk_that_is_full_beside_a_damaged_state_leaves_the_one_before(path, monkeypatch):
    for epoch in (1, 2):
        save(path, TENSORS, {"epoch": epoch})
    path.write_bytes(path.read_bytes()[:50])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, TENSORS, {"epoch": 3})
    assert load_latest(path)[1] == {"epoch": 1}


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


def test_of_weights_no_previous_version_is_kept(path):
    for epoch in range(2):
        write_weights(path, TENSORS, {"epoch": epoch})
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert load(path)[1] == {"epoch": 1}


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_failing_to_write_leaves_a_good_version(path, monkeypatch, broken):
    save(path, TENSORS, {"epoch": 1})

    def fail(*args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, broken, fail)
        with pytest.raises(OSError, match="no space"):
            save(path, TENSORS, {"epoch": 2})
    assert {file.suffix for file in path.parent.iterdir()} == {path.suffix}  # no file that is half written
    assert load_latest(path)[1] == {"epoch": 1}
    save(path, TENSORS, {"epoch": 2})
    assert load_latest(path)[1] == {"epoch": 2}


def test_a_kill_between_the_two_renames_loses_nothing(path):
    save(path, TENSORS, {"epoch": 1})
    os.replace(path, previous(path))
    assert load_latest(path)[1] == {"epoch": 1}


@pytest.mark.parametrize("other", [torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.int32)], ids=["shape", "dtype"])
def test_a_file_of_the_same_bytes_read_as_other_numbers_is_refused(path, other):
    """safetensors keeps shapes and types in its header, which a checksum of the bytes alone would not cover."""
    save(path, {"weight": torch.zeros(2, 3)}, {})
    blob = path.read_bytes()
    header = json.loads(blob[8 : 8 + struct.unpack("<Q", blob[:8])[0]])["__metadata__"]
    path.write_bytes(to_safetensors({"weight": other}, header))
    with pytest.raises(InputError, match="checksum"):
        load(path)


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
        to_bytes(TENSORS, META) + b"\0",
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
