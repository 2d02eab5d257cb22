from tamnas.pipeline.instructions import use_instructions

use_instructions("avx2")  # before anything imports torch

import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from torch import nn

from tamnas.config.resolve import load_params, resolve_study
from tamnas.data.loader import Split
from tamnas.space.space import SearchSpace
from tests.helpers.tiny import finish_run
from tests.helpers.toy_training import three_classes

# Failures of their asserts show values too.
pytest.register_assert_rewrite("tests.helpers.preparing", "tests.helpers.refusals")
torch.set_num_threads(1)
os.environ.pop("DVC_ROOT", None)  # the tests' runs are in no outer one
# A shell's background job ignores Ctrl-C, and so would the stages that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples in every run, no time limit for a busy machine, no folder left behind.
settings.register_profile("tamnas", derandomize=True, deadline=None, database=None)
settings.load_profile("tamnas")

ROOT = Path(__file__).parents[1]
# They take longest: first, so that no worker is left alone with one at the end.
SLOW = (
    "test_faults", "test_docs", "test_dvc", "test_dvc_real", "test_smoke", "test_resume", "test_deadline",
    "test_controls_run", "test_extending",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A finished tiny run (`tests.helpers.tiny.tiny_params`): made once, by whichever worker needs it first, and only
    read: tests that go on with it take a copy.
    """
    home = tmp_path_factory.getbasetemp()
    home = home.parent if "PYTEST_XDIST_WORKER" in os.environ else home
    with FileLock(home / "finished.lock"):
        if not (home / "finished").exists():
            assert not (home / "run").exists(), "the run failed in another worker"
            (home / "run").mkdir()
            finish_run(home / "run")
            (home / "run").rename(home / "finished")
    return home / "finished"


@pytest.fixture(scope="module")
def cluster():
    """A head and another node with a CPU each: two raylets, each with its own workers and object store."""
    ray, cluster_utils = pytest.importorskip("ray"), pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty project, the working directory."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """No network; the list of addresses that were asked for."""
    asked = []

    def refuse(request, *args, **kwargs):
        asked.append(request if isinstance(request, str) else request.full_url)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


@pytest.fixture
def out(tmp_path) -> Path:
    """Where the tests of preparing data let it be written."""
    return tmp_path / "out" / "set.npz"


@pytest.fixture(scope="session")
def split() -> Split:
    """Of `toy_training.three_classes`."""
    return three_classes()


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    """The geometry of the committed params.yaml."""
    rows = resolve_study(load_params(ROOT / "params.yaml")).rows
    return SearchSpace.from_params(next(iter(rows.values())))


@pytest.fixture(scope="session")
def randomise():
    """Sets weights, BatchNorm affine and running statistics to values where nothing is 0 or 1."""

    @torch.no_grad()
    def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                for tensor, low, high in (
                    (part.weight, 0.5, 1.5),
                    (part.bias, -0.5, 0.5),
                    (part.running_mean, -0.5, 0.5),
                    (part.running_var, 0.5, 2.0),
                ):
                    tensor.uniform_(low, high, generator=generator)
                part.num_batches_tracked.fill_(int(torch.randint(1, 100, (), generator=generator)))
            elif isinstance(part, (nn.Conv2d, nn.Linear)):
                fan_in = part.weight[0].numel()
                part.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                if part.bias is not None:
                    part.bias.uniform_(-0.2, 0.2, generator=generator)
        return model

    return randomise


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A dataset with four modes of six networks each, of made-up results, in a project that tests may not change."""
    from tests.helpers.small_results import small_dataset  # here: it draws, and most tests do not

    modes = {"S_8_10": {}, "S_8_1": {}, "S_6_10": {}, "S_2_10": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("several"))
        yield small_dataset(Path(), "cifar10", modes, eval={"steps": [10, 30, 50]}, networks=6)
