"""The learning rate over epochs: PyTorch's own schedulers are the reference."""

import pytest
import torch
from torch import nn

from tamnas.config.sections import RecipePlan
from tamnas.training import step as step_module
from tamnas.training.loop import Single, learning_rate
from tests.helpers.toy_training import network, recipe, run


def scheduled(make, epochs: int, lr: float = 0.1) -> list[float]:
    """Learning rates of a torch scheduler that steps once an epoch."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = make(optimiser), []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def ours(plan: RecipePlan) -> list[float]:
    return [learning_rate(plan, epoch) for epoch in range(plan.epochs)]


def test_milestones():
    plan = recipe(10, {"kind": "milestones", "milestones": (2, 4, 8), "factor": 0.1}, lr=0.1)
    expected = scheduled(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4, 8], gamma=0.1), 10)
    assert ours(plan) == pytest.approx(expected)
    assert learning_rate(plan, 1.99) == 0.1
    assert learning_rate(plan, 2) == pytest.approx(0.01)


def test_cosine():
    plan = recipe(7, {"kind": "cosine"}, lr=0.1)
    expected = scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 7), 7)
    assert ours(plan) == pytest.approx(expected)
    assert learning_rate(plan, 3.5) == pytest.approx(0.05)


def test_one_cycle():
    steps, warmup = 2000, 6
    plan = recipe(20, {"kind": "one_cycle", "warmup": warmup}, lr=0.1)
    found = [learning_rate(plan, 20 * step / steps) for step in range(steps)]
    expected = scheduled(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, steps, pct_start=warmup / 20, cycle_momentum=False), steps
    )  # its phases end one step early
    assert found == pytest.approx(expected, rel=0.01, abs=1e-4)
    assert learning_rate(plan, 0) == pytest.approx(0.1 / 25)
    assert learning_rate(plan, warmup) == pytest.approx(0.1)
    assert learning_rate(plan, 20) == pytest.approx(0.1 / 25e4)


def test_warm_up_is_linear_then_the_schedule_runs():
    plan = recipe(12, {"kind": "cosine", "warmup": 4}, lr=0.1)
    assert [learning_rate(plan, epoch) for epoch in (0, 1, 2.5)] == pytest.approx([0, 0.025, 0.0625])
    rest = scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8), 8)
    assert ours(plan)[4:] == pytest.approx(rest)
    stepped = recipe(12, {"kind": "milestones", "milestones": (2, 6), "warmup": 4}, lr=0.1)
    assert [learning_rate(stepped, epoch) for epoch in (3.9, 4, 5.9, 6)] == pytest.approx([0.0975, 0.01, 0.01, 0.001])


@pytest.mark.parametrize(
    "schedule",
    [
        {"kind": "cosine"},
        {"kind": "cosine", "warmup": 3},
        {"kind": "one_cycle", "warmup": 6},
        {"kind": "milestones", "milestones": (2, 9), "warmup": 1},
    ],
    ids=str,
)
def test_two_phases_share_one_schedule(schedule):
    whole = recipe(12, schedule)
    first = recipe(5, schedule | {"start": 0, "total": 12})
    second = recipe(7, schedule | {"start": 5, "total": 12})
    assert ours(first) + ours(second) == pytest.approx(ours(whole))
    assert len(set(ours(whole))) > 2


def test_every_step_uses_its_learning_rate(split, monkeypatch):
    used = []

    def spy(model, optimiser, *args):
        used.append([group["lr"] for group in optimiser.param_groups])
        return torch.ones(4)

    monkeypatch.setattr(step_module, "train_step", spy)
    plan = recipe(3, {"kind": "cosine", "warmup": 1})
    outcome = run(Single(network(), plan), split, recipe=plan)
    assert used == [[learning_rate(plan, epoch + step / 3)] for epoch in range(3) for step in range(3)]
    assert [row["lr"] for row in outcome.history] == [learning_rate(plan, epoch) for epoch in range(3)]
