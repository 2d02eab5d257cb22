"""What one stage hands to the next: inherited weights, records beside the weights they are of, clean epochs, fronts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import row_stages
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.data.loader import load_split
from tamnas.errors import DeadlineError, DivergenceError
from tamnas.evaluation.accuracy import accuracy, fast_copy, pgd_accuracy
from tamnas.files import read_json
from tamnas.networks.subnet import Subnet
from tamnas.networks.supernet import Supernet
from tamnas.networks.trained import load_network
from tamnas.pipeline import checkpoint
from tamnas.records import Job, NetworkSpec, Start
from tamnas.search.fitness import SearchContext, calibration_batches, inherited_subnet
from tamnas.space.space import SearchSpace
from tamnas.training import networks as training
from tamnas.training.networks import TrainingTask, train_network, train_networks
from tamnas.training.phases import train_phase
from tests.helpers.tiny import ROW, copy_of, invoke, run_here, tiny_params, write_params
from tests.helpers.toy_training import CPU, StopError

COMPUTE = ComputeParams(engine="inline", workers=1, device="cpu", checkpoint_seconds=0.0)
KEY = (0, "retrain_scratch", ROW)


def planned_here() -> dict:
    raw = tiny_params()
    raw["retrain"]["scratch"].update(epochs=4)
    raw["retrain"]["validation"]["start"] = 0.0
    return row_stages(resolve_study(parse_params(raw)).rows[ROW])


PLANS = planned_here()
SPACE = SearchSpace.from_params(PLANS["search"])
ARCHITECTURES = [SPACE.sample(np.random.default_rng(seed)) for seed in range(4)]


@pytest.fixture
def task(finished_run, tmp_path) -> TrainingTask:
    plan = PLANS["retrain_scratch"]
    data = finished_run / "data" / "digits.npz"
    return TrainingTask(SPACE, data, plan.validation, plan.augment, plan.numerics, COMPUTE, tmp_path)


def job(index: int, start: Start | None = None) -> Job:
    spec = NetworkSpec(f"n{index}", ARCHITECTURES[index])
    return Job(spec, PLANS["retrain_scratch"].training, KEY, start)


def test_a_record_is_of_the_weights_beside_it_on_validation_images(task):
    context, apart = task.context(), 0
    for index in range(3):
        record = train_network(job(index), context)
        apart += record.best.epoch != record.last.epoch
        for weights in ("best", "last"):
            path = task.folder / f"n{index}.safetensors"
            model, read = load_network(SPACE, path, weights, context.runtime)
            assert read == record
            model, noise = fast_copy(model), (*KEY, record.network.identity, "validation")
            assert accuracy(model, context.validation) == record.score(weights).clean
            robust = pgd_accuracy(model, context.validation, task.validation.attack, noise)
            assert robust == record.score(weights).robust
    assert apart  # else best and last are the same, and the test says less


def started(task: TrainingTask, jobs: list[Job], monkeypatch) -> list[tuple[dict, tuple]]:
    """(weights, random key) with which the training of each job begins."""
    seen = []

    def train(trainee, split, *, key, **more):
        seen.append(({name: tensor.clone() for name, tensor in trainee.network.state_dict().items()}, key))
        raise StopError

    monkeypatch.setattr(training, "train", train)
    for one in jobs:
        with pytest.raises(StopError):
            train_network(one, task.context())
    return seen


def test_networks_of_a_worker_share_the_pace_of_epochs(task, monkeypatch):
    seen, context = [], task.context()

    def train(trainee, split, *, pace, **more):
        seen.append(pace)
        raise StopError

    monkeypatch.setattr(training, "train", train)
    for index in range(2):
        with pytest.raises(StopError):
            train_network(job(index), context)
    assert seen == [context.pace] * 2


def test_a_divergence_names_its_network_and_no_network_is_a_deadline(task, monkeypatch):
    errors = [DivergenceError("NaN", {"epoch": 1}), *[DeadlineError("stopped")] * 2]

    def train(*args, **more):
        raise errors.pop(0)

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(DivergenceError) as caught:
        train_networks(task, [job(0)], "retrain")
    assert caught.value.details == {"network": "n0", "epoch": 1}
    with pytest.raises(DeadlineError, match=r"^retrain: stopped at the deadline before a network was finished$"):
        train_networks(task, [job(1), job(2)], "retrain")


def test_fine_tuning_starts_from_what_it_is_given(task, tmp_path, monkeypatch):
    inherited = Subnet(SPACE, ARCHITECTURES[1], torch.Generator().manual_seed(99)).state_dict()
    path = tmp_path / "start.safetensors"
    checkpoint.write_weights(path, {f"n1.{name}": tensor for name, tensor in inherited.items()}, {})
    ((weights, _), (fresh, _)) = started(task, [job(1, Start(path, "n1")), job(1)], monkeypatch)
    assert all(torch.equal(weights[name], tensor) for name, tensor in inherited.items())
    assert any(not torch.equal(fresh[name], tensor) for name, tensor in inherited.items())


def test_another_architecture_draws_its_own_batches_and_noise(task, monkeypatch):
    again = replace(job(0), network=NetworkSpec("other", ARCHITECTURES[0]))
    (_, first), (_, second), (_, same) = started(task, [job(0), job(1), again], monkeypatch)
    assert first == same != second


def test_batchnorm_is_recalibrated_on_so_many_training_images(finished_run):
    plan = PLANS["search"].model_copy(update={"batch_size": 16})
    train = load_split(finished_run / "data" / "digits.npz", "train", torch.device("cpu"))
    supernet = Supernet(SPACE, torch.Generator().manual_seed(0))
    context = SearchContext(plan, supernet, train, None)  # no validation images are there to be taken
    assert sum(len(x) for x, _ in calibration_batches(context)) == plan.search.bn_calibration_images
    subnet = inherited_subnet(context, ARCHITECTURES[0])
    means = [subnet.first_layer(x).mean((0, 2, 3)) for x, _ in calibration_batches(context)]
    assert len(means) > 1
    assert torch.allclose(subnet.rest.norm.running_mean, torch.stack(means).mean(0), atol=1e-5)


def test_the_first_epochs_of_a_phase_are_clean_as_its_plan_says(finished_run):
    plan = PLANS["supernet_block"]
    plan = plan.model_copy(update={"clean_epochs": 1, "recipe": plan.recipe.model_copy(update={"epochs": 2})})
    train = load_split(finished_run / "data" / "digits.npz", "train", torch.device("cpu"))
    _, outcome = train_phase(plan, "supernet_block", train, None, CPU, None)
    assert [row["train_robust"] is None for row in outcome.history] == [True, False]


@pytest.mark.parametrize("front", ["archive", "population"])
def test_the_front_that_is_asked_for_is_retrained(finished_run, tmp_path, monkeypatch, front):
    monkeypatch.chdir(tmp_path)
    copy_of(finished_run, tmp_path, "code", "data", "runs", "results", ".checkpoints")
    raw = tiny_params()
    raw["search"]["front"] = front
    write_params(tmp_path, raw)
    invoke("plan")
    run_here(tmp_path, "select")
    fronts = read_json(tmp_path / "results" / "digits" / "search" / ROW / "fronts.json")
    chosen = read_json(tmp_path / "results" / "digits" / "select" / ROW / "selected.json")["networks"]
    assert chosen
    assert all(one in fronts[front] for one in chosen)
    assert fronts["archive"] != fronts["population"]
