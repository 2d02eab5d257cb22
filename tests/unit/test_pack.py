"""`tamnas pack` and `keep`: the commit, the page of a run, the start point that goes on."""

from pathlib import Path

import pytest

from tamnas.files import read_json, write_json
from tamnas.pipeline.pack import _run_page, head, keep_best_start
from tests.helpers.tiny import ROW, commit, copy_of, git


@pytest.mark.parametrize("place", ["tamnas/code.py", "stages/code.py", "plugins/code.py", "dvc.yaml"])
def test_changed_code_is_told_wherever_it_is(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("a")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, "start")
    assert not head().endswith("-dirty")
    path.write_text("b")
    assert head().endswith("-dirty")


def test_the_page_of_a_run_says_what_is_not_finished(tmp_path):
    manifest = {"commit": "abc", "device": "cpu", "python": "3", "torch": "2", "seconds": 1.0}
    times = tmp_path / "times.csv"
    times.write_text("2030-01-31T14:30:00,search,row,2.0\n2030-01-31T15:30:00,search,row,1.5\n")
    page = _run_page(manifest | {"unfinished": ["search@row: stopped at the deadline"]}, times)
    assert "- Finished: not these:\n  - search@row: stopped at the deadline\n" in page
    assert "| search | row | 3.5 | 2 |" in page
    assert "of all stages: 4 s" in page
    assert "- Finished: all stages\n" in _run_page(manifest | {"unfinished": []}, times)


def test_the_best_start_is_the_most_robust(finished_run, tmp_path, monkeypatch):
    copy_of(finished_run, tmp_path, "plan", "runs", "results")
    monkeypatch.chdir(tmp_path)
    (path,) = (tmp_path / "results").glob("*/retrain_scratch/*/*/validation.json")
    plain = read_json(path)
    first, *_, last = plain["networks"]
    for weights in ("best", "last"):
        last[weights]["robust"] = first[weights]["robust"] + 0.1
    write_json(path, plain)
    assert keep_best_start(ROW) == last["id"] != first["id"]
    starts = read_json(Path("runs", ROW, "start-scratch.json"))["networks"]
    assert [one["id"] for one in starts] == [last["id"]]
