"""A real `dvc repro` that is killed, against the undisturbed run of the runner: the first stages of the tiny run, and
two rows of the profile `smoke` killed in supernet, search and retraining.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tamnas.data import synthetic
from tamnas.pipeline.progress import NETWORK
from tests.helpers.tiny import (
    ROOT,
    ROW,
    contents,
    dvc,
    environment,
    keys,
    project,
    smoke_params,
    tiny_params,
    write_params,
)

ROWS = ("cifar10-S_8_10", "cifar10-2S_8_1")
KILLED = ("supernet_block", "search", "retrain_scratch")


def two_rows() -> dict:
    """Two rows of `smoke`, one small baseline, and not the one thing that differs from run to run: latency."""
    raw = smoke_params(*ROWS)
    raw["eval"]["latency"] = False
    raw["baselines"]["names"] = ["resnet20"]
    return raw


def outputs(folder: Path) -> dict[str, bytes]:
    files = [path for top in ("results", "reports") for path in (folder / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != ".gitignore"}


def repro_killed_in(folder: Path, checkpoint: str, *targets: str) -> bool:
    """Start `dvc repro`, kill it and its stage as soon as `checkpoint` holds work; False if it ended before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *targets], cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None:
        files = (folder / ".checkpoints").glob(f"{checkpoint}/*/*/*")
        if any(path.suffix not in (".tmp", NETWORK) for path in files):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    write_params(folder, two_rows())
    synthetic.write(folder / synthetic.FOLDER)
    command = [sys.executable, "-m", "tamnas", "run"]
    subprocess.run(command, cwd=folder, env=environment() | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_a_killed_stage_under_dvc_goes_on_and_ends_with_the_runners_bits(finished_run, tmp_path):
    folder, target = project(tmp_path / "project", tiny_params()), f"supernet_block@{ROW}"
    assert repro_killed_in(folder, "supernet_block", target)
    (state,) = keys(folder, "supernet_block")
    assert f"Running stage '{target}'" in dvc(folder, "repro", target)
    assert keys(folder, "supernet_block") == [state]  # the same key: it went on
    for name in (f"runs/{ROW}/block.safetensors", "data/digits.npz", "results/digits/supernet_block", "plan"):
        assert contents(folder, name) == contents(finished_run, name)
    assert "up to date" in dvc(folder, "repro", target)


@pytest.mark.slow
def test_a_killed_repro_goes_on_and_ends_with_the_runners_bits(undisturbed, tmp_path):
    folder = project(tmp_path / "project", two_rows())
    synthetic.write(folder / synthetic.FOLDER)
    killed = [repro_killed_in(folder, checkpoint) for checkpoint in KILLED]
    assert killed == [True] * len(KILLED)
    output = dvc(folder, "repro")
    assert f"Running stage 'retrain_scratch@{ROWS[-1]}'" in output
    for row in ROWS:
        assert f"Running stage 'supernet_block@{row}'" not in output  # finished before the later kills
    assert outputs(folder) == outputs(undisturbed)
    assert "up to date" in dvc(folder, "repro")
    assert "best_scratch" in dvc(folder, "metrics", "show")
    dvc(folder, "plots", "show", "--out", "plots")
    assert (folder / "plots" / "index.html").exists()
