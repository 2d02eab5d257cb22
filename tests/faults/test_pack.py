"""A run packed into an archive: all of it comes back, and nothing but data out of a stranger's."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from tamnas.errors import InputError
from tamnas.pipeline import runner
from tamnas.pipeline.pack import head, keep, pack, unpack, unpack_command
from tests.helpers.tiny import REPORTED, ROW, commit, contents, git, result_of, tiny_params, write_params

FACTS = {"format": 1, "commit": "abc", "device": "cpu", "python": "3", "torch": "2", "seconds": 1.0, "unfinished": []}


@pytest.mark.system
def test_a_packed_run_comes_back_and_its_reports_can_be_made_again(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    manifest = pack(tmp_path, FACTS)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["manifest.json", "run.tar.gz"]
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["left_out"] == []
    first = (tmp_path / "run.tar.gz").read_bytes()
    pack(tmp_path, FACTS)
    assert (tmp_path / "run.tar.gz").read_bytes() == first

    back = tmp_path / "back"
    unpack(tmp_path, back)
    assert contents(back, "results", "reports", "plan") == contents(finished_run, "results", "reports", "plan")
    assert contents(back, "logs") == contents(finished_run, "logs")
    monkeypatch.chdir(back)
    shutil.rmtree("reports")
    runner.run(only=["tables"])
    assert contents(back, *REPORTED) == contents(finished_run, *REPORTED)
    # the shown weights alone are there, and they evaluate as before
    shutil.copytree(finished_run / "data", "data")
    runner.run(only=["evaluate_scratch"])
    path = Path("results/digits/evaluate_scratch") / ROW / "seed-0" / "grid.csv"
    assert path.read_bytes() == (finished_run / path).read_bytes()


@pytest.mark.slow
def test_another_recipe_is_tried_on_what_a_packed_run_found(finished_run, tmp_path, monkeypatch):
    """As docs/gpu.md has it: Lego-Net of all its networks, then the best of these alone."""
    monkeypatch.chdir(finished_run)
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "packed", FACTS)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(unpack_command, ["packed", "--best"])
    assert result.exit_code == 0, result.output
    raw = tiny_params()
    raw["network"].update(strides=[1, 2, 2], activation="silu")
    raw["retrain"]["scratch"].update(epochs=2, label_smoothing=0.1, ema=0.9)
    write_params(tmp_path, raw)
    shutil.copytree(finished_run / "data", "data")
    assert runner.run(only=["legonet", "evaluate_legonet"]).unfinished == []
    assert runner.run(only=["retrain_scratch", "evaluate_scratch", "tables"]).unfinished == []

    before = result_of(finished_run, "retrain_scratch", "validation.json")["networks"]
    (best,) = result_of(tmp_path, "retrain_scratch", "validation.json")["networks"]
    robust = {one["id"]: one["last"]["robust"] for one in before}
    assert robust[best["id"]] == max(robust.values())
    assert f"keeps {best['id']}" in result.output
    votes = [Path("results/digits/legonet") / ROW / name for name in ("counts.csv", "statistics.json")]
    assert [path.read_bytes() for path in votes] == [(finished_run / path).read_bytes() for path in votes]
    for stage in ("legonet", "retrain_scratch"):
        ours, theirs = (result_of(root, stage, "validation.json")["networks"] for root in (tmp_path, finished_run))
        assert ours[0] not in theirs
    assert "label smoothing" in (tmp_path / "reports" / "README.md").read_text()


def packed(folder: Path) -> list[str]:
    with tarfile.open(folder / "run.tar.gz") as tar:
        return tar.getnames()


def test_the_most_robust_networks_are_packed_first(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    pack(tmp_path, FACTS)
    robust = {
        f"runs/{ROW}/{kind}/{one['id']}.safetensors": one["best"]["robust"]
        for kind in ("retrain_scratch", "retrain_finetune")
        for one in result_of(finished_run, kind, "validation.json")["networks"]
    }
    assert list(robust.values()) != sorted(robust.values(), reverse=True)
    shares = [robust[name] for name in packed(tmp_path) if name in robust]
    assert shares == sorted(robust.values(), reverse=True)


def test_the_pack_keeps_to_its_limit_and_leaves_out_the_least(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    monkeypatch.setattr("tamnas.pipeline.pack.MIB", 2**20 // 16)
    manifest = pack(tmp_path, FACTS, 24, with_checkpoints=True)
    assert (tmp_path / "run.tar.gz").stat().st_size <= 24 * 2**20 // 16
    assert manifest["left_out"]
    assert not [path for path in manifest["left_out"] if path.startswith("results")]  # worth most


def test_checkpoints_are_packed_newest_first_and_a_run_goes_on_from_them(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    pack(tmp_path, FACTS, with_checkpoints=True)
    kept = [Path(name) for name in packed(tmp_path) if name.startswith(".checkpoints")]
    assert kept == sorted(kept, key=lambda path: path.stat().st_mtime, reverse=True)
    back = tmp_path / "back"
    unpack(tmp_path, back)
    assert not list(back.rglob("*.previous")) + list(back.rglob("*.lock"))
    monkeypatch.chdir(back)
    shutil.copytree(finished_run / "data", "data")
    (trained,) = Path(".checkpoints").glob(f"retrain_scratch/{ROW}/*/n01.safetensors")
    before = trained.stat().st_mtime_ns
    assert runner.run(only=["retrain_scratch", "retrain_finetune", "legonet"]).unfinished == []
    assert trained.stat().st_mtime_ns == before
    assert contents(back, "results") == contents(finished_run, "results")


def test_a_damaged_or_missing_file_is_one_line(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    pack(tmp_path, FACTS)
    archive = tmp_path / "run.tar.gz"
    blob = bytearray(archive.read_bytes())
    blob[1000] ^= 1
    archive.write_bytes(blob)
    with pytest.raises(InputError, match=r"run.tar.gz: is damaged"):
        unpack(tmp_path, tmp_path / "back")
    archive.unlink()
    with pytest.raises(InputError, match=r"run.tar.gz: is missing"):
        unpack(tmp_path, tmp_path / "back")
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"manifest.json: commit is missing: no manifest of a packed run"):
        unpack(tmp_path, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def packed_by_a_stranger(folder: Path, blob: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.tar.gz").write_bytes(blob)
    digest = hashlib.sha256(blob).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**FACTS, "files": 1, "left_out": [], "sha256": digest}))
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
        archive("results/bomb.json", size=2**21 + 1),
        archive("results/x.json")[:-20],
        b"no archive",
        b"",
    ],
)
def test_a_strangers_pack_writes_nothing_but_data(tmp_path, monkeypatch, blob):
    monkeypatch.setattr("tamnas.pipeline.pack.MOST", 1)
    packed = packed_by_a_stranger(tmp_path / "packed", blob)
    with pytest.raises(InputError, match="packed: "):
        unpack(packed, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_what_stays_of_a_run(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "packed", FACTS)
    target = tmp_path / "docs" / "digits"
    target.mkdir(parents=True)
    (target / "comparison.md").write_text("by hand")
    keep(tmp_path / "packed", target)
    assert contents(target, "reports", "results", "plan") == contents(finished_run, "reports", "results", "plan")
    assert (target / "params.yaml").read_bytes() == (finished_run / "params.yaml").read_bytes()
    page = (target / "run.md").read_text()
    assert "- Commit: abc\n" in page
    assert f"| supernet_block | {ROW} |" in page
    assert (target / "comparison.md").read_text() == "by hand"
    assert not list(target.rglob("*.safetensors"))


def test_what_unpack_would_refuse_is_left_out_by_name(finished_run, tmp_path, monkeypatch):
    copy = shutil.copytree(finished_run, tmp_path / "copy", ignore=shutil.ignore_patterns(".checkpoints"))
    monkeypatch.chdir(copy)
    stray = Path(f"plan/{ROW}/search.yaml.tmp")
    stray.touch()
    manifest = pack(tmp_path / "packed", FACTS)
    assert manifest["left_out"] == [f"{stray.as_posix()} (no data of a run)"]
    assert unpack(tmp_path / "packed", tmp_path / "back") == manifest


def test_weights_of_controls_are_packed_last(finished_run, tmp_path, monkeypatch):
    copy = shutil.copytree(finished_run, tmp_path / "copy", ignore=shutil.ignore_patterns(".checkpoints"))
    monkeypatch.chdir(copy)
    trained, small = Path(f"runs/{ROW}/retrain_scratch"), Path("results/digits/retrain_scratch") / ROW / "seed-0"
    controls = Path(f"runs/{ROW}/controls/seed-0")
    shutil.copytree(trained, controls)
    shutil.copytree(small, Path("results/digits/controls") / ROW / "seed-0", dirs_exist_ok=True)
    pack(tmp_path / "packed", FACTS)
    names = [name for name in packed(tmp_path / "packed") if name.endswith(".safetensors")]
    own = [name for name in names if name.startswith(controls.as_posix())]
    assert len(own) == len(list(controls.glob("*.safetensors"))) > 0
    assert names[-len(own) :] == own


@pytest.mark.parametrize("lacking", ["params.yaml", "logs/times.csv"])
def test_keep_changes_nothing_for_an_archive_that_lacks_what_it_needs(tmp_path, lacking):
    (there,) = {"params.yaml", "logs/times.csv"} - {lacking}
    packed = packed_by_a_stranger(tmp_path / "packed", archive(there))
    target = tmp_path / "kept"
    (target / "results").mkdir(parents=True)
    (target / "results" / "old.csv").touch()
    with pytest.raises(InputError, match=f"packed: the archive lacks {lacking}; nothing was written"):
        keep(packed, target)
    assert [path.name for path in target.rglob("*")] == ["results", "old.csv"]


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


def test_the_manifest_says_what_ran_and_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    result = CliRunner().invoke(
        runner.main, ["--until", "prepare", "--pack", "out", "--commit", "abc", "--deadline", "60"]
    )
    assert result.exit_code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["commit"], manifest["unfinished"]) == ("abc", [])
    assert manifest["device"]
    assert manifest["torch"]
