"""Attacks with the settings that their names promise: by hand, in plain loops, and beside the package's own driver."""

from fractions import Fraction

import pyautoattack
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import nn

from tamnas.attacks import packaged
from tamnas.attacks.ascent import margin_sum, under_attack
from tamnas.attacks.listed import EvalPgd, PgdCw
from tamnas.evaluation.attacked import attack_model
from tamnas.seeding import torch_generator
from tests.helpers.attacked import samples, trained_network

EPS, KEY = Fraction(16, 255), (0, "key")
PACKAGE = APGDAttack, APGDAttack_targeted, FABAttack_PT, SquareAttack


def linear(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes)).eval()


def images(count: int) -> torch.Tensor:
    """Far from 0 and 1, where a small radius has no border but its own."""
    return 0.4 + 0.2 * torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def left_by(attack, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return attack_model(model, lambda chosen: x[chosen], y, attack, KEY).left()[-1]


# -- AutoAttack -----------------------------------------------------------------------------------


@pytest.fixture
def settings_of(monkeypatch):
    """A function: the settings of each attack of the package that a call starts, none of which does anything."""

    def settings_of(call) -> list[tuple[str, dict]]:
        started = []

        def perturb(self, x, y, *args, **more):
            plain = {name: value for name, value in vars(self).items() if type(value) in (int, float, str, bool)}
            started.append((type(self).__name__, plain))
            return x

        with monkeypatch.context() as patch:
            for kind in PACKAGE:
                patch.setattr(kind, "perturb", perturb)
            call()
        return started

    return settings_of


def test_the_settings_are_those_of_the_standard_version(settings_of):
    model, x = linear(10), images(4)
    with torch.no_grad():
        y = model(x).argmax(1)
    standard = pyautoattack.AutoAttack(model, eps=float(EPS), version="standard", seed=0, device=x.device)
    theirs = settings_of(lambda: standard.run_standard_evaluation(x, y, batch_size=4))

    def ours() -> None:
        with under_attack(model):
            for kind in ("apgd_ce", "apgd_dlr", "fab", "square"):
                packaged.adversarial(kind, model, x, y, float(EPS), 0)

    assert settings_of(ours) == theirs
    assert [name for name, _ in theirs] == [kind.__name__ for kind in PACKAGE]
    assert theirs[1][1]["n_target_classes"] == theirs[2][1]["n_target_classes"] == 9
    assert theirs[2][1]["targeted"]


# -- PGD beside the grid's ------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "fooled"), [(1.01, True), (0.99, False)])
@pytest.mark.parametrize("attack", [PgdCw, EvalPgd])
def test_pgd_of_a_linear_network_fools_just_beyond_its_margin(attack, share, fooled):
    """The nearest image of the other class is |margin| / |w0 - w1|_1 away."""
    model, x = linear(2), images(20)
    with torch.no_grad():
        logits = model(x)
    weights, y = model[1].weight, logits.argmax(1)
    distances = (logits[:, 0] - logits[:, 1]).abs() / (weights[0] - weights[1]).abs().sum()
    for image, label, distance in zip(x, y, distances.tolist(), strict=True):
        eps = Fraction(share * distance).limit_denominator(10**9)
        standing = left_by(attack(eps=eps, steps=1, step_size=2 * eps), model, image[None], label[None])
        assert standing.item() == (not fooled)


def test_the_margin_is_the_best_wrong_logit_minus_the_right_one():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.5, 4.0, -1.0], [1.0, 7.0, 6.0]])
    y = torch.tensor([0, 0, 2])
    expected = (2 - 3) + (4 - 0.5) + (7 - 6)
    assert margin_sum(logits, y).item() == expected
    assert margin_sum(logits - 10, y).item() == expected  # no logit counts for being near 0


def loop_pgd(model: nn.Module, x, y, step: float, steps: int) -> tuple[list[bool], list[bool]]:
    """Whom any iterate leaves, and whom the last one does."""
    eps = float(EPS)
    noise = torch.rand(x.shape, generator=torch_generator(*KEY, str(EPS)))
    moved = (x + (2 * noise - 1) * eps).clamp(0, 1)
    correct = []
    for _ in range(steps + 1):
        moved = moved.detach().requires_grad_(True)
        logits = model(moved)
        correct.append(logits.argmax(1) == y)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, y, reduction="sum"), moved)
        moved = (moved.detach() + step * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return torch.stack(correct).all(0).tolist(), correct[-1].tolist()


@pytest.mark.parametrize("step", [None, "1/255", "32/255"])
def test_pgd_of_eval_attacks_is_pgd_written_out(step):
    """Step size eps / 4 where none is given; any iterate counts; its noise is its generator's alone."""
    model, (x, y) = trained_network(), samples(250, 1000)
    attack = EvalPgd(eps=EPS, steps=4, step_size=step)
    expected, last = loop_pgd(model, x, y, float(Fraction(step) if step else EPS / 4), 4)
    for seed in (0, 1):
        torch.manual_seed(seed)
        assert left_by(attack, model, x, y).tolist() == expected
    if step == "32/255":  # from border to border: iterates that fool are left again
        assert expected != last
