"""Bad input of every kind: one clear line, exit code 2, at once, and no output touched.

Parameters are tried in an interpreter of their own (tests/bad_params.py), to see that torch is not needed;
data, files and real commands here. Seconds are of CPU: a busy machine is no fault.
"""

import importlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import archives
import bad_params
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save as to_safetensors
from tiny import ROOT, ROW, stage, tiny_params, write_params

from tamnas import checkpoint
from tamnas.fields import read_yaml, write_yaml
from tamnas.network import Supernet
from tamnas.plan import load_row
from tamnas.space import SearchSpace
from tamnas.stage import write_csv, write_json
from tamnas.supernet import supernet_tensors

SECONDS = 5


def one_line(text: str) -> str:
    assert text.startswith("error: "), text
    assert text.endswith("\n"), text
    assert text.count("\n") == 1, text
    return text


# -- parameters --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("params")
    command = [sys.executable, str(ROOT / "tests" / "bad_params.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.parametrize("name", bad_params.cases())
def test_parameters(answers, name):
    found = answers["answers"][name]
    assert found["code"] == 2, found
    line = one_line(found["err"])
    assert "params.yaml: " in line
    assert len(line) < 500
    assert (found["out"], found["left"]) == ("", ["params.yaml"])
    assert found["seconds"] < SECONDS
    if not name.startswith("text: "):
        # A section's check may name the section first, a mode's check the mode: the last part is always there.
        assert name.split()[1].split(".")[-1] in line


def test_parameters_need_no_torch(answers):
    assert answers["heavy"] == []
    assert len(answers["answers"]) >= 130


# -- data --------------------------------------------------------------------------------------


def npz(**changes) -> Callable[[Path], dict]:
    """A dataset of `archives.npz` with arrays changed; a function is called with the array it replaces."""

    def make(folder: Path) -> dict:
        path = folder / "own.npz"
        arrays = archives.npz(path)
        archives.npz(path, **{key: one(arrays[key]) if callable(one) else one for key, one in changes.items()})
        return {"source": "npz", "path": str(path), "size": 8, "classes": 3, "validation": 12}

    return make


def npz_file(change: Callable[[Path], object]) -> Callable[[Path], dict]:
    def make(folder: Path) -> dict:
        data = npz()(folder)
        change(Path(data["path"]))
        return data

    return make


def pictures(change: Callable[[Path], object], classes: tuple[str, ...] = ("a", "b", "c")) -> Callable[[Path], dict]:
    def make(folder: Path) -> dict:
        root = folder / "pictures"
        archives.image_folder(root, 10, classes=classes)
        change(root)
        return {"source": "imagefolder", "path": str(root), "size": 8, "classes": 3, "validation": 6, "test": 9}

    return make


def link_out(root: Path) -> None:
    secret = root.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (root / "a" / "link.png").symlink_to(secret)


def texts_only(root: Path) -> None:
    for path in list(root.rglob("*.png")):
        path.rename(path.with_suffix(".txt"))


def with_pixel(value: float) -> Callable:
    def change(images: np.ndarray) -> np.ndarray:
        floats = (images / 255).astype(np.float32)
        floats[0, 0, 0, 0] = value
        return floats

    return change


DATA = {
    "npz missing": (npz_file(Path.unlink), "FileNotFoundError"),
    "npz a folder": (npz_file(lambda path: (path.unlink(), path.mkdir())), "IsADirectoryError"),
    "npz truncated": (npz_file(lambda path: os.truncate(path, path.stat().st_size // 2)), "cannot be read"),
    "npz altered": (npz_file(archives.damage), "cannot be read"),
    "npz without x_train": (npz(x_train=None), "x_train"),
    "npz with half a test split": (npz(y_test=None), "x_test and y_test"),
    "pickled images": (npz(x_train=np.array([{}], dtype=object)), "without pickle"),
    "NaN": (npz(x_train=with_pixel(np.nan)), "NaN"),
    "infinite": (npz(x_test=with_pixel(np.inf)), "infinite"),
    "floats above 1": (npz(x_train=with_pixel(1.5)), "allowed: 0 to 1"),
    "floats below 0": (npz(x_train=with_pixel(-0.5)), "allowed: 0 to 1"),
    "wrong dtype": (npz(x_train=lambda x: x.astype(np.int32)), "dtype int32"),
    "wrong shape": (npz(x_train=lambda x: x.transpose(0, 3, 1, 2)), "shape (60, 3, 8, 8)"),
    "wrong size": (npz(x_train=lambda x: x[:, :7, :7]), "7x7"),
    "label too large": (npz(y_train=lambda y: np.where(y == 2, 7, y)), "labels from 0 to 7"),
    "label negative": (npz(y_test=lambda y: y - 1), "labels from -1"),
    "labels of floats": (npz(y_train=lambda y: y.astype(float)), "dtype float64"),
    "fewer labels than images": (npz(y_train=lambda y: y[:-1]), "labels of shape"),
    "class missing": (npz(y_train=lambda y: np.where(y == 2, 1, y)), "class 2 of 3 has no image"),
    "class missing in test": (npz(y_test=lambda y: np.where(y == 2, 1, y)), "class 2 of 3 has no image"),
    "class missing in a split": (npz(y_train=np.array([2, 2, *[0, 1] * 29])), "class 2 has no image in the validation"),
    "one class only": (npz(y_train=lambda y: 0 * y), "has no image"),
    "other class names": (npz(classes=np.array(["cat", "dog"])), "the source has 2: cat, dog"),
    "split too large": (lambda folder: {**npz()(folder), "validation": 59}, "data.set.validation is 59"),
    "folder missing": (pictures(lambda root: root.rename(root.parent / "other")), "is not a folder"),
    "folder of text files": (pictures(texts_only), ".png"),
    "one class folder only": (pictures(lambda root: None, classes=("a",)), "the source has 1: a"),
    "bomb of an image": (pictures(lambda root: archives.png_header(root / "a" / "b.png", 60_000, 60_000)), "Bomb"),
    "large image": (pictures(lambda root: archives.png_header(root / "a" / "b.png", 8_001, 8_000)), "at most 64"),
    "link out of the folder": (pictures(link_out), "link out of the folder"),
    "image cut short": (pictures(lambda root: os.truncate(root / "a" / "0000.png", 40)), "not a readable image"),
    "text called png": (pictures(lambda root: (root / "a" / "b.png").write_text("text")), "not a readable image"),
    "digits of another size": (
        lambda folder: {"source": "digits", "size": 32, "classes": 10, "validation": 40, "test": 40},
        "8x8 pixels",
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty project, the working directory."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path / "project"


def invoke(script: str, *arguments: str):
    return CliRunner().invoke(importlib.import_module(f"stages.{script}").main, arguments)


def outputs(folder: Path) -> dict[str, bytes]:
    tops = ("data", "runs", "results", "reports")
    return {str(path): path.read_bytes() for top in tops for path in (folder / top).rglob("*") if path.is_file()}


def refused(folder: Path, words: str, script: str, *arguments: str) -> None:
    """Exit code 2, one line with `words`, within seconds, and no output made or changed."""
    before, started = outputs(folder), time.process_time()
    result = invoke(script, *arguments)
    assert time.process_time() - started < SECONDS
    assert result.exit_code == 2, result.exception
    assert words in one_line(result.stderr.splitlines(keepends=True)[-1])
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert outputs(folder) == before


@pytest.mark.parametrize("name", DATA)
def test_data(folder, name):
    make, words = DATA[name]
    raw = tiny_params()
    raw["data"] = {"set": make(folder.parent)}
    raw["run"] = {"datasets": ["set"], "rows": {"set-base": {"dataset": "set", "mode": "base"}}}
    write_params(folder, raw)
    assert invoke("plan").exit_code == 0
    refused(folder, words, "prepare", "set")


@pytest.mark.parametrize("source", ["cifar10", "svhn"])
def test_archives_with_a_wrong_checksum(folder, monkeypatch, source):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    getattr(archives, source)(folder.parent / "raw", monkeypatch)
    for path in (folder.parent / "raw").rglob("*"):
        if path.is_file():
            archives.damage(path)
    raw = tiny_params()
    raw["data"] = {"set": {"source": source, "path": str(folder.parent / "raw"), "validation": 20}}
    raw["run"] = {"datasets": ["set"], "rows": {"set-base": {"dataset": "set", "mode": "base"}}}
    write_params(folder, raw)
    assert invoke("plan").exit_code == 0
    refused(folder, f"no intact {source} archive", "prepare", "set")


# -- files of another version, another space, or damaged ----------------------------------------


@pytest.fixture
def project(folder) -> Path:
    """Plans, data, untrained weights and a front: what the middle stages need, in a moment."""
    write_params(folder, tiny_params())
    for arguments in (("plan",), ("prepare", "digits")):
        assert invoke(*arguments).exit_code == 0
    plan = load_row(ROW)
    space = SearchSpace.from_params(plan)
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(2)]
    front = [
        {"id": f"n{i}", "architecture": arch.plain(), "parameters": space.parameters(arch), "clean": 0.5, "robust": 0.4}
        for i, arch in enumerate(archs)
    ]
    write_json(folder / f"results/digits/search/{ROW}/fronts.json", {"format": 1, "front": front, "archive_front": []})
    checkpoint.write_weights(folder / f"runs/{ROW}/joint.safetensors", supernet_tensors(Supernet(space)), {"row": ROW})
    assert invoke("start_points", ROW).exit_code == 0
    return folder


JOINT, PLAN, DATA_FILE = f"runs/{ROW}/joint.safetensors", f"plan/{ROW}.yaml", "data/digits.npz"
FRONTS, STARTS = f"results/digits/search/{ROW}/fronts.json", f"runs/{ROW}/start-scratch.json"
FINETUNE, TRAINED = f"runs/{ROW}/start-finetune.safetensors", f"runs/{ROW}/retrain_scratch/n0.safetensors"
CARD = "results/digits/prepare/card.json"
SEARCH, SELECT = ("search", ROW), ("start_points", ROW)
SCRATCH, FINE, EVALUATE = ("retrain", "scratch", ROW), ("retrain", "finetune", ROW), ("evaluate", "scratch", ROW)


def rewritten(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A change of the plain contents of a YAML or JSON file."""

    def make(path: Path) -> None:
        plain = read_yaml(path) if path.suffix == ".yaml" else json.loads(path.read_text())
        change(plain)
        write_yaml(path, plain) if path.suffix == ".yaml" else write_json(path, plain)

    return make


def format_of(version) -> Callable[[Path], None]:
    """A file as another version would have written it."""

    def make(path: Path) -> None:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                kept = {name: arrays[name] for name in arrays.files if name != "format"}
            np.savez(path, **kept, **({} if version is None else {"format": version}))
        elif path.suffix == ".safetensors":
            tensors, meta = checkpoint.load(path)
            header = {"format": version, "meta": json.dumps(meta), "sha256": checkpoint._digest(tensors, "")}
            path.write_bytes(to_safetensors(tensors, {"tamnas": json.dumps(header)}))
        else:
            rewritten(lambda plain: plain.pop("format") if version is None else plain.update(format=version))(path)

    return make


def of_another_space(path: Path) -> None:
    space = SearchSpace(stem_channels=4, channels=(8, 12), repeats=(1, 1), strides=(2, 2), head=(8, 16, 16))
    checkpoint.write_weights(path, supernet_tensors(Supernet(space)), {"row": ROW})


def of_another_network(path: Path) -> None:
    """Weights whose tensors are not those of the architecture they are said to belong to."""
    tensors, meta = checkpoint.load(path)
    changed = {name: tensor[..., :1] if tensor.ndim == 4 else tensor for name, tensor in tensors.items()}
    checkpoint.write_weights(path, changed, meta)


def trained(change: Callable[[dict, dict], object]) -> Callable[[Path], None]:
    """A trained network's file, made from its start weights, with (tensors, record) changed."""

    def make(path: Path) -> None:
        start, meta = checkpoint.load(path.parents[1] / "start-finetune.safetensors")
        own = {name.removeprefix("n0."): tensor for name, tensor in start.items() if name.startswith("n0.")}
        tensors = {f"{kind}.{name}": tensor.clone() for kind in ("last", "best") for name, tensor in own.items()}
        share = {"epoch": 0, "clean": 0.5, "robust": 0.4}
        record = {**meta["networks"][0], "parameters": 1, "epochs": 1, "last": share, "best": share}
        meta = {"record": record}
        change(tensors, meta)
        checkpoint.write_weights(path, tensors, meta)

    return make


def without_rows(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """As for a run of which nothing but the data is there."""

    def make(path: Path) -> None:
        for made in ("search", "select"):
            shutil.rmtree(path.parents[1] / made)
        change(path)

    return make


FILES = {
    "plan of a newer version": (PLAN, format_of(2), SEARCH, "format 2 is of a newer tamnas"),
    "plan of an unknown version": (PLAN, format_of("x"), SEARCH, "format 'x'; this tamnas reads 1: run the plan"),
    "plan without a version": (PLAN, format_of(None), SEARCH, "no format"),
    "plan with an unknown key": (PLAN, rewritten(lambda plan: plan["search"].update(new=1)), SEARCH, "search.new"),
    "plan cut short": (PLAN, lambda path: os.truncate(path, 300), SEARCH, PLAN),
    "data of a newer version": (DATA_FILE, format_of(2), SCRATCH, "format 2 is of a newer tamnas"),
    "data of an older version": (DATA_FILE, format_of(None), SCRATCH, "run the prepare stage again"),
    "data cut short": (DATA_FILE, lambda path: os.truncate(path, 300), SCRATCH, DATA_FILE),
    "weights of a newer version": (JOINT, format_of(2), SEARCH, "format 2 is of a newer tamnas"),
    "weights of an unknown version": (JOINT, format_of(0), SEARCH, "use the version that wrote it"),
    "weights of another space": (JOINT, of_another_space, SEARCH, "another space?"),
    "weights altered": (JOINT, archives.damage, SEARCH, "damaged"),
    "weights cut short": (JOINT, lambda path: os.truncate(path, 1000), SEARCH, "damaged"),
    "weights that are text": (JOINT, lambda path: path.write_text("weights"), SELECT, "damaged"),
    "weights with a huge header": (JOINT, lambda path: path.write_bytes(struct.pack("<Q", 2**62)), SELECT, "damaged"),
    "weights missing": (JOINT, Path.unlink, SEARCH, "is missing"),
    "front of a newer version": (FRONTS, format_of(2), SELECT, "format 2 is of a newer tamnas"),
    "front without a version": (FRONTS, format_of(None), SELECT, "no format"),
    "front that is no JSON": (FRONTS, lambda path: path.write_text("{"), SELECT, FRONTS),
    "front with a block of no layer": (
        FRONTS, rewritten(lambda plain: plain["front"][0]["architecture"]["blocks"].__setitem__(0, 20)),
        SELECT, "block 20 at layer 0",
    ),
    "front with a ratio of no space": (
        FRONTS, rewritten(lambda plain: plain["front"][0]["architecture"]["ratios"].__setitem__(0, 0.3)),
        SELECT, "ratio 0.3 at layer 0",
    ),
    "start points of a newer version": (STARTS, format_of(2), SCRATCH, "format 2 is of a newer tamnas"),
    "start point of another depth": (
        STARTS, rewritten(lambda plain: plain["networks"][0].update(architecture={"blocks": [0], "ratios": [1.0]})),
        SCRATCH, "1 layers; this space has 3",
    ),
    "start point whose name leaves its folder": (
        STARTS, rewritten(lambda plain: plain["networks"][0].update(id="../../../escaped")), SCRATCH, "a plain name",
    ),
    "start weights of another network": (FINETUNE, of_another_network, FINE, "this network's has"),
    "start weights of a newer version": (FINETUNE, format_of(2), FINE, "format 2 is of a newer tamnas"),
    "trained weights of another network": (
        TRAINED, trained(lambda tensors, meta: tensors.pop("best.first_layer.weight")), EVALUATE, "this network's has",
    ),
    "trained weights of another architecture": (
        TRAINED, trained(lambda tensors, meta: meta["record"].update(architecture={"blocks": [0], "ratios": [1.0]})),
        EVALUATE, "1 layers; this space has 3",
    ),
    "a checkpoint of something else": (
        TRAINED, trained(lambda tensors, meta: meta.pop("record")), EVALUATE, "holds no trained network",
    ),
    "no trained weights at all": (TRAINED, lambda path: path.parent.mkdir(), EVALUATE, "holds no trained network"),
    "tables without a data card": (CARD, without_rows(Path.unlink), ("tables",), CARD),
    "data card of a newer version": (CARD, without_rows(format_of(2)), ("tables",), "newer tamnas"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files(project, name):
    file, change, command, words = FILES[name]
    change(project / file)
    refused(project, words, *command)


def test_a_csv_without_its_columns(project):
    from tamnas.errors import InputError
    from tamnas.report.collect import read_csv

    path = project / "results" / "grid.csv"
    good = {"network": "a", "weights": "best", "eps": "8/255", "steps": 1, "success": "any", "images": 1, "accuracy": 1}
    write_csv(path, [good])
    assert read_csv(path)[0]["accuracy"] == 1
    for damage, words in (
        (lambda text: text.replace("accuracy", "precision"), "no column 'accuracy'"),
        (lambda text: text[:-4], "line 2 is cut short"),
        (lambda text: text.replace("best", "be,st"), "line 2 is cut short or too long"),
        (lambda text: "", "no column"),
    ):
        write_csv(path, [good])
        path.write_text(damage(path.read_text()))
        with pytest.raises(InputError, match=words):
            read_csv(path)


# -- real commands -----------------------------------------------------------------------------


COMMANDS = {
    "plan without params.yaml": (lambda raw: None, ("plan.py",), "params.yaml: cannot be read"),
    "plan with eps 0": (lambda raw: raw["supernet"].update(eps=0), ("plan.py",), "supernet.eps"),
    "plan with a tournament above the population": (
        lambda raw: raw["search"].update(tournament=7), ("plan.py",), "tournament: 7 is larger than the population, 6",
    ),
    "plan with a budget that no network meets": (
        lambda raw: raw["search"].update(budget=[1, 2]), ("plan.py",), "no architecture has 1 to 2 parameters",
    ),
    "plan with a misspelt key": (
        lambda raw: raw["retrain"]["scratch"].update(epochz=raw["retrain"]["scratch"].pop("epochs")),
        ("plan.py",), "retrain.scratch.epochz: no such parameter; did you mean 'epochs'?",
    ),
    "plan with a mode with a dot": (lambda raw: raw["modes"].update({"a.b": {}}), ("plan.py",), "modes.a.b"),
    "prepare without a plan": (lambda raw: raw, ("prepare.py", "digits"), "no such plan"),
    "search without a plan": (lambda raw: raw, ("search.py", ROW), "no such plan"),
    "supernet of a row that is a path": (lambda raw: raw, ("supernet.py", "block", "../row"), "no such plan"),
    "tables without plans": (lambda raw: raw, ("tables.py",), "no plans"),
}  # fmt: skip


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("name", COMMANDS)
def test_real_commands(folder, name):
    change, command, words = COMMANDS[name]
    raw = tiny_params()
    change(raw)
    if name != "plan without params.yaml":
        write_params(folder, raw)
    before, started = sorted(folder.rglob("*")), cpu_seconds()
    process = stage(folder, *command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    output, errors = process.communicate(timeout=120)
    assert cpu_seconds() - started < SECONDS
    assert (process.returncode, output) == (2, "")
    assert words in one_line(errors)
    assert [path for path in sorted(folder.rglob("*")) if ".checkpoints" not in path.parts] == before


@pytest.mark.parametrize("module", ["tamnas.runner", "tamnas.profile"])
def test_other_commands(folder, module):
    raw = tiny_params()
    raw["seed"] = -1
    write_params(folder, raw)
    arguments = ["smoke"] if module == "tamnas.profile" else []
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    one_line(done.stderr)
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


def test_a_malicious_file_is_not_run(project):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(project / "executed"),)

    for save in (torch.save, lambda bomb, path: np.save(path.open("wb"), np.array(bomb), allow_pickle=True)):
        for file, command in ((JOINT, SEARCH), (DATA_FILE, SCRATCH)):
            kept = (project / file).read_bytes()
            save(Bomb(), project / file)
            refused(project, file, *command)
            (project / file).write_bytes(kept)
    assert not (project / "executed").exists()
