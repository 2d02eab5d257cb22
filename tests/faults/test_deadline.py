"""A run that stops before its deadline: what it leaves is valid and marked, and going on gives the same bits."""

import re
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tamnas.config.compute import ComputeParams
from tamnas.errors import DeadlineError, InputError
from tamnas.pipeline import checkpoint, runner
from tamnas.pipeline.deadline import Pace, set_deadline
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.runner import Limits, parse_deadline
from tamnas.pipeline.stages import instances, stages
from tests.helpers.tiny import REPORTED, ROW, contents, result_of, tiny_params, write_params

COMPUTING = [stage for stage in stages() if stage != "tables"]


# -- the mechanism -----------------------------------------------------------------------------


def test_work_stops_before_the_deadline_and_not_after_it():
    pace = Pace()
    pace.require_time("first")
    time.sleep(0.3)  # the first unit takes so long
    set_deadline(time.time() + 10)
    pace.require_time("second")
    set_deadline(time.time() + 0.2)  # not over yet, but too near for another unit
    with pytest.raises(DeadlineError, match="third: stopped at the deadline"):
        pace.require_time("third")
    set_deadline(time.time() + 0.2)
    Pace().require_time("of unknown length")
    set_deadline(None)
    pace.require_time("fourth")


def no_context() -> Pace:
    return Pace()


def timed_job(spec: int, context: Pace) -> int:
    context.require_time(f"job {spec}")
    return spec


@pytest.mark.system
def test_worker_processes_see_the_deadline():
    compute = ComputeParams(engine="processes", workers=2)
    set_deadline(time.time() + 600)
    with Jobs(no_context, compute) as jobs:
        assert sorted(jobs.run_jobs(timed_job, [0, 1])) == [(0, 0), (1, 1)]
    set_deadline(time.time() - 1)
    with pytest.raises(DeadlineError, match=r"job \d: stopped"), Jobs(no_context, compute) as jobs:
        list(jobs.run_jobs(timed_job, [0, 1]))


def test_a_fifth_is_for_evaluation_and_reports_and_a_quarter_of_it_for_these():
    limits = runner._limits("100", None, 1000.0)
    assert limits == Limits(end=1100, reserve=20)
    assert [limits.of(stage) for stage in ("supernet_block", "controls", "evaluate_scratch")] == [1080, 1080, 1095]


@pytest.mark.parametrize(("text", "moment"), [("600", 1600), ("0.5", 1000.5), ("1970-01-01T00:20:00+00:00", 1200)])
def test_deadlines_are_seconds_from_now_or_a_time(text, moment):
    assert parse_deadline(text, 1000.0) == moment


@pytest.mark.parametrize("text", ["0", "-5", "nan", "inf", "soon", "", "1970-01-01", "2030-13-01"])
def test_other_deadlines_are_refused(text):
    with pytest.raises(InputError, match=re.escape(f"--deadline is {text!r}; allowed: ")):
        parse_deadline(text, time.time())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--deadline", "yesterday"],
        ["--reserve", "10"],
        ["--deadline", "100", "--reserve", "100"],
        ["--deadline", "100", "--reserve", "nan"],
        ["--pack-checkpoints"],
    ],
)
def test_the_runner_refuses_bad_options_in_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    result = CliRunner().invoke(runner.main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --")
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_the_runner_refuses_bad_parameters_before_it_makes_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {**tiny_params(), "seed": -1})
    result = CliRunner().invoke(runner.main, ["--pack", "out"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()


def test_a_stop_in_evaluation_lets_other_rows_train():
    rows = instances({"one": "digits"}, ("digits",))
    evaluation, training = (
        next(one for one in rows if one.stage.name == name) for name in ("evaluate_scratch", "search")
    )
    fates = runner.Fates()
    fates.settle(evaluation, DeadlineError("stopped", partial=True))
    assert not fates.training_is_over
    fates.settle(training, DeadlineError("stopped"))
    assert fates.training_is_over


# -- whole runs --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    return tmp_path


def done_until(stage: str, folder: Path, finished_run: Path) -> None:
    """The checkpoints of a run that was stopped in `stage`, as far as other stages made them."""
    for name in ("baselines", "supernet_block", "supernet_joint", "search", "select", "retrain_scratch",
                 "retrain_finetune", "legonet", "legonet_pooled"):  # fmt: skip
        if name == stage:
            return
        shutil.copytree(finished_run / ".checkpoints" / name, folder / ".checkpoints" / name)


def stopped_run(what: str, after: int) -> list[str]:
    """A run whose deadline comes when `what` asks for its time once more than `after` times."""
    asked = 0
    original = Pace.require_time

    def require_time(self, text):
        nonlocal asked
        if what in text:
            asked += 1
            if asked > after:
                raise DeadlineError(f"{text}: stopped at the deadline")
        original(self, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "require_time", require_time)
        return runner.run(limits=Limits(time.time() + 3600, 600)).unfinished


@pytest.mark.system
def test_a_stop_in_retraining_leaves_a_report_of_what_is_finished(finished_run, folder):
    done_until("retrain_scratch", folder, finished_run)
    unfinished = stopped_run("retrain_scratch", 3 + 2)  # three epochs of the first subnet, two of the second
    assert unfinished[0] == f"retrain_scratch@{ROW}: retrain_scratch {ROW}: 1 of 3 networks until the deadline"
    assert [line.partition(":")[0] for line in unfinished] == [
        f"retrain_scratch@{ROW}", f"retrain_finetune@{ROW}", f"legonet@{ROW}", f"controls@{ROW}", f"ranking@{ROW}",
        f"evaluate_finetune@{ROW}", f"evaluate_legonet@{ROW}", f"evaluate_controls@{ROW}",
    ]  # fmt: skip
    assert f"evaluate_finetune@{ROW}: skipped, it needs retrain_finetune@{ROW}" in unfinished

    trained, whole = (result_of(root, "retrain_scratch", "validation.json") for root in (folder, finished_run))
    assert (trained["complete"], trained["planned"]) == (False, 3)
    assert trained["networks"] == whole["networks"][:1]
    assert set(whole) == {"format", "networks"}
    second = whole["networks"][1]["id"]
    (state,) = (folder / ".checkpoints" / "retrain_scratch" / ROW).glob(f"*/{second}.state.safetensors")
    assert checkpoint.load(state)[1]["epoch"] == 2

    page = (folder / "reports" / "README.md").read_text()
    assert f"{ROW}: networks trained from scratch: 1 of 3 networks: the run was stopped at its deadline." in page
    assert f"{ROW}: fine-tuned networks: not run." in page
    assert f"{ROW}: Lego-Net: not run." in page

    assert runner.run().unfinished == []
    assert contents(folder, "results", "runs", *REPORTED) == contents(finished_run, "results", "runs", *REPORTED)


@pytest.mark.slow
def test_a_stop_in_the_search_skips_what_needs_it(finished_run, folder):
    done_until("search", folder, finished_run)
    unfinished = stopped_run("search", 8)
    assert unfinished[0] == f"search@{ROW}: search {ROW}: stopped at the deadline"
    assert f"retrain_scratch@{ROW}: skipped, it needs select@{ROW}" in unfinished
    assert not list(folder.glob("results/digits/select"))
    assert (folder / "reports" / "index.html").exists()
    assert runner.run(only=["prepare", "supernet_block", "supernet_joint", "search", "select"]).unfinished == []
    names = [f"results/digits/{stage}" for stage in ("search", "select")]
    assert contents(folder, *names) == contents(finished_run, *names)


@pytest.mark.slow
def test_a_stop_in_evaluation_keeps_what_is_evaluated(finished_run, folder):
    done_until("never", folder, finished_run)
    unfinished = stopped_run(": PGD", 2)  # the final network and its further attack, and the next network
    assert unfinished[0] == f"evaluate_scratch@{ROW}: evaluate scratch {ROW}: 2 of 3 networks until the deadline"
    metrics = result_of(folder, "evaluate_scratch", "metrics.json")
    ids = [network["id"] for network in result_of(folder, "retrain_scratch", "validation.json")["networks"]]
    assert (metrics["complete"], metrics["planned"]) == (False, 3)
    assert list(metrics["networks"]) in (ids[:2], [ids[0], ids[2]])  # the final one first, then in order
    assert sum("apgdce_8_255_n8" in shares for shares in metrics["networks"].values()) == 1
    page = (folder / "reports" / "README.md").read_text()
    assert f"{ROW}: networks trained from scratch: 2 of 3 networks: the run was stopped at its deadline." in page
    evaluated = {path: path.stat().st_mtime_ns for path in folder.glob(f".checkpoints/evaluate_scratch/{ROW}/*/*.json")}
    assert len(evaluated) == 2
    assert runner.run(only=COMPUTING).unfinished == []
    assert all(path.stat().st_mtime_ns == written for path, written in evaluated.items())
    assert contents(folder, "results") == contents(finished_run, "results")


def test_results_of_an_earlier_run_do_not_outlive_a_skipped_stage(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("results", "plan", "data", "runs"):
        shutil.copytree(finished_run / name, tmp_path / name)
    write_params(tmp_path, tiny_params())
    stopped_run("supernet_block", 1)
    assert not (tmp_path / "results" / "digits" / "supernet_block" / ROW).exists()
    assert not (tmp_path / "results" / "digits" / "search" / ROW).exists()
    assert runner.run(only=["supernet_block"]).unfinished == []
    name = "results/digits/supernet_block"
    assert contents(tmp_path, name) == contents(finished_run, name)


def test_only_runs_what_it_names_and_the_plans(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    names = ("prepare", "supernet_block", "tables")
    arguments = [word for name in names for word in ("--only", name)]
    result = CliRunner().invoke(runner.main, [*arguments, "--checkpoints", "elsewhere"])
    assert (result.exit_code, result.stdout.count("reports: ")) == (0, 1)
    assert {path.name for path in (tmp_path / "results" / "digits").iterdir()} == set(names) - {"tables"}
    assert not (tmp_path / ".checkpoints").exists()
    assert (tmp_path / "elsewhere" / "supernet_block").is_dir()
    ours, theirs = (contents(root / "results" / "digits", *names) for root in (tmp_path, finished_run))
    assert ours == theirs


def test_only_a_stage_whose_inputs_are_missing_is_one_line(folder):
    result = CliRunner().invoke(runner.main, ["--only", "search"])
    assert result.exit_code == 2
    assert "error: data/digits.npz: is missing" in result.stderr
