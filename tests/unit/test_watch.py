"""`tamnas watch`: what it shows is what stages left, however far they are and however they end."""

import io
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tamnas.cli import watch
from tamnas.errors import DeadlineError
from tamnas.pipeline import checkpoint, progress
from tamnas.pipeline.live import _search_state, ended, works
from tamnas.pipeline.progress import Progress, recorded
from tamnas.pipeline.stage import exclusive
from tamnas.pipeline.store import locked, record_path, seal
from tests.helpers.command import answer, output
from tests.helpers.tiny import ROOT, dvc

HISTORY = [
    {"epoch": 0, "loss": 2.0, "train_clean": 0.25, "train_robust": 0.125, "validation_robust": None},
    {"epoch": 1, "loss": float("nan"), "train_clean": 0.5, "train_robust": 0.375, "validation_robust": 0.3125},
]
SEARCHED = [
    seal([f"{i}@1", {"clean": 0.5, "robust": i / 8, "parameters": 100 * i}, [0.5, 1 - i / 8, 100 * i]])
    for i in (1, 2, 3)
]


@pytest.fixture
def at_work(folder):
    """A search that runs: its checkpoint folder, and one that ended before."""
    (folder / "checkpoints").mkdir()
    with exclusive("plan"):
        pass
    path = record_path("search", "row")
    with locked("search", "row"), recorded(path, Path("checkpoints")):
        yield folder / "checkpoints"


def test_without_a_run_one_line_says_so(folder):
    assert output("watch") == "No stage is at work here.\n"
    assert answer("watch") == {"stages": [], "ended": []}
    assert list(folder.iterdir()) == []


def test_a_stage_at_work_says_how_far_it_is_and_where(at_work, monkeypatch):
    monkeypatch.setattr(progress, "RECORD_SECONDS", 0)
    with Progress("row", 4) as outer, Progress("training n01", 10, show=False) as inner:
        outer.skip(1)
        inner.step(loss=0.5, network="n01")
        outer.note(running=2, waiting=1)
        (stage,) = answer("watch")["stages"]
        assert (stage["stage"], stage["instance"], stage["alive"]) == ("search", "row", True)
        assert [(one["what"], one["done"], one["total"]) for one in stage["progress"]] == [
            ("row", 1, 4),
            ("training n01", 1, 10),
        ]
        assert stage["progress"][0]["seconds_left"] is None  # none of its own units is done
        assert 0 < stage["progress"][1]["seconds_left"] < inner.seconds_left()
        assert stage["progress"][1]["figures"] == {"loss": 0.5, "network": "n01"}
        assert [one["notes"] for one in stage["progress"]] == [{"running": 2, "waiting": 1}, {}]
        inner.note(running=1)
        assert inner._bar.postfix == "loss=0.5, network=n01, running=1"
        text = output("watch")
    assert "search@row  at work for 0:00:0" in text
    assert "1/10" in text
    assert "running 2, waiting 1" in text
    assert "plan run ended at " in text
    assert [(one["stage"], one["instance"]) for one in answer("watch")["ended"]] == [("plan", "run")]


def test_the_time_left_is_the_pace_of_this_run(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    counter = Progress("epochs", 10, show=False)
    counter.skip(4)
    now[0] += 6
    counter.step(2)
    assert counter.seconds_left() == 12  # 4 more at 3 s each


def test_a_stage_is_told_of_after_its_first_network(folder, monkeypatch):
    monkeypatch.setattr(progress, "RECORD_SECONDS", 0)
    with recorded(folder / "stage.json"), Progress("stage", 2, show=False) as counter:
        with recorded(folder / "network.json"):
            pass
        counter.step()
        (told,) = json.loads((folder / "stage.json").read_text())["progress"]
    assert told["done"] == 1


def test_networks_in_training_tell_the_time_left_before_the_first_of_them_ends(at_work, monkeypatch):
    """Two of five beside each other, a minute each: 45 s and 30 s are left of them, and a third of a killed run."""
    monkeypatch.setattr(progress, "RECORD_SECONDS", 0)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("retrain", 5, show=False):
        first, second, third = (at_work / f"{name}{progress.NETWORK}" for name in ("n01", "n02", "n09"))
        with recorded(first), Progress("training n01", 4, show=False) as one:
            now[0] = 15
            one.step()
            third.write_text(json.dumps(json.loads(first.read_text()) | {"started": 1}))
            with recorded(second), Progress("training n02", 4, show=False) as other:
                now[0] = 45
                other.step(2)
                (stage,) = answer("watch")["stages"]
                text = output("watch")
    left = {counter["what"]: counter["seconds_left"] for counter in stage["training"]}
    assert left == {"training n01": 45, "training n02": 30}
    assert [counter["seconds_left"] for counter in stage["progress"]] == [(45 + 30 + 3 * 60) / 2]
    assert "training n02" in text
    assert list(at_work.iterdir()) == [third]


def test_its_file_is_written_once_a_second_at_most_and_goes_when_the_stage_ends(folder):
    path = folder / "record.json"
    with recorded(path), Progress("steps", 100_000, show=False) as counter:
        first = path.stat().st_ino  # every writing puts another file in its place
        started = time.monotonic()
        for _ in range(20_000):
            counter.step(loss=0.5)
        written = path.stat().st_ino
        assert written == first or time.monotonic() - started > progress.RECORD_SECONDS
    assert list(folder.iterdir()) == []


def test_a_record_that_cannot_be_written_ends_no_stage(folder):
    with recorded(folder / "gone" / "record.json"), Progress("epochs", 2, show=False) as counter:
        counter.step()
    assert counter.done == 1


def test_a_failed_stage_leaves_no_record_and_a_killed_one_is_told(folder):
    with pytest.raises(ValueError, match="broken"), exclusive("tables"):
        raise ValueError("broken")
    assert works() == []
    path = record_path("search", "row")
    with locked("search", "row"), recorded(path), Progress("search row", 264, show=False) as counter:
        counter.done = 120
        progress._record.write(now=True)
        left = path.read_text()
    path.write_text(left)  # as a killed process leaves it
    (work,) = works()
    assert not work.alive
    text = output("watch")
    assert "search@row was killed at search row 120/264; the next run goes on" in text
    assert "No stage is at work here." in text


def test_curves_are_those_of_networks_that_are_not_finished(at_work):
    for name in ("state", "n01.state", "n02.state"):
        checkpoint.save(at_work / f"{name}.safetensors", {"w": torch.zeros(2)}, {"epoch": 2, "history": HISTORY})
    checkpoint.save(at_work / "n02.safetensors", {"w": torch.zeros(2)}, {"record": {}, "history": HISTORY})
    (work,) = works()
    assert work.curves.keys() == {"supernet", "n01"}
    assert np.isnan(work.curves["n01"][1]["loss"])
    text = output("watch")
    assert "training loss" in text
    assert "▁!" in text
    assert "31.2%" in text
    assert "epoch 2" in text


def test_a_checkpoint_that_is_just_replaced_is_read_from_the_one_before(at_work):
    path = at_work / "state.safetensors"
    for _ in range(2):
        checkpoint.save(path, {"w": torch.zeros(2)}, {"epoch": 2, "history": HISTORY})
    path.unlink()
    assert works()[0].curves == {}  # no state at all is there: nothing to look beside
    path.write_bytes(b"half")
    assert len(works()[0].curves["supernet"]) == 2


@given(st.data())
def test_the_front_of_a_search_is_of_all_that_it_evaluated(data):
    value = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
    rows = data.draw(st.lists(st.tuples(value, value, st.integers(1, 4)), min_size=1, max_size=25))
    lines = [
        seal([f"{index}@1", {"clean": 1 - clean, "robust": 1 - robust, "parameters": size}, [clean, robust, size]])
        for index, (clean, robust, size) in enumerate(rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "evaluated.jsonl"
        path.write_text("\n" + "\n".join(lines) + "\n" + lines[0][: data.draw(st.integers(0, len(lines[0]) - 1))])
        found = _search_state(path)
    by_hand = {
        f"{index}@1"
        for index, row in enumerate(rows)
        if not any(all(map(float.__le__, map(float, other), map(float, row))) and other != row for other in rows)
    }
    assert found.count == len(rows)
    assert {row["architecture"] for row in found.front} == by_hand
    assert found.best_robust == list(np.maximum.accumulate([1 - robust for _, robust, _ in rows]))


def test_a_search_is_shown_with_the_front_so_far(at_work):
    (at_work / "evaluated.jsonl").write_text("\n".join(SEARCHED) + '\n{"format": 1, "sha')
    text = output("watch")
    assert "3 of 3 networks are on the front" in text
    assert [line.split()[:3] for line in text.splitlines() if "█" in line and "front" not in line] == [
        ["100", "50.0", "12.5"],
        ["200", "50.0", "25.0"],
        ["300", "50.0", "37.5"],
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "checkpoints": null}'])
def test_a_damaged_record_is_left_out(at_work, text):
    record_path("search", "row").write_text(text)
    assert works() == []
    assert output("watch").startswith("No stage is at work here. plan run ended at ")


def test_a_damaged_line_of_times_is_left_out(folder):
    Path("logs").mkdir()
    Path("logs/times.csv").write_text("2030-01-31T14:30:00,plan,run,0.5\n2030-01-31T14:30:01,sea")
    assert [line.stage for line in ended()] == ["plan"]


@given(st.lists(st.floats(width=32), min_size=1, max_size=100))
def test_a_sparkline_ends_with_the_last_value_and_fits(values):
    line = watch._sparkline(values)
    assert 1 <= len(line) <= watch.WIDTH
    assert (line[-1] == "!") == (not np.isfinite(values[-1]))
    finite = [value for value in values if np.isfinite(value)]
    if finite and values[-1] == min(finite):
        assert line[-1] == watch.SPARKS[0]


def follow(monkeypatch, gap: float) -> tuple[str, float]:
    """(what it showed, seconds until it ended) of a watch in a terminal."""
    monkeypatch.setattr(watch, "REFRESH_SECONDS", 0.02)
    monkeypatch.setattr(watch, "GAP_SECONDS", gap)
    file, started = io.StringIO(), time.monotonic()
    watch._follow(Console(file=file, force_terminal=True, color_system=None, width=200))
    return file.getvalue(), time.monotonic() - started


def test_a_watch_waits_for_a_run_and_ends_with_its_last_stage(folder, monkeypatch):
    def run():
        time.sleep(0.3)
        for stage in ("search", "tables"):
            with exclusive(stage):
                time.sleep(0.3)
            time.sleep(0.1)

    with exclusive("tables"):
        pass  # the end of an earlier run, which is not this one's
    runner = threading.Thread(target=run)
    runner.start()
    shown, seconds = follow(monkeypatch, gap=30)
    runner.join()
    assert "Waiting 30 s for one to start." in shown
    assert shown.index("search  ") < shown.index("tables  ") < shown.rindex("tables run ended at ")
    assert seconds < 10


def test_a_watch_ends_when_no_stage_starts(folder, monkeypatch):
    shown, seconds = follow(monkeypatch, gap=0.2)
    assert 0.2 <= seconds < 10
    assert "Waiting" in shown
    assert "Waiting" not in shown[shown.rindex("No stage is at work here.") :]  # the last line stays, and says it alone


def test_json_is_one_document(at_work):
    assert json.loads(output("watch", "--json"))["stages"][0]["evaluated"] is None


def test_json_has_null_for_what_is_no_number(at_work):
    checkpoint.save(at_work / "state.safetensors", {"w": torch.zeros(2)}, {"epoch": 2, "history": HISTORY})
    text = output("watch", "--json")
    assert "NaN" not in text
    assert [row["loss"] for row in json.loads(text)["stages"][0]["curves"]["supernet"]] == [2.0, None]


def test_dvc_draws_what_is_at_work(at_work, folder):
    """And complains of nothing while there is nothing to draw."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "live", folder / "live", ignore=shutil.ignore_patterns("*.csv"))
    shutil.copytree(ROOT / "reports" / "plots", folder / "reports" / "plots")
    dvc(folder, "init", "--quiet", "--no-scm")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots", dirs_exist_ok=True)
    before = dvc(folder, "plots", "show", "--json")
    assert not json.loads(before).get("errors")
    assert "live" not in before
    checkpoint.save(at_work / "state.safetensors", {"w": torch.zeros(2)}, {"epoch": 2, "history": HISTORY})
    (at_work / "evaluated.jsonl").write_text("\n".join(SEARCHED))
    assert output("watch", "--plots").startswith("`dvc plots show` draws it, too.\nsearch@row  at work for ")
    drawn = json.loads(dvc(folder, "plots", "show", "--json"))["data"]
    ((curve,), (front,)) = drawn["live/curves/now.csv"], drawn["live/front/now.csv"]
    assert [(row["run"], row["epoch"], row["train_clean"]) for row in curve["content"]["data"]["values"]] == [
        ("search@row supernet", "0", "0.25"),
        ("search@row supernet", "1", "0.5"),
    ]
    assert [(row["parameters"], row["clean"], row["robust"]) for row in front["content"]["data"]["values"]] == [
        ("100", "0.5", "0.125"),
        ("200", "0.5", "0.25"),
        ("300", "0.5", "0.375"),
    ]


def test_what_ended_is_drawn_no_more(at_work, folder):
    (at_work / "evaluated.jsonl").write_text("\n".join(SEARCHED))
    with_plots = json.loads(output("watch", "--plots", "--json"))
    assert [path.name for path in folder.glob("live/*/*")] == ["now.csv"]
    assert with_plots == answer("watch")
    record_path("search", "row").unlink()
    output("watch", "--plots")
    assert list(folder.glob("live/*/*")) == []


def test_stages_are_told_in_the_order_in_which_they_started(folder):
    for name, moment in (("b", 1.0), ("c", 2.0), ("a", 3.0)):
        path = record_path("search", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": 1, "started": moment, "checkpoints": None, "progress": []}))
    assert [work.instance for work in works()] == ["b", "c", "a"]


def test_a_stage_that_stops_at_the_deadline_is_timed_too(folder):
    with pytest.raises(DeadlineError, match="stopped"), exclusive("search", "row"):
        raise DeadlineError("stopped at the deadline")
    assert [(one.stage, one.instance) for one in ended()] == [("search", "row")]
