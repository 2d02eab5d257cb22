"""The way onto a machine without DVC: what its Python lacks, and the one command."""

import os
import subprocess
import sys

from tests.helpers.tiny import ROOT


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([*command], cwd=ROOT, capture_output=True, text=True)


def test_nothing_is_missing_here():
    done = run(sys.executable, "gpu/missing.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_missing_is_one_line():
    done = run(sys.executable, "-S", "gpu/missing.py")  # without site-packages
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    names = done.stderr.split("lacks: ")[1].split()
    assert {"torch", "pymoo", "pydantic"} <= set(names)
    assert "dvc" not in names


def test_the_wheels_are_pinned():
    pins = {line.partition("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines()}
    lines = (ROOT / "gpu" / "packages.txt").read_text().splitlines()
    names = {line.lower() for line in lines if not line.startswith("#")}
    assert {"pymoo", "pydantic", "ruamel.yaml", "pytest", "hypothesis"} <= names
    assert names <= pins


def test_the_command_without_arguments_says_how_to_use_it():
    done = run("bash", "gpu/run.sh")
    assert done.returncode == 2
    assert "gpu/run.sh PROFILE [KEY=VALUE ...] -- RUNNER-OPTIONS" in done.stderr


def test_python_without_arguments_says_how_to_use_it():
    done = run("bash", "gpu/python.sh")
    assert done.returncode == 2
    assert "gpu/python.sh ARGUMENTS-OF-PYTHON" in done.stderr


def test_python_runs_in_the_checkout_and_finds_its_modules(tmp_path):
    command = ["bash", str(ROOT / "gpu" / "python.sh"), "-c", "import os, benchmarks; print(os.getcwd())"]
    environment = {**os.environ, "PYTHON": sys.executable, "TAMNAS_SITE": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ROOT}\n", "")


def test_torchattacks_is_a_wheel_without_a_pin():
    """It asks for old versions of what the lock holds."""
    wheels = (ROOT / "Makefile").read_text().split("\nwheels:")[1].split("\n\n")[0]
    assert "--no-deps" in wheels
    assert "torchattacks==3.5.1" in wheels
    assert "torchattacks" not in (ROOT / "requirements.lock").read_text().lower()
