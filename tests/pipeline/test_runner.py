"""The whole pipeline in one process on tiny settings, and that it honours dvc.yaml."""

import errno
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from tamnas.config.compute import load_compute
from tamnas.errors import DeadlineError, InputError, WorkerError
from tamnas.pipeline import runner
from tamnas.pipeline.lanes import lanes
from tamnas.pipeline.runner import Limits
from tamnas.pipeline.stage import divergence_noted
from tamnas.pipeline.stages import instance
from tamnas.pipeline.store import locked
from tests.helpers.tiny import ROW, contents, copy_of, planned, tiny_params, write_params


def results(folder, *parts):
    return folder.joinpath("results", "digits", *parts)


def test_the_grid_is_complete_and_consistent(finished_run):
    import pandas as pd

    grid = pd.read_csv(results(finished_run, "evaluate_scratch", ROW, "seed-0", "grid.csv"))
    trained = json.loads(results(finished_run, "retrain_scratch", ROW, "seed-0", "validation.json").read_text())
    assert set(grid["network"]) == {network["id"] for network in trained["networks"]}
    listed = grid["attack"] == "apgdce_8_255_n8"
    assert listed.sum() == 1  # of the final network alone
    assert (grid["images"] == listed.map({True: 8, False: 40})).all()
    for _, cells in grid[~listed].groupby("network"):
        clean = cells.loc[cells["steps"] == 0, "accuracy"].item()
        assert (cells["accuracy"] <= clean).all()
        steps = cells[cells["eps"] == "8/255"].sort_values("steps")
        assert steps["accuracy"].is_monotonic_decreasing
    assert grid.groupby("network")["final"].first().sum() == 1


def test_lego_net_is_what_the_counts_say(finished_run):
    import pandas as pd

    counts = pd.read_csv(results(finished_run, "legonet", ROW, "counts.csv"))
    statistics = json.loads(results(finished_run, "legonet", ROW, "statistics.json").read_text())
    first = counts[counts["rank"] == 0]
    blocks = first[first["gene"] == "block"].sort_values("layer")["value"].astype(int).tolist()
    assert statistics["architecture"]["blocks"] == blocks
    assert counts.groupby(["layer", "gene"])["count"].sum().eq(3).all()


def test_running_again_changes_nothing(finished_run, tmp_path, monkeypatch):
    copy_of(finished_run, tmp_path, ".checkpoints", "results", "runs", "data")
    monkeypatch.chdir(tmp_path)
    assert runner.run(until="evaluate_controls_pooled").unfinished == []
    for top in ("results", "runs"):
        assert contents(tmp_path, top) == contents(finished_run, top)


# -- training that diverges --------------------------------------------------------------------


ROWS = ("digits-broken", "digits-sound")


def test_code_that_changes_under_a_run_stops_it(tmp_path, monkeypatch):
    """The process may have imported what was there before, and its results would be kept as those of the new code."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    edits = iter(range(100))
    monkeypatch.setattr(runner, "code_digest", lambda script: script.stem + str(next(edits) // 2))
    with pytest.raises(InputError, match=r"stages/\w+\.py: its code has changed since the run began"):
        runner.run(only=["prepare"])
    assert not Path("data").exists()


def test_a_divergence_is_the_exit_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    for diverged in (False, True):
        fates = runner.Fates(unfinished=["search@row: ..."], diverged=diverged)
        monkeypatch.setattr(runner, "run", lambda fates=fates, **_: fates)
        assert CliRunner().invoke(runner.main, []).exit_code == int(diverged)


def test_a_run_that_breaks_off_before_its_plan_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "run", full)
    result = CliRunner().invoke(runner.main, ["--pack", "pack"])
    assert result.exit_code == 1
    assert "no space left on device; make room" in result.output


def test_prepared_images_go_before_they_are_made_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = Path("plan/digits/prepare.json")
    for path in (Path("data/digits.npz"), kept):
        path.parent.mkdir(parents=True)
        path.touch()
    runner._remove_outputs(instance("prepare", "digits", "digits"))
    assert not Path("data/digits.npz").exists()
    assert kept.exists()


def test_a_second_run_waits(tmp_path, monkeypatch, caplog):
    """It would remove what the first one reads."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    with ThreadPoolExecutor() as threads:
        with locked("tamnas", "run"):
            second = threads.submit(runner.run, only=["fingerprint"])
            while "tamnas run: another process runs one here; waiting for it to end" not in caplog.messages:
                assert not second.done()
                time.sleep(0.01)
            time.sleep(0.2)
            assert not second.done()
        assert second.result(timeout=60).unfinished == []


def test_weights_of_an_earlier_run_go_with_its_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())

    def stopped(instance):
        if instance.stage.name == "baselines":
            raise DeadlineError("stopped before a network was finished")
        call(instance)

    call = runner.call
    monkeypatch.setattr(runner, "call", stopped)
    old = Path("runs/digits/baselines/resnet8.safetensors")
    old.parent.mkdir(parents=True)
    old.touch()
    (line,) = runner.run(only=["baselines"]).unfinished
    assert line.startswith("baselines@digits: stopped")
    assert not old.exists()


def two_rows(**broken) -> dict:
    """Two rows, one of whose block phases trains with `broken`; no hand-made networks."""
    raw = tiny_params()
    raw["baselines"]["names"] = []
    raw["modes"] = {"broken": {"supernet": broken}, "sound": {"supernet": {"lam": 0.5}}}
    raw["run"]["rows"] = {row: {"dataset": "digits", "mode": row.partition("-")[2]} for row in ROWS}
    return raw


@pytest.mark.system
def test_a_diverged_stage_is_in_the_reports_until_it_succeeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = ("prepare", "supernet_block", "supernet_joint", "tables")
    told = {row: results(tmp_path, "supernet_block", row, "diverged.json") for row in ROWS}
    write_params(tmp_path, two_rows(lr=1e30, clip_norm=None))
    fates = runner.run(only=stages)
    lines = fates.unfinished
    assert fates.diverged
    assert lines[0].startswith("supernet_block@digits-broken: training diverged: ")
    assert lines[1] == "supernet_joint@digits-broken: skipped, it needs supernet_block@digits-broken"
    found = json.loads(told["digits-broken"].read_text())
    assert found["format"] == 1
    assert (found["stage"], found["instance"]) == ("supernet_block", "digits-broken")
    assert found["epoch"] in (0, 1)
    assert str(tmp_path) not in told["digits-broken"].read_text()
    assert not told["digits-sound"].exists()
    words = f"digits-broken: supernet, block phase: training diverged: {found['reason']} (epoch {found['epoch']}, step "
    for name in ("README.md", "index.html"):
        assert words in (tmp_path / "reports" / name).read_text()
    before = {path: path.read_bytes() for path in (tmp_path / "reports").rglob("*") if path.is_file()}
    runner.run(only=stages)
    assert before == {path: path.read_bytes() for path in (tmp_path / "reports").rglob("*") if path.is_file()}

    write_params(tmp_path, two_rows(eps="6/255"))
    assert runner.run(only=stages).unfinished == []
    assert not told["digits-broken"].exists()
    assert "diverged" not in (tmp_path / "reports" / "README.md").read_text()


def test_a_stage_that_succeeds_leaves_no_stale_divergence(tmp_path):
    told = results(tmp_path, "supernet_block", ROW, "diverged.json")
    told.parent.mkdir(parents=True)
    told.write_text("{}")
    with divergence_noted("supernet_block", ROW, told.parent):
        pass
    assert not told.exists()


def own_workers(path: Path) -> int:
    return load_compute(path).workers


def test_lanes_share_the_workers(folder):
    Path("params.yaml").write_text("compute: {workers: 5}")
    with lanes(2) as pool:
        assert pool.submit(own_workers, "one", Path("params.yaml").absolute()).result() == 2


def test_one_by_one_stages_run_in_the_order_of_dvc_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw, called = tiny_params(), []
    raw["modes"]["other"] = {"supernet": {"lam": 0.5}}
    raw["run"]["rows"]["digits-other"] = {"dataset": "digits", "mode": "other"}
    write_params(tmp_path, raw)
    monkeypatch.setattr(runner, "call", lambda one: called.append(one.name))
    runner.run()
    assert called == [one.name for one in planned(raw)]


def test_what_the_deadline_left_in_part_is_there():
    evaluate = instance("evaluate_scratch", ROW, "digits")
    for partial in (True, False):
        fates = runner.Fates()
        fates.settle(evaluate, DeadlineError("2 of 3 networks", partial=partial))
        assert fates.absent == ([] if partial else [evaluate])


def test_when_training_is_over_no_more_begins():
    now = time.time()
    limits = Limits(end=now + 1000, reserve=100)
    assert limits.of("retrain_scratch") == limits.end - 100
    assert now <= limits.of("retrain_scratch", training_is_over=True) <= time.time()
    assert limits.of("evaluate_scratch", training_is_over=True) == limits.end - 25


def test_the_pack_of_a_run_that_broke_off_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    runner.run(only=["plan"])

    def broken(**_):
        raise WorkerError(runner.KILLED)

    monkeypatch.setattr(runner, "run", broken)
    assert CliRunner().invoke(runner.main, ["--pack", "pack", "--commit", "abc"]).exit_code == 1
    assert json.loads(Path("pack/manifest.json").read_text())["unfinished"] == ["the run broke off"]
