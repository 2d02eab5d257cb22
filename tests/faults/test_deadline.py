"""A run that stops before its deadline: what it leaves is valid and marked, and going on gives the same bits."""

import hashlib
import io
import json
import re
import shutil
import tarfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tamnas.config.compute import ComputeParams
from tamnas.errors import DeadlineError, InputError
from tamnas.pipeline import checkpoint, runner
from tamnas.pipeline.deadline import Pace, set_deadline
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.pack import head, keep, pack, unpack
from tamnas.pipeline.pack import main as pack_main
from tamnas.pipeline.runner import Limits, parse_deadline
from tests.helpers.tiny import ROW, commit, git, tiny_params, write_params

COMPUTING = [stage for stage in runner.NAMES if stage != "tables"]


@pytest.fixture(autouse=True)
def no_deadline(monkeypatch):
    monkeypatch.setenv("TAMNAS_CHECKPOINTS", "")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    yield
    set_deadline(None)


# -- the mechanism -----------------------------------------------------------------------------


def test_without_a_deadline_nothing_stops():
    pace = Pace()
    for _ in range(3):
        pace.require_time("work")


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


def test_worker_processes_see_the_deadline():
    compute = ComputeParams(engine="processes", workers=2)
    set_deadline(time.time() + 600)
    with Jobs(no_context, compute) as jobs:
        assert sorted(jobs.run_jobs(timed_job, [0, 1])) == [(0, 0), (1, 1)]
    set_deadline(time.time() - 1)
    with pytest.raises(DeadlineError, match=r"job \d: stopped"), Jobs(no_context, compute) as jobs:
        list(jobs.run_jobs(timed_job, [0, 1]))


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


# -- whole runs --------------------------------------------------------------------------------


def params() -> dict:
    """Tiny, and without the hand-made network, which takes longer than all else."""
    raw = tiny_params()
    raw["baselines"]["names"] = []
    return raw


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    files = [path for name in names for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder, params())
        assert runner.run() == []
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, params())
    return tmp_path


def done_until(stage: str, folder: Path, undisturbed: Path) -> None:
    """The checkpoints of a run that was stopped in `stage`, as far as other stages made them."""
    for name in ("supernet-block", "supernet-joint", "search", "start_points", "retrain-scratch", "retrain-finetune"):
        if name == stage:
            return
        shutil.copytree(undisturbed / ".checkpoints" / name, folder / ".checkpoints" / name)


def stopped_run(what: str, after: int) -> list[str]:
    """A run whose deadline comes when `what` asks for its time once more than `after` times."""
    asked = 0
    original = Pace.require_time

    def require_time(self, text):
        nonlocal asked
        if text.startswith(what):
            asked += 1
            if asked > after:
                raise DeadlineError(f"{text}: stopped at the deadline")
        original(self, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "require_time", require_time)
        return runner.run(limits=Limits(time.time() + 3600, 600))


def small(folder: Path, stage: str, name: str) -> dict:
    return json.loads((folder / "results" / "digits" / stage / ROW / "seed-0" / name).read_text())


def test_a_stop_in_retraining_leaves_a_report_of_what_is_finished(undisturbed, folder):
    done_until("retrain-scratch", folder, undisturbed)
    unfinished = stopped_run("retrain_scratch", 3 + 2)  # three epochs of the first subnet, two of the second
    assert unfinished[0] == f"retrain_scratch@{ROW}: retrain_scratch {ROW}: 1 of 3 networks until the deadline"
    assert [line.partition(":")[0] for line in unfinished] == [
        f"retrain_scratch@{ROW}", f"retrain_finetune@{ROW}", f"legonet@{ROW}", "legonet_pooled@digits",
        f"controls@{ROW}", "controls_pooled@digits", f"evaluate_finetune@{ROW}", f"evaluate_legonet@{ROW}",
        "evaluate_legonet_pooled@digits", f"evaluate_controls@{ROW}", "evaluate_controls_pooled@digits",
    ]  # fmt: skip
    assert f"evaluate_finetune@{ROW}: skipped, it needs retrain_finetune@{ROW}" in unfinished

    trained, whole = (small(root, "retrain_scratch", "validation.json") for root in (folder, undisturbed))
    assert (trained["complete"], trained["planned"]) == (False, 3)
    assert trained["networks"] == whole["networks"][:1]
    assert set(whole) == {"format", "networks"}
    second = whole["networks"][1]["id"]
    (state,) = (folder / ".checkpoints" / "retrain-scratch" / ROW).glob(f"*/{second}.state.safetensors")
    assert checkpoint.load(state)[1]["epoch"] == 2

    page = (folder / "reports" / "README.md").read_text()
    assert f"{ROW}: networks trained from scratch: 1 of 3 networks: the run was stopped at its deadline." in page
    assert f"{ROW}: fine-tuned networks: not run." in page
    assert f"{ROW}: Lego-Net: not run." in page

    assert runner.run() == []
    assert contents(folder, "results", "reports", "runs") == contents(undisturbed, "results", "reports", "runs")


def test_a_stop_in_the_search_skips_what_needs_it(undisturbed, folder):
    done_until("search", folder, undisturbed)
    unfinished = stopped_run("search", 8)
    assert unfinished[0] == f"search@{ROW}: search {ROW}: stopped at the deadline"
    assert f"retrain_scratch@{ROW}: skipped, it needs select@{ROW}" in unfinished
    assert not list(folder.glob("results/digits/select"))
    assert (folder / "reports" / "index.html").exists()
    assert runner.run(only=["prepare", "supernet_block", "supernet_joint", "search", "select"]) == []
    names = [f"results/digits/{stage}" for stage in ("search", "select")]
    assert contents(folder, *names) == contents(undisturbed, *names)


def test_a_stop_in_evaluation_keeps_what_is_evaluated(undisturbed, folder):
    done_until("never", folder, undisturbed)
    unfinished = stopped_run("evaluate n", 2)
    assert unfinished[0] == f"evaluate_scratch@{ROW}: evaluate scratch {ROW}: 2 of 3 networks until the deadline"
    metrics = small(folder, "evaluate_scratch", "metrics.json")
    ids = [network["id"] for network in small(folder, "retrain_scratch", "validation.json")["networks"]]
    assert (metrics["complete"], metrics["planned"], list(metrics["networks"])) == (False, 3, ids[:2])
    page = (folder / "reports" / "README.md").read_text()
    assert f"{ROW}: networks trained from scratch: 2 of 3 networks: the run was stopped at its deadline." in page
    evaluated = {path: path.stat().st_mtime_ns for path in folder.glob(f".checkpoints/evaluate-scratch/{ROW}/*/*.json")}
    assert len(evaluated) == 2
    assert runner.run(only=COMPUTING) == []
    assert all(path.stat().st_mtime_ns == written for path, written in evaluated.items())
    assert contents(folder, "results") == contents(undisturbed, "results")


def test_results_of_an_earlier_run_do_not_outlive_a_skipped_stage(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("results", "plan", "data", "runs"):
        shutil.copytree(undisturbed / name, tmp_path / name)
    write_params(tmp_path, params())
    stopped_run("supernet_block", 1)
    assert not (tmp_path / "results" / "digits" / "supernet_block" / ROW).exists()
    assert not (tmp_path / "results" / "digits" / "search" / ROW).exists()
    assert runner.run(only=["supernet_block"]) == []
    name = "results/digits/supernet_block"
    assert contents(tmp_path, name) == contents(undisturbed, name)


def test_only_runs_what_it_names_and_the_plans(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, params())
    names = ("prepare", "supernet_block", "tables")
    arguments = [word for name in names for word in ("--only", name)]
    result = CliRunner().invoke(runner.main, [*arguments, "--checkpoints", "elsewhere"])
    assert (result.exit_code, result.stdout.count("reports: ")) == (0, 1)
    assert {path.name for path in (tmp_path / "results" / "digits").iterdir()} == set(names) - {"tables"}
    assert not (tmp_path / ".checkpoints").exists()
    assert (tmp_path / "elsewhere" / "supernet-block").is_dir()
    ours, theirs = (contents(root / "results" / "digits", *names) for root in (tmp_path, undisturbed))
    assert ours == theirs


def test_only_a_stage_whose_inputs_are_missing_is_one_line(folder):
    result = CliRunner().invoke(runner.main, ["--only", "search"])
    assert result.exit_code == 2
    assert "error: data/digits.npz: is missing" in result.stderr


# -- packing -----------------------------------------------------------------------------------

HEAD = {"format": 1, "commit": "abc", "device": "cpu", "python": "3", "torch": "2", "seconds": 1.0, "unfinished": []}


def test_a_packed_run_comes_back_and_its_reports_can_be_made_again(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(undisturbed)
    manifest = pack(tmp_path, HEAD, 64)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["manifest.json", "run.tar.gz.00"]
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["left_out"] == []
    first = (tmp_path / "run.tar.gz.00").read_bytes()
    pack(tmp_path, HEAD, 64)
    assert (tmp_path / "run.tar.gz.00").read_bytes() == first

    back = tmp_path / "back"
    unpack(tmp_path, back)
    assert contents(back, "results", "reports", "plan") == contents(undisturbed, "results", "reports", "plan")
    assert contents(back, "logs") == contents(undisturbed, "logs")
    monkeypatch.chdir(back)
    shutil.rmtree("reports")
    runner.run(only=["tables"])
    assert contents(back, "reports") == contents(undisturbed, "reports")
    # the shown weights alone are there, and they evaluate as before
    shutil.copytree(undisturbed / "data", "data")
    runner.run(only=["evaluate_scratch"])
    path = Path("results/digits/evaluate_scratch") / ROW / "seed-0" / "grid.csv"
    assert path.read_bytes() == (undisturbed / path).read_bytes()


def test_another_recipe_is_tried_on_what_a_packed_run_found(undisturbed, tmp_path, monkeypatch):
    """As docs/gpu.md has it: Lego-Net of all its networks, then the best of these alone."""
    monkeypatch.chdir(undisturbed)
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "packed", HEAD, 64)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(pack_main, ["unpack", "packed", "--best"])
    assert result.exit_code == 0, result.output
    raw = params()
    raw["network"].update(strides=[1, 2, 2], activation="silu")
    raw["retrain"]["scratch"].update(epochs=2, label_smoothing=0.1, ema=0.9)
    write_params(tmp_path, raw)
    shutil.copytree(undisturbed / "data", "data")
    assert runner.run(only=["legonet", "evaluate_legonet"]) == []
    assert runner.run(only=["retrain_scratch", "evaluate_scratch", "tables"]) == []

    before = small(undisturbed, "retrain_scratch", "validation.json")["networks"]
    (best,) = small(tmp_path, "retrain_scratch", "validation.json")["networks"]
    robust = {one["id"]: one["last"]["robust"] for one in before}
    assert robust[best["id"]] == max(robust.values())
    assert f"keeps {best['id']}" in result.output
    votes = [Path("results/digits/legonet") / ROW / name for name in ("counts.csv", "statistics.json")]
    assert [path.read_bytes() for path in votes] == [(undisturbed / path).read_bytes() for path in votes]
    for stage in ("legonet", "retrain_scratch"):
        ours, theirs = (small(root, stage, "validation.json")["networks"] for root in (tmp_path, undisturbed))
        assert ours[0] not in theirs
    assert "label smoothing" in (tmp_path / "reports" / "README.md").read_text()


def test_the_pack_keeps_to_its_limits_and_leaves_out_the_least(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(undisturbed)
    monkeypatch.setattr("tamnas.pipeline.pack.MIB", 2**20 // 16)
    monkeypatch.setattr("tamnas.pipeline.pack.PART", 2**20 // 8)
    manifest = pack(tmp_path, HEAD, 24, with_checkpoints=True)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sum(sizes.values()) <= 24 * 2**20 // 16
    assert len(sizes) <= 8
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in sizes)
    assert all(sizes[name] == part["bytes"] <= 2**20 // 8 for name, part in manifest["parts"].items())
    assert manifest["left_out"]
    back = tmp_path / "back"
    unpack(tmp_path, back)
    assert contents(back, "results") == contents(undisturbed, "results")  # worth most


def test_checkpoints_are_packed_newest_first_and_a_run_goes_on_from_them(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(undisturbed)
    pack(tmp_path, HEAD, 64, with_checkpoints=True)
    back = tmp_path / "back"
    unpack(tmp_path, back)
    assert not list(back.rglob("*.previous")) + list(back.rglob("*.lock"))
    monkeypatch.chdir(back)
    shutil.copytree(undisturbed / "data", "data")
    (trained,) = Path(".checkpoints").glob(f"retrain-scratch/{ROW}/*/n01.safetensors")
    before = trained.stat().st_mtime_ns
    assert runner.run(only=["retrain_scratch", "retrain_finetune", "legonet"]) == []
    assert trained.stat().st_mtime_ns == before
    assert contents(back, "results") == contents(undisturbed, "results")


def test_a_damaged_or_missing_part_is_one_line(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(undisturbed)
    pack(tmp_path, HEAD, 64)
    part = tmp_path / "run.tar.gz.00"
    blob = bytearray(part.read_bytes())
    blob[1000] ^= 1
    part.write_bytes(blob)
    with pytest.raises(InputError, match=r"run.tar.gz.00: is damaged"):
        unpack(tmp_path, tmp_path / "back")
    part.unlink()
    with pytest.raises(InputError, match=r"run.tar.gz.00: is missing"):
        unpack(tmp_path, tmp_path / "back")
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"manifest.json: is not the manifest"):
        unpack(tmp_path, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def packed_by_a_stranger(folder: Path, blob: bytes, **manifest) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.tar.gz.00").write_bytes(blob)
    parts = {"run.tar.gz.00": {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}}
    (folder / "manifest.json").write_text(json.dumps({**HEAD, "parts": parts, "files": 1, "left_out": []} | manifest))
    return folder


def archive(name: str, kind: bytes = tarfile.REGTYPE, size: int = 4) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        good, entry = tarfile.TarInfo("results/digits/good.json"), tarfile.TarInfo(name)
        entry.type, entry.mode, entry.linkname, entry.size = kind, 0o755, "/etc", size if kind == tarfile.REGTYPE else 0
        tar.addfile(good)
        tar.addfile(entry, io.BytesIO(bytes(entry.size)))
    return raw.getvalue()


@pytest.mark.parametrize(
    "blob",
    [
        *map(archive, ("stages/tables.py", ".git/hooks/post-checkout", "dvc.yaml", "conftest.py", "results/x.py")),
        *map(archive, ("results/../params.yaml", "/results/x.json", "../results/x.json", "results", "runs/x.pt")),
        archive("results/link.json", tarfile.SYMTYPE),
        archive("runs/link.json", tarfile.LNKTYPE),
        archive("plan/pipe.yaml", tarfile.FIFOTYPE),
        archive("results/bomb.json", size=2**21),
        archive("results/x.json")[:-20],
        b"no archive",
        b"",
    ],
)
def test_a_strangers_pack_writes_nothing_but_data(tmp_path, monkeypatch, blob):
    monkeypatch.setattr("tamnas.pipeline.pack.UNPACKED", 2**20)
    packed = packed_by_a_stranger(tmp_path / "packed", blob)
    with pytest.raises(InputError, match="packed: "):
        unpack(packed, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("parts", [None, [], {"x": 1}, {"../run.tar.gz.00": {"sha256": ""}}, {"a": {"sha256": ""}}])
def test_a_strangers_manifest_is_one_line(tmp_path, parts):
    packed = packed_by_a_stranger(tmp_path / "packed", b"", parts=parts)
    with pytest.raises(InputError, match=r"manifest\.json: "):
        unpack(packed, tmp_path / "back")


def test_what_stays_of_a_run(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(undisturbed)
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "packed", HEAD, 64)
    target = tmp_path / "docs" / "digits"
    target.mkdir(parents=True)
    (target / "comparison.md").write_text("by hand")
    keep(tmp_path / "packed", target)
    assert contents(target, "reports", "results", "plan") == contents(undisturbed, "reports", "results", "plan")
    assert (target / "params.yaml").read_bytes() == (undisturbed / "params.yaml").read_bytes()
    page = (target / "run.md").read_text()
    assert "- Commit: abc\n" in page
    assert f"| supernet-block | {ROW} |" in page
    assert (target / "comparison.md").read_text() == "by hand"
    assert not list(target.rglob("*.safetensors"))


def test_the_commit_is_heads_and_tells_changed_code_from_changed_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert head() == "unknown"
    (tmp_path / "tamnas").mkdir()
    code, parameters = tmp_path / "tamnas" / "code.py", tmp_path / "params.yaml"
    for path in (code, parameters):
        path.write_text("a")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, "start")
    found = git(tmp_path, "rev-parse", "HEAD").strip()
    assert head() == found
    parameters.write_text("b")
    assert head() == found
    code.write_text("b")
    assert head() == f"{found}-dirty"


def test_the_manifest_says_what_ran_and_where(folder):
    result = CliRunner().invoke(
        runner.main, ["--until", "prepare", "--pack", "out", "--commit", "abc", "--deadline", "60"]
    )
    assert result.exit_code == 0
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert (manifest["commit"], manifest["unfinished"]) == ("abc", [])
    assert manifest["device"]
    assert manifest["torch"]
