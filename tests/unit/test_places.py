"""Where a checkout may lie: a download without git, another operating system, an environment with older packages."""

import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCK = [
    Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1] not in ("", "#")
]
DECLARED = list(map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]))
MAC = {"sys_platform": "darwin", "platform_machine": "arm64"}
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64"}


def test_the_lock_asks_a_mac_for_no_package_of_cuda():
    mac, linux = (
        {pin.name.lower() for pin in LOCK if not pin.marker or pin.marker.evaluate(at)} for at in (MAC, LINUX)
    )
    assert linux - mac == {name for name in linux if name.startswith(("nvidia-", "cuda-", "triton"))} != set()
    assert {need.name.lower() for need in DECLARED} <= mac


def test_every_dependency_has_a_lower_bound_that_the_lock_meets():
    pins = {pin.name.lower(): next(iter(pin.specifier)).version for pin in LOCK}
    for need in DECLARED:
        assert [bound.operator for bound in need.specifier] == [">="], need
        assert need.specifier.contains(pins[need.name.lower()]), need


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a download without git")
def test_text_has_the_same_line_ends_everywhere():
    files = ["params.yaml", "dvc.lock", "tamnas/paper.py", "results/digits/prepare/card.json"]
    done = subprocess.run(["git", "check-attr", "eol", *files], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{file}: eol: lf" for file in files]


@pytest.mark.parametrize("with_git", [True, False])
def test_make_tells_dvc_that_there_is_no_git(tmp_path, with_git):
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for name in ("requirements.lock", "pyproject.toml", ".venv/ready", *([".git/HEAD"] if with_git else [])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    done = subprocess.run(["make", "all", "DVC=echo dvc"], cwd=tmp_path, capture_output=True, text=True, check=True)
    commands = [line for line in done.stdout.splitlines() if line.startswith("dvc ")]
    assert commands == [*([] if with_git else ["dvc config --local core.no_scm true"]), "dvc repro"]
