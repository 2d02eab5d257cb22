"""Equal seeds give equal bits, in whichever order networks are trained and evaluated.

Workers and engines: tests/faults/test_resume.py; resume points: there, in test_training.py, test_sampled_paths.py and
tests/faults/matrix.py.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import StagePlan, row_stages
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.config.sections import NumericsParams
from tamnas.evaluation.networks import GridTask, Network, attack_with_pgd
from tamnas.networks.trained import supernet_tensors, trained_record
from tamnas.pipeline import checkpoint, device
from tamnas.pipeline.jobs import Jobs
from tamnas.records import Job, NetworkSpec
from tamnas.search.fitness import evaluate_subnet, load_context
from tamnas.space.space import SearchSpace
from tamnas.training.networks import TrainingTask, train_and_write, train_network
from tamnas.training.phases import Supernet
from tests.helpers.tiny import ROW, contents, copy_of, run_here, tiny_params

COMPUTE = ComputeParams(engine="inline", workers=1, device="cpu", checkpoint_seconds=0.0)


def planned_here() -> dict[str, StagePlan]:
    """The plans of the row's stages."""
    raw = tiny_params()
    raw["retrain"]["scratch"].update(epochs=2)
    raw["data"]["digits"]["augment"] = {"pad": 1, "flip": True}
    return row_stages(resolve_study(parse_params(raw)).rows[ROW])


PLANS = planned_here()
SPACE = SearchSpace.from_params(PLANS["search"])
ARCHITECTURES = [SPACE.sample(np.random.default_rng(seed)) for seed in range(4)]


@pytest.fixture(scope="module")
def data(finished_run) -> Path:
    return finished_run / "data" / "digits.npz"


@pytest.fixture
def task(data, tmp_path) -> TrainingTask:
    return task_in(tmp_path, data)


def task_in(folder: Path, data: Path) -> TrainingTask:
    plan = PLANS["retrain_scratch"]
    return TrainingTask(SPACE, data, plan.validation, plan.augment, plan.numerics, COMPUTE, folder)


def job(index: int, seed: int = 0) -> Job:
    network = NetworkSpec(f"n{index}", ARCHITECTURES[index])
    return Job(network, PLANS["retrain_scratch"].training, (seed, "retrain_scratch", ROW))


def trained(task: TrainingTask, order: list[int], seed: int = 0) -> dict[str, bytes]:
    """Networks trained one after another in `order`; their files."""
    context = task.context()
    for index in order:
        train_network(job(index, seed), context)
    return {path.name: path.read_bytes() for path in task.folder.glob("n?.safetensors")}


@pytest.fixture(scope="module")
def networks(data, tmp_path_factory) -> Path:
    """Where three networks trained in their order lie."""
    folder = tmp_path_factory.mktemp("in_order")
    trained(task_in(folder, data), [0, 1, 2])
    return folder


@pytest.fixture
def in_order(networks) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in networks.glob("n?.safetensors")}


def test_order_of_training_does_not_matter(task, in_order):
    assert trained(task, [2, 1, 0]) == in_order


def test_one_network_alone_is_the_same_whatever_the_global_random_state(task, in_order):
    torch.manual_seed(1234)
    np.random.seed(99)
    assert trained(task, [1]) == {"n1.safetensors": in_order["n1.safetensors"]}


def test_what_an_orphan_wrote_is_removed(data, networks, in_order, tmp_path):
    """A child of a killed run with other parameters may write after DVC emptied the outputs."""
    weights = tmp_path / "runs"
    weights.mkdir()
    (weights / "n9.safetensors").write_bytes(in_order["n1.safetensors"])
    train_and_write(task_in(networks, data), [job(0)], "test", weights, tmp_path / "small")
    assert [path.name for path in weights.iterdir()] == ["n0.safetensors"]


def test_another_seed_gives_other_bits(task, in_order):
    assert trained(task, [0], seed=1)["n0.safetensors"] != in_order["n0.safetensors"]


def test_order_of_evaluation_does_not_matter(data, networks, tmp_path):
    plan = PLANS["evaluate_scratch"]

    def cells(order: list[int], name: str) -> tuple[dict, dict]:
        folder = tmp_path / name
        folder.mkdir()
        context = GridTask(SPACE, data, plan.eval, plan.numerics, COMPUTE, folder).context()
        found = {}
        for index in order:
            path = networks / f"n{index}.safetensors"
            found[index] = attack_with_pgd(Network(path, trained_record(path), False, plan.seed), context)
        records = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        return found, records

    assert cells([0, 1, 2], "forwards") == cells([2, 0, 1], "shuffled")


def test_order_of_the_search_does_not_matter(data, tmp_path):
    supernet = Supernet(SPACE, torch.Generator().manual_seed(0))
    checkpoint.write_weights(tmp_path / "joint.safetensors", supernet_tensors(supernet), {})

    def fitness(order: list[int]) -> dict[int, dict[str, float]]:
        context = load_context(PLANS["search"], tmp_path / "joint.safetensors", data, COMPUTE)
        return {index: evaluate_subnet(ARCHITECTURES[index], context) for index in order}

    forwards = fitness([0, 1, 2, 3])
    assert fitness([3, 1, 0, 2]) == forwards
    assert fitness([2]) == {2: forwards[2]}


@pytest.mark.system
def test_files_are_in_the_order_of_the_jobs_whichever_ends_first(finished_run, tmp_path, monkeypatch):
    run_jobs, counts = Jobs.run_jobs, []

    def last_first(*arguments):
        finished = list(run_jobs(*arguments))
        counts.append(len(finished))
        return reversed(finished)

    monkeypatch.setattr(Jobs, "run_jobs", last_first)
    copy_of(finished_run, tmp_path, "data", "runs", "results")
    run_here(tmp_path, "plan", "search", "retrain_scratch", "evaluate_scratch", "ranking")
    assert sum(count > 1 for count in counts) >= 4
    for top in ("runs", "results"):
        assert contents(tmp_path, top) == contents(finished_run, top)


@pytest.mark.parametrize("deterministic", [True, False])
def test_threads_and_determinism_are_those_of_the_plan(deterministic):
    before = torch.get_num_threads()
    try:
        numerics = NumericsParams(precision="float32", threads=before + 1, deterministic=deterministic)
        device.start(numerics, ComputeParams(device="cpu"))
        assert torch.get_num_threads() == before + 1
        assert torch.are_deterministic_algorithms_enabled() == deterministic
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(False)


def test_the_switch_does_not_change_bits_on_cpu(task, in_order):
    switched = replace(task, numerics=task.numerics.model_copy(update={"deterministic": True}))
    try:
        assert trained(switched, [0])["n0.safetensors"] == in_order["n0.safetensors"]
    finally:
        torch.use_deterministic_algorithms(False)
