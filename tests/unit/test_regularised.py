"""Averaged weights and worst weights: what the paper does not have."""

import copy

import torch
from torch.nn import functional as F
from torch.testing import assert_close

from tamnas.training.awp import at_worst_weights
from tamnas.training.loop import Single
from tamnas.training.step import train_step
from tests.helpers.toy_training import ATTACK, CPU, equal, network, recipe, run


def test_the_average_follows_by_its_decay(split):
    plan = recipe(ema=0.15)
    trainee = Single(network(), plan)
    expected = {name: value.clone() for name, value in trainee.model.state_dict().items() if value.is_floating_point()}
    for step, start in enumerate((0, 16, 32, 0)):
        x, y = split.images[start : start + 16] / 255, split.labels[start : start + 16]
        train_step(*trainee.at(0, 0), x, y, torch.zeros_like(x), ATTACK, plan, CPU)
        trainee.stepped()
        now = {
            name: tensor.clone() for name, tensor in trainee.model.state_dict().items() if tensor.is_floating_point()
        }
        decay = min(0.15, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in now}
    for name, tensor in expected.items():
        assert_close(trainee.network.state_dict()[name], tensor)
    assert not torch.equal(trainee.network.first_layer.weight, trainee.model.first_layer.weight)


def test_the_average_counts_batches_as_the_model_does(split):
    trainee = Single(network(), recipe(ema=0.9))
    x, y = split.images[:16] / 255, split.labels[:16]
    for _ in range(3):
        train_step(*trainee.at(0, 0), x, y, torch.zeros_like(x), ATTACK, recipe(), CPU)
        trainee.stepped()
    counted = {name: tensor for name, tensor in trainee.model.state_dict().items() if not tensor.is_floating_point()}
    assert set(map(int, counted.values())) == {6}  # clean and perturbed
    assert equal(counted, {name: trainee.network.state_dict()[name] for name in counted})


def test_the_average_is_what_is_validated_and_kept(split):
    trainee = Single(network(), recipe(ema=0.9))
    validated = []

    def validate(model, epoch):
        validated.append(model)
        return {"validation_clean": 0.5, "validation_robust": 0.5}

    outcome = run(trainee, split, recipe=recipe(ema=0.9), validate=validate)
    assert all(model is trainee.average.network for model in validated)
    assert equal(outcome.best, dict(trainee.network.state_dict()))
    assert not torch.equal(outcome.best["first_layer.weight"], trainee.model.first_layer.weight)


def test_worst_weights_by_hand(split):
    model, (x, y) = network(), (split.images[:16] / 255, split.labels[:16])
    reference, before = copy.deepcopy(model).train(), {k: v.clone() for k, v in model.state_dict().items()}
    F.cross_entropy(reference(x), y).backward()
    plain = F.cross_entropy(model.train()(x), y).item()
    model.load_state_dict(before)

    def objective():
        return (F.cross_entropy(model(x), y),)

    with at_worst_weights(model, objective, 0.01):
        for (name, moved), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
            if moved.dim() > 1:
                direction = theirs.grad / theirs.grad.norm().clamp_min(1e-12)  # layers behind dead units have none
                away = 0.01 * before[name].norm() * direction
                assert_close(moved.detach(), before[name] + away, rtol=1e-4, atol=1e-6)
            else:
                assert torch.equal(moved, before[name])
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())  # by the pass for g
        assert objective()[0].item() > plain
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
