"""A real `dvc repro` of two rows of the profile `smoke`, killed in supernet, search and retraining, against the
runner's undisturbed run.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tamnas.data import synthetic
from tests.helpers.tiny import dvc, environment, project, smoke_params, write_params

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


def repro_killed_in(folder: Path, checkpoint: str) -> bool:
    """Start `dvc repro`, kill it and its stage as soon as `checkpoint` holds work; False if it ended before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None:
        started = [path for path in (folder / ".checkpoints").glob(f"{checkpoint}/*/*/*") if path.suffix != ".tmp"]
        if started:
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
    subprocess.run([sys.executable, "-m", "tamnas.pipeline.runner"], cwd=folder, check=True, capture_output=True)
    return folder


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
