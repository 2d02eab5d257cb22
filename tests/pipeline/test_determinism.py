"""Equal seeds give equal bits, in whichever order networks are trained and evaluated.

Workers and engines: tests/faults/test_resume.py; resume points: there, in test_training.py, test_sampled_paths.py and
tests/faults/matrix.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import load_row
from tamnas.config.sections import NumericsParams
from tamnas.evaluation.grid import GridTask, evaluate_network
from tamnas.networks.trained import supernet_tensors
from tamnas.pipeline import device
from tamnas.search.fitness import evaluate_subnet, load_context
from tamnas.space.space import SearchSpace
from tamnas.training.networks import TrainingTask, train_and_write, train_network
from tamnas.training.phases import Supernet
from tests.helpers.tiny import ROW, tiny_params, write_params

COMPUTE = ComputeParams(engine="inline", workers=1, device="cpu", checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A prepared dataset and an untrained supernet; the working directory."""
    from stages import plan as plan_stage
    from stages import prepare
    from tamnas.pipeline import checkpoint

    folder = tmp_path_factory.mktemp("determinism")
    raw = tiny_params()
    raw["retrain"]["scratch"].update(epochs=2)
    raw["data"]["digits"]["augment"] = {"pad": 1, "flip": True}
    write_params(folder, raw)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        plan_stage.run()
        prepare.run("digits")
        supernet = Supernet(SearchSpace.from_params(load_row(ROW)), torch.Generator().manual_seed(0))
        checkpoint.write_weights(folder / "joint.safetensors", supernet_tensors(supernet), {})
        yield folder


def architectures(plan, count: int = 3):
    space = SearchSpace.from_params(plan)
    return [space.sample(np.random.default_rng(seed)) for seed in range(count)]


def trained(folder: Path, order: list[int], seed: int = 0) -> dict[str, bytes]:
    """Networks trained one after another in `order`; their files."""
    plan = load_row(ROW)
    task = TrainingTask(
        key=(seed, "retrain_scratch", ROW), space=SearchSpace.from_params(plan), data=Path("data/digits.npz"),
        training=plan.retrain.scratch, reference=plan.retrain.validation, augment=plan.data.augment,
        numerics=plan.numerics, compute=COMPUTE, folder=folder,
    )  # fmt: skip
    folder.mkdir()
    context, archs = task.context(), architectures(plan)
    for index in order:
        train_network({"id": f"n{index}", "architecture": archs[index].plain(), "baseline": None}, context)
    return {path.name: path.read_bytes() for path in folder.glob("n?.safetensors")}


@pytest.fixture(scope="module")
def in_order(project) -> dict[str, bytes]:
    return trained(project / "in_order", [0, 1, 2])


def test_order_of_training_does_not_matter(project, in_order):
    assert trained(project / "reversed", [2, 1, 0]) == in_order


def test_one_network_alone_is_the_same(project, in_order):
    assert trained(project / "alone", [1]) == {"n1.safetensors": in_order["n1.safetensors"]}


def test_what_an_orphan_wrote_is_removed(project, in_order):
    """A child of a killed run with other parameters may write after DVC emptied the outputs."""
    plan = load_row(ROW)
    task = TrainingTask(
        key=(0, "retrain_scratch", ROW), space=SearchSpace.from_params(plan), data=Path("data/digits.npz"),
        training=plan.retrain.scratch, reference=plan.retrain.validation, augment=plan.data.augment,
        numerics=plan.numerics, compute=COMPUTE, folder=project / "in_order",
    )  # fmt: skip
    weights = project / "runs" / ROW / "retrain_scratch"
    weights.mkdir(parents=True)
    (weights / "n9.safetensors").write_bytes(in_order["n1.safetensors"])
    specs = [{"id": "n0", "architecture": architectures(plan)[0].plain(), "baseline": None}]
    train_and_write(task, specs, "test", weights, project / "small")
    assert [path.name for path in weights.iterdir()] == ["n0.safetensors"]


def test_another_seed_gives_other_bits(project, in_order):
    others = trained(project / "other", [0], seed=1)
    assert others["n0.safetensors"] != in_order["n0.safetensors"]


def test_order_of_evaluation_does_not_matter(project, in_order):
    plan = load_row(ROW)

    def cells(order: list[int], name: str) -> tuple[dict, dict]:
        folder = project / name
        folder.mkdir()
        context = GridTask(
            key=("evaluate",), space=SearchSpace.from_params(plan), data=Path("data/digits.npz"),
            plan=plan.eval, numerics=plan.numerics, compute=COMPUTE, folder=folder,
        ).context()  # fmt: skip
        found = {}
        for index in order:
            spec = {"weights": str(project / "in_order" / f"n{index}.safetensors"), "final": False, "seed": plan.seed}
            found[index] = evaluate_network(spec, context)
        records = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        return found, records

    assert cells([0, 1, 2], "forwards") == cells([2, 0, 1], "shuffled")


def test_order_of_the_search_does_not_matter(project):
    plan = load_row(ROW)
    archs = architectures(plan, 4)

    def fitness(order: list[int]) -> dict[int, tuple[float, float]]:
        context = load_context(plan, project / "joint.safetensors", Path("data/digits.npz"), COMPUTE)
        return {index: evaluate_subnet(archs[index].plain(), context) for index in order}

    forwards = fitness([0, 1, 2, 3])
    assert fitness([3, 1, 0, 2]) == forwards
    assert fitness([2]) == {2: forwards[2]}


def test_the_global_random_state_does_not_matter(project, in_order):
    torch.manual_seed(1234)
    np.random.seed(99)
    assert trained(project / "global", [2]) == {"n2.safetensors": in_order["n2.safetensors"]}


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_switch_reaches_torch(deterministic):
    try:
        device.start(
            NumericsParams(precision="float32", threads=1, deterministic=deterministic), ComputeParams(device="cpu")
        )
        assert torch.are_deterministic_algorithms_enabled() == deterministic
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_switch_does_not_change_bits_on_cpu(project, in_order, monkeypatch):
    plain = load_row(ROW)
    switched = plain.model_copy(update={"numerics": plain.numerics.model_copy(update={"deterministic": True})})
    monkeypatch.setattr(f"{__name__}.load_row", lambda row: switched)
    try:
        assert trained(project / "switched", [0])["n0.safetensors"] == in_order["n0.safetensors"]
    finally:
        torch.use_deterministic_algorithms(False)
