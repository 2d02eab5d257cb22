"""What the benchmarks on real images share: CIFAR-10 at 16x16, parameters to train on it, single trainings.

Images: `--cifar10` names an npz of the 32x32 arrays x_train, y_train, x_test, y_test (uint8); the splits
at 16x16 are made beside it. Test images are never looked at.
"""

import json
import time
from pathlib import Path

import click

from benchmarks.harness import environment
from tamnas.config.fields import read_yaml
from tamnas.config.params import merge
from tamnas.config.plan import RowPlan
from tamnas.config.resolve import parse_params, resolve_row
from tamnas.data.prepare import IN_PROCESS, prepare
from tamnas.errors import DivergenceError, InputError
from tamnas.files import FORMAT, file_digest, read_json, write_json
from tamnas.pipeline import checkpoint, device
from tamnas.pipeline.store import key_of, locked
from tamnas.records import Job, NetworkSpec
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace
from tamnas.training.networks import TrainingTask, train_networks

DATA = {"source": "npz", "size": 16, "classes": 10, "validation": 5000, "augment": {"pad": 2, "flip": True}}
# Looked at after the last epoch alone: a best epoch chosen by it would flatter what varies most.
VALIDATION = {"start": 1.0, "attack": {"eps": "8/255", "steps": 20}}


def options(command):
    for option in (
        click.option("--table", is_flag=True, help="Compute nothing, print what there is."),
        click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results."),
        click.option("--cifar10", type=click.Path(path_type=Path), required=True, help="npz of the 32x32 images."),
    ):
        command = option(command)
    return command


def plans(cifar10: Path, patch: dict, modes: dict[str, dict], train: int | None = None) -> dict[str, RowPlan]:
    """params.yaml under `patch`, with a row for each of `modes`, on `train` images (None: all). Raises InputError."""
    data = DATA | {"path": str(cifar10), "train": train}
    raw = merge(read_yaml("params.yaml"), {"data": {"cifar10": data}, "retrain": {"validation": VALIDATION}})
    rows = {mode: {"dataset": "cifar10", "mode": mode} for mode in modes}
    run = {"datasets": ["cifar10"], "rows": rows}
    params = parse_params(merge(raw, patch) | {"run": run, "modes": modes})
    return {name: resolve_row(params, name) for name in rows}


def prepared(cifar10: Path, plan: RowPlan) -> Path:
    """The plan's splits at 16x16, made beside the 32x32 images unless they are there."""
    digest = key_of({"data": plan.data.plain() | {"path": None}, "images": file_digest(cifar10)})
    splits = cifar10.with_name(f"{cifar10.stem}-{plan.data.size}-{digest[:12]}.npz")
    with locked("prepare", splits.stem, splits.parent):  # both parts of a benchmark may start at once
        if not splits.exists():
            prepare("cifar10", plan.data, splits)
    return splits


def answer_in(path: Path, asked: dict) -> dict | None:
    """What `path` holds, None where it is not. Raises InputError if it answers another question than `asked`."""
    if not path.exists():
        return None
    found, asked = read_json(path), json.loads(json.dumps(asked))
    if other := [key for key, value in asked.items() if found.get(key) != value]:
        raise InputError(f"{path}: was computed with another {other[0]}; allowed: the same, or another --out")
    return found


def trained(plan: RowPlan, arch: Architecture, name: str, seed: int, data: Path, out: Path) -> dict:
    """What training `arch` from scratch gave; kept as `out/name.json`, read from there when it is done.

    Training that was cut off goes on from its checkpoint. Equal seeds: equal weights (of equal shapes), batches and
    noise. CPU seconds only where nothing was cut off.
    """
    scratch, space = plan.retrain.scratch, SearchSpace.from_params(plan)
    asked = setting(plan) | {"name": name, "seed": seed, "training": scratch.plain(), "architecture": arch.plain()}
    asked |= {"validation": plan.retrain.validation.attack.text}
    path, weights = out / f"{name}.json", out / "weights" / key_of(asked)
    if found := answer_in(path, asked):
        return found
    task = TrainingTask(
        space=space,
        data=data,
        validation=plan.retrain.validation,
        augment=plan.data.augment,
        numerics=plan.numerics,
        compute=IN_PROCESS,
        folder=weights,
    )
    fresh, before = not weights.exists(), time.process_time()
    result = asked | measured(plan) | {"parameters": space.parameters(arch)}
    try:
        (record,) = train_networks(task, [Job(NetworkSpec(name, arch), scratch, (seed, "benchmark"))], name).records
    except DivergenceError as error:
        result |= {"diverged": error.details, "clean": 0.0, "robust": 0.0}
    else:
        result |= {"clean": record.last.clean, "robust": record.last.robust}
        result |= {"cpu_seconds": time.process_time() - before if fresh else None}
        result |= {"history": checkpoint.load(weights / f"{name}.safetensors")[1]["history"]}
    write_json(path, result)
    return result


def setting(plan: RowPlan) -> dict:
    """What a record says of its images and its networks' geometry."""
    data = {key: value for key, value in plan.data.plain().items() if key not in ("source", "path", "url")}
    return {"format": FORMAT, "data": data, "network": plan.network.plain()}


def measured(plan: RowPlan) -> dict:
    """What a record says of the processor and the commit."""
    where = device.start(plan.numerics, IN_PROCESS).device
    return {"measured": environment(where, plan.numerics.threads, 1)}
