"""The committed parameters, shrunk until a whole run takes seconds; and a project to run them in."""

import contextlib
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from tamnas.config.resolve import parse_params
from tamnas.pipeline import profiles as profile
from tamnas.pipeline.runner import call
from tamnas.pipeline.stages import Instance, instances

ROOT = Path(__file__).parents[2]
ROW = "digits-base"
REPORTED = ("reports/README.md", "reports/claims.md", "reports/metrics.json", "reports/tables", "reports/plots")
IN_PROCESS = {"engine": "inline", "workers": 1, "device": "cpu", "checkpoint_seconds": 0}  # saves as often as it can
CONTROLS_ON = {
    "random_networks": True,
    "random_search": True,
    "legonet": {"reversed": True, "uniform": True, "random": 2},
    "finetune_lr": [0.01],
    "finetune_equal_budget": True,
    "common_attack": {"eps": "4/255", "attack_steps": 2},
}


def tiny_params() -> dict:
    """params.yaml as plain data: one row, two epochs of everything, a small search."""
    return shrink(YAML(typ="safe", pure=True).load(ROOT / "params.yaml"))


def shrink(raw: dict) -> dict:
    """Parameters as plain data, changed in place until a whole run of one row takes seconds."""
    for data in raw["data"].values():
        if data["source"] == "digits":
            data.update(train=160, validation=40, test=40)
    raw["network"].update(stem_channels=4, channels=[8, 12, 16], repeats=[1, 1, 1])
    raw["network"]["head"] = {"conv": 8, "hidden": 16, "out": 16}
    raw["supernet"]["schedule"]["warmup"] = 1
    raw["supernet"]["block"]["epochs"] = 2
    raw["supernet"]["joint"]["epochs"] = 3
    raw["supernet"]["joint"]["open_ratios"] = {"first": 2, "after": 1, "every": 1}
    raw["search"].update(population=6, offspring=6, generations=2, tournament=3, bn_calibration_images=64)
    raw["retrain"]["max_subnets"] = 3
    for recipe in (raw["retrain"]["scratch"], raw["retrain"]["finetune"], raw["baselines"]["training"]):
        recipe.update(epochs=3, batch_size=32)
    raw["eval"].update(eps=["4/255", "8/255"], steps=[1, 3], final=[{"eps": "8/255", "steps": 4}])
    raw["eval"]["attacks"] = [{"kind": "apgd_ce", "eps": "8/255", "images": 8, "batch_size": 4}]
    raw["compute"] = dict(IN_PROCESS)
    return raw


def pool(raw: dict) -> dict:
    """Parameters of one row, changed in place: the pooled Lego-Net has a mode of its own, and so is trained, too."""
    raw["modes"]["pooled"] = {}
    raw["legonet"] = {**raw["legonet"], "pooled_mode": {"digits": "pooled"}}
    return raw


def smallest_params() -> dict:
    """Smaller than `tiny_params`: every stage runs dozens of times."""
    raw = tiny_params()
    raw["data"]["digits"].update(train=96, validation=20, test=20)
    raw["retrain"]["max_subnets"] = 2
    raw["baselines"]["training"]["epochs"] = 2
    raw["controls"].update(random_search=True, legonet={"reversed": True, "random": 0})  # else their stages do nothing
    raw["eval"].update(steps=[1, 2], final=[{"eps": "8/255", "steps": 3}])
    return pool(raw)


def smoke_params(*rows: str) -> dict:
    """params.yaml under the profile `smoke`, as plain data, in one process, with these of its rows (none: all)."""
    yaml = YAML(typ="safe", pure=True)
    raw = yaml.load(ROOT / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "PROFILES", ROOT / "profiles")
        profile.overlay(raw, profile.read_profile("smoke"))
    if rows:
        raw["run"]["rows"] = {row: raw["run"]["rows"][row] for row in rows}
        raw["run"]["datasets"] = sorted({row["dataset"] for row in raw["run"]["rows"].values()})
    raw["compute"] = dict(IN_PROCESS)
    return raw


def write_params(folder: Path, raw: dict) -> None:
    yaml = YAML(pure=True)
    yaml.default_flow_style = False
    yaml.dump(raw, folder / "params.yaml")


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    """These of its files and all below these of its folders, by path."""
    found = [path for name in names for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def keys(folder: Path, stage: str) -> list[Path]:
    """The folders of a stage's checkpoints for the tiny row, one for each key."""
    return [path for path in (folder / ".checkpoints" / stage / ROW).iterdir() if path.is_dir()]


def result_of(folder: Path, stage: str, name: str) -> dict:
    """A JSON file of the tiny row's stage."""
    return json.loads((folder / "results" / "digits" / stage / ROW / "seed-0" / name).read_text())


def stage(folder: Path, *arguments: str) -> subprocess.Popen:
    """`python -m stages.<...>` of this checkout in `folder`, which has parameters and no code."""
    command = [sys.executable, "-m", f"stages.{arguments[0]}", *arguments[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def invoke(script: str, *arguments: str) -> Result:
    """The script's click command in this process."""
    return CliRunner().invoke(importlib.import_module(f"stages.{script}").main, arguments)


def planned(raw: dict) -> list[Instance]:
    """Every stage instance of a run with these parameters, in order."""
    params = parse_params(raw)
    return instances({name: row.dataset for name, row in params.run.rows.items()}, params.run.datasets)


def run_here(folder: Path, *names: str) -> None:
    """The stages of these names (none: all) on the parameters in `folder`, in this process."""
    raw = YAML(typ="safe", pure=True).load(folder / "params.yaml")
    with contextlib.chdir(folder):
        for one in planned(raw):
            if not names or one.stage.name in names:
                call(one)


def refuse_connections(patch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError(f"a connection was opened: {args}")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        patch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        patch.setattr(socket, name, refuse)


def finish_run(folder: Path) -> None:
    """A whole tiny run in `folder`, with figures that are not written.

    Test images are read by evaluations alone, and nothing opens a connection.
    """
    from tests.helpers.small_results import leave_unwritten

    write_params(folder, tiny_params())
    evaluates, read_by_evaluations = False, set()
    read = np.lib.npyio.NpzFile.__getitem__

    def read_and_noted(arrays, name):
        assert evaluates or not name.endswith("_test")
        read_by_evaluations.update([name] if evaluates else [])
        return read(arrays, name)

    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        refuse_connections(patch)
        for variable in ("DVC_ROOT", "TAMNAS_CHECKPOINTS"):
            patch.delenv(variable, raising=False)
        patch.setattr(np.lib.npyio.NpzFile, "__getitem__", read_and_noted)
        leave_unwritten(patch)
        for one in planned(tiny_params()):
            evaluates = evaluates or one.stage.name.startswith("evaluate")
            call(one)
    assert {"x_test", "y_test"} <= read_by_evaluations


def copy_of(source: Path, target: Path, *names: str) -> None:
    """Some of a run's folders into `target`, and its parameters, if `target` has none of its own."""
    for name in names:
        shutil.copytree(source / name, target / name)
    if not (target / "params.yaml").exists():
        shutil.copy(source / "params.yaml", target)


def environment() -> dict[str, str]:
    """For `dvc`: the stages' `python` is this interpreter, its code that of the project; no outer DVC run is seen."""
    found = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return {name: value for name, value in found.items() if name not in ("DVC_ROOT", "PYTHONPATH")}


def dvc(folder: Path, *arguments: str, check: bool = True) -> str:
    """The output of a real `dvc` command."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment(), capture_output=True, text=True
    )
    if check and done.returncode:
        raise AssertionError(f"dvc {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def project(folder: Path, raw: dict) -> Path:
    """A git and DVC repository with the real dvc.yaml and code, and `raw` as its parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("tamnas", "stages", "plugins", "live"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    write_params(folder, raw)
    git(folder, "init", "--quiet", "--initial-branch=main")
    dvc(folder, "init", "--quiet")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots", dirs_exist_ok=True)
    dvc(folder, "config", "core.analytics", "false")
    dvc(folder, "config", "core.autostage", "false")
    commit(folder, "start")
    return folder


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
