"""Two ranks train as one does: the same loss curve, weights and statistics, to the precision of float32."""

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed

from tamnas.config.compute import ComputeParams
from tamnas.config.sections import TrainingAttackPlan
from tamnas.errors import DeadlineError
from tamnas.networks.batchnorm import BatchNorm2d
from tamnas.pipeline import ranks
from tamnas.pipeline.deadline import set_deadline
from tamnas.pipeline.jobs import Jobs
from tamnas.training.loop import Resume
from tests.helpers.toy_supernet import paths, phase_plan
from tests.helpers.toy_training import ATTACK, equal, recipe, run, three_classes

EVERY = {"steps": 2}  # the path changes within an epoch
# With a radius of next to nothing, as rounding turns signs of gradients, and with the real one.
WEAK = {"eps": "1/25500", "step_size": "1/25500"}
YOPO = {
    "eval": TrainingAttackPlan(**WEAK, m=1, n=1),
    "batch": TrainingAttackPlan(**WEAK, m=2, n=1, bn="batch"),
    "real": ATTACK,
}


def on_rank(spec: tuple, context: int):
    """A job: `function(*arguments)` on one of two ranks."""
    rank, meeting, function, *arguments = spec
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        return function(*arguments)
    finally:
        distributed.destroy_process_group()


def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Runs `function(*arguments)` on two ranks; returns both results. The same two processes for all tests."""
    folder, numbers = tmp_path_factory.mktemp("ranks"), itertools.count()
    with Jobs(one_thread, ComputeParams(engine="processes", workers=2)) as jobs:

        def on_both(function, *arguments) -> list:
            meeting = folder / str(next(numbers))
            results = dict(jobs.run_jobs(on_rank, [(rank, meeting, function, *arguments) for rank in range(2)]))
            return [results[rank] for rank in range(2)]

        yield on_both


def trained(attack: str, folder: Path | None = None, late: bool = False) -> tuple[list[dict], dict]:
    """A short joint phase; `late`: the deadline passes during the first epoch, for the second rank alone."""
    resume = Resume(folder / "state.safetensors", 0) if folder else None
    trainee = paths(phase_plan(EVERY))
    if late and distributed.get_rank() == 1:
        set_deadline(0.0)
    try:
        history = run(trainee, three_classes(), recipe=recipe(epochs=3), attack=YOPO[attack], resume=resume).history
    finally:
        set_deadline(None)
    return history, trainee.tensors()


@pytest.mark.parametrize(
    "attack", [pytest.param(name, marks=[] if name == "eval" else pytest.mark.slow) for name in YOPO]
)
def test_two_ranks_train_as_one_does(tmp_path, workers, attack):
    expected, weights = trained(attack)
    (first, own), (second, others) = workers(trained, attack, tmp_path)
    assert first == second
    assert equal(own, others)
    close = 1e-4 if attack == "real" else 1e-5
    for ours, theirs in zip(first, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=close)
        assert ours["train_classes"] == theirs["train_classes"]
        for share in ("train_clean", "train_robust"):
            assert ours[share] == pytest.approx(theirs[share], abs=0.05)  # two of 48 images
    for name, tensor in own.items() if attack != "real" else ():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-5, msg=name)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["state.safetensors"]  # one of them wrote it


def exchanged() -> tuple[list[int], list[int], int]:
    """Of each step of an epoch: elements of gradients sent, parameters of the path; and those of the supernet."""
    trainee, sent, drawn = paths(phase_plan({"steps": 1})), [], []
    at, total = trainee.at, ranks.total

    def noted_at(epoch: int, step: int):
        network, optimiser = at(epoch, step)
        drawn.append(sum(p.numel() for p in network.parameters()))
        return network, optimiser

    def noted_total(tensor: torch.Tensor) -> torch.Tensor:
        sent.append(tensor.numel())
        return total(tensor)

    trainee.at = noted_at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "total", noted_total)  # of gradients and, of one element, conditions
        run(trainee, three_classes(), recipe=recipe(epochs=1))
    return [size for size in sent if size > 1], drawn, sum(p.numel() for p in trainee.supernet.parameters())


def test_only_the_gradients_of_the_drawn_path_are_exchanged(workers):
    first, second = workers(exchanged)
    assert first == second
    sent, drawn, whole = first
    assert sent == drawn
    assert len(set(drawn)) == len(drawn) == 3
    assert max(drawn) < whole / 2


def stopped() -> str:
    try:
        trained("eval", late=True)
    except DeadlineError as error:
        return str(error)
    return "trained to the end"


def test_a_deadline_that_one_rank_sees_stops_both(workers):
    first, second = workers(stopped)
    assert first == second == "test, epoch 0 of 3: stopped at the deadline"


def normalised(x: torch.Tensor, share: bool) -> tuple:
    """Output, running statistics and gradients of a BatchNorm layer on this rank's half of `x`."""
    layer = BatchNorm2d(x.shape[1])
    torch.nn.init.uniform_(layer.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    rows = x.chunk(2)[distributed.get_rank()] if share else x
    rows = rows.clone().requires_grad_()
    y = layer(rows)
    (y**3).sum().backward()
    return y.detach(), rows.grad, layer.weight.grad, layer.running_mean, layer.running_var


def test_batch_statistics_are_those_of_the_whole_batch(workers):
    x = torch.randn(8, 5, 6, 6, generator=torch.Generator().manual_seed(0)) * 3 + 50  # far from 0
    y, gradient, of_weight, mean, variance = normalised(x, False)
    found = workers(normalised, x, True)
    close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-4)
    close(torch.cat([part[0] for part in found]), y)
    close(torch.cat([part[1] for part in found]), gradient)
    close(sum(part[2] for part in found), of_weight)
    for part in found:
        close(part[3], mean)
        close(part[4], variance)
