"""Files of another version, of another space, or damaged: one clear line, exit code 2, and no output touched."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save as to_safetensors

from tamnas.config.fields import read_yaml, write_yaml
from tamnas.config.plan import SearchStagePlan
from tamnas.errors import InputError
from tamnas.files import require_format, write_csv, write_json
from tamnas.networks.supernet import Supernet
from tamnas.networks.trained import supernet_tensors
from tamnas.pipeline import checkpoint
from tamnas.report.collect import read_csv
from tamnas.space.space import SearchSpace
from tests.helpers.refusals import refused
from tests.helpers.tiny import ROW, invoke, run_here, tiny_params, write_params


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Plans, data, untrained weights and a front: what the middle stages need, in a moment."""
    folder = tmp_path_factory.mktemp("made")
    write_params(folder, tiny_params())
    run_here(folder, "plan", "prepare")
    with chdir(folder):
        plan = SearchStagePlan.load(ROW, "search")
        space = SearchSpace.from_params(plan)
        archs = [space.sample(np.random.default_rng(seed)) for seed in range(2)]
        shares = {"clean": 0.5, "robust": 0.4}
        front = [
            {"id": f"n{i}", "architecture": arch.plain(), "parameters": space.parameters(arch), **shares}
            for i, arch in enumerate(archs)
        ]
        write_json(Path(FRONTS), {"format": 1, "archive": front, "population": []})
        checkpoint.write_weights(Path(JOINT), supernet_tensors(Supernet(space)), {"row": ROW})
        assert invoke("select", ROW).exit_code == 0
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


JOINT, PLAN, DATA_FILE = f"runs/{ROW}/joint.safetensors", f"plan/{ROW}/search.yaml", "data/digits.npz"
FRONTS, STARTS = f"results/digits/search/{ROW}/fronts.json", f"runs/{ROW}/start-scratch.json"
FINETUNE, TRAINED = f"runs/{ROW}/start-finetune.safetensors", f"runs/{ROW}/retrain_scratch/n0.safetensors"
CARD = "results/digits/prepare/card.json"
SEARCH, SELECT = ("search", ROW), ("select", ROW)
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
    "weights cut short": (JOINT, lambda path: os.truncate(path, 1000), SEARCH, "damaged"),
    "weights missing": (JOINT, Path.unlink, SEARCH, "is missing"),
    "front of a newer version": (FRONTS, format_of(2), SELECT, "format 2 is of a newer tamnas"),
    "front without a version": (FRONTS, format_of(None), SELECT, "no format"),
    "front that is no JSON": (FRONTS, lambda path: path.write_text("{"), SELECT, FRONTS),
    "front with a block of no layer": (
        FRONTS, rewritten(lambda plain: plain["archive"][0]["architecture"]["blocks"].__setitem__(0, 20)),
        SELECT, "block 20 at layer 0",
    ),
    "front with a ratio of no space": (
        FRONTS, rewritten(lambda plain: plain["archive"][0]["architecture"]["ratios"].__setitem__(0, 0.3)),
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
    "trained weights with a damaged record": (
        TRAINED, trained(lambda tensors, meta: meta["record"]["best"].pop("robust")), EVALUATE, f"{TRAINED}: record",
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


@pytest.mark.parametrize("given", [True, 1.0, "1", None])
def test_a_format_is_a_whole_number(given):
    with pytest.raises(InputError, match=r"format"):
        require_format("file", given, "write it again")


def test_a_damaged_csv(tmp_path):
    path = tmp_path / "grid.csv"
    good = {"network": "a", "weights": "best", "attack": "pgd1_8_255", "eps": "8/255", "steps": 1, "success": "any",
            "images": 1, "accuracy": 1, "missed": None}  # fmt: skip
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
