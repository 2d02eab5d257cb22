"""What `tamnas.files` writes and reads back."""

import math
from pathlib import Path

from tamnas.files import file_digest, hold, opened, read_csv, remove, write_csv


def test_file_digest_does_not_depend_on_the_order_in_which_a_folder_is_listed(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).write_text(name)
    before, rglob = file_digest(tmp_path), Path.rglob
    seen = list(rglob(tmp_path, "*"))
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: iter(seen[::-1]))
    assert file_digest(tmp_path) == before


def test_what_came_with_earlier_work_is_held_no_more(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"of the file")
    try:
        for contents, expected in (({path: memoryview(b"sent")}, b"sent"), ({}, b"of the file")):
            hold(contents)
            with opened(path) as file:
                assert file.read() == expected
    finally:
        hold({})


def test_a_csv_tells_no_number_from_nothing(tmp_path):
    write_csv(tmp_path / "a.csv", [{"loss": float("nan"), "robust": None, "epoch": 1, "lr": 0.5, "network": "n01"}])
    (row,) = read_csv(tmp_path / "a.csv", ())
    assert math.isnan(row.pop("loss"))
    assert row == {"robust": None, "epoch": 1, "lr": 0.5, "network": "n01"}


def test_of_a_link_the_link_is_removed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
