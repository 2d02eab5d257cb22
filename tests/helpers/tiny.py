"""The committed parameters, shrunk until a whole run takes seconds; and a project to run them in."""

import contextlib
import importlib
import json
import os
import shutil
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
IN_PROCESS = {"engine": "inline", "workers": 1, "device": "cpu", "checkpoint_seconds": 0}  # saves as often as it can


def tiny_params() -> dict:
    """params.yaml as plain data: one row, two epochs of everything, a small search."""
    raw = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    raw["data"]["digits"].update(train=160, validation=40, test=40)
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
    raw["compute"] = dict(IN_PROCESS)
    return raw


def quick_params() -> dict:
    """Tiny, and without the hand-made network, which takes longer than all else."""
    raw = tiny_params()
    raw["baselines"]["names"] = []
    return raw


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
    """All files below these folders of `folder`."""
    files = [path for name in names for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


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


def finish_run(folder: Path) -> None:
    """A whole tiny run in `folder`; its test images are hidden from every stage before the first evaluation."""
    write_params(folder, tiny_params())
    data, hidden = folder / "data" / "digits.npz", {}
    with contextlib.chdir(folder):
        for one in planned(tiny_params()):
            if one.stage.name.startswith("evaluate") and hidden:
                np.savez(data, **hidden)
                hidden = {}
            call(one)
            if one.stage.name == "prepare":
                prepared = data.read_bytes()
                with np.load(data) as arrays:
                    hidden = dict(arrays)
                np.savez(data, **{name: array for name, array in hidden.items() if not name.endswith("_test")})
    data.write_bytes(prepared)


def files(folder: Path, *tops: str) -> dict[str, bytes]:
    """Every file below these of its folders, by its path."""
    found = [path for top in tops for path in (folder / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.name != ".gitignore"}


def copy_of(source: Path, target: Path, *names: str) -> None:
    """Some of a run's folders, and its parameters, into `target`."""
    for name in names:
        shutil.copytree(source / name, target / name)
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
    for name in ("tamnas", "stages", "plugins"):
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
