"""Broken networks and weak attacks, planted, and the warnings about them."""

import logging
import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import nn

from tamnas.attacks.trace import attack_trace
from tamnas.config.compute import ComputeParams
from tamnas.config.fields import validated
from tamnas.config.images import AugmentParams
from tamnas.config.sections import RecipePlan, TrainingAttackPlan
from tamnas.data.loader import Split
from tamnas.evaluation.health import (
    NOISE,
    Watch,
    above,
    above_chance,
    curve_signs,
    ensemble_signs,
    radius_sign,
    trace_signs,
)
from tamnas.training.loop import Single, train

EPOCH = {
    "train_clean": 0.8,
    "train_robust": 0.6,
    "train_classes": 10,
    "validation_clean": 0.8,
    "validation_robust": 0.5,
    "validation_classes": 10,
}


def curve(*changes: dict) -> list[dict]:
    return [{"epoch": epoch, **EPOCH, **change} for epoch, change in enumerate(changes)]


DEAD = {
    "train_clean": 0.11,
    "train_robust": 0.11,
    "validation_clean": 0.1,
    "validation_robust": 0.1,
    "validation_classes": 1,
}
PLANTED = {
    "dead": curve({}, DEAD, DEAD, DEAD),
    "masked": curve({}, {"train_robust": 0.85}),
    # SVHN with single-step training: the attack of training is fooled, PGD is not, clean accuracy stays
    "overfitted": curve({}, {"train_robust": 0.79, "validation_robust": 0.01}),
    "collapsed": curve({"validation_robust": 0.45}, {}, {"validation_robust": 0.2}),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_every_sign_in_a_curve_is_named(kind):
    found = curve_signs(PLANTED[kind], 0.1, 10_000)
    assert kind in found
    assert f"epoch {PLANTED[kind][-1]['epoch']}" in found[kind]


@pytest.mark.parametrize(("times", "told"), [(3.9, False), (4.1, True)])
def test_overfitting_is_four_times_the_accuracy_under_pgd(times, told):
    found = curve_signs(curve({}, {"train_robust": 0.8, "validation_robust": 0.8 / times}), 0.1, 10_000)
    assert ("overfitted" in found) == told


def test_less_accuracy_beyond_the_training_radius_is_no_overfitting(caplog):
    assert "overfitted" not in curve_signs(PLANTED["overfitted"], 0.1, 10_000, within=False)
    for within, told in ((False, 0), (True, 1)):
        Watch("retrain row", 0.1, 10_000, within)(PLANTED["overfitted"])
        assert caplog.text.count("catastrophic overfitting") == told


@pytest.mark.parametrize(
    ("changes", "finished", "while_training"),
    [
        (({}, {}, DEAD), True, False),  # died in the last epoch: as it grows, one epoch may be a warm-up
        ((DEAD,), True, False),
        ((DEAD, DEAD, DEAD), True, True),
        ((DEAD, DEAD, {}), False, False),  # woke up
        (({}, {**DEAD, "validation_classes": 2}), False, False),
    ],
    ids=str,
)
def test_one_predicted_class_is_a_dead_network(changes, finished, while_training):
    assert ("dead" in curve_signs(curve(*changes), 0.1, 10_000, finished=True)) == finished
    assert ("dead" in curve_signs(curve(*changes), 0.1, 10_000)) == while_training


def test_a_supernet_that_predicts_one_class_in_every_step_is_dead():
    rows = [{"epoch": epoch, "train_clean": 0.5, "train_robust": 0.5, "train_classes": 1} for epoch in range(3)]
    assert set(curve_signs(rows, 0.5, 10_000)) == {"dead"}


# The largest class's share with 2, 3 and 10 classes, equal and not
SHARES = [0.5, 0.9, 0.34, 0.6, 0.1, 0.3]


@pytest.mark.parametrize("share", SHARES)
def test_signs_with_any_number_of_classes(share):
    good = above_chance(share, 0.8)
    learnt = {"train_clean": good, "train_robust": good, "validation_clean": good, "validation_robust": good}
    assert curve_signs(curve(learnt), share, 10_000, finished=True) == {}
    masked = curve({**learnt, "train_clean": above_chance(share, 0.3)})
    assert set(curve_signs(masked, share, 10_000)) == {"masked"}
    assert set(curve_signs(curve(learnt, {**learnt, "validation_robust": 0.01}), share, 10_000)) == {
        "overfitted",
        "collapsed",
    }
    chance = dict.fromkeys(learnt, share)
    assert curve_signs(curve(chance, {**chance, "validation_robust": 0.0}), share, 10_000) == {}


@pytest.mark.parametrize(
    "sound",
    [
        [],
        curve({}),
        curve({}, {}, {}),
        curve(DEAD, DEAD, {}),  # woke up
        curve(DEAD, DEAD),  # a warm-up may look like this for an epoch or two
        curve({"train_robust": 0.81}),  # noise
        curve({"validation_robust": 0.5}, {"validation_robust": 0.4}),  # robust overfitting, no collapse
        curve({"train_robust": 0.12, "validation_robust": 0.01, "train_clean": 0.2}),  # hardly learned anything yet
        curve({"validation_robust": None}, {"validation_robust": None}),
        [{"epoch": 0, "train_clean": 0.5, "train_robust": 0.4, "train_classes": 9}],  # a supernet's: no validation
    ],
    ids=str,
)
def test_sound_curves_have_no_sign(sound):
    assert curve_signs(sound, 0.1, 10_000) == {}


def test_noise_of_few_images_is_no_sign():
    assert curve_signs(PLANTED["masked"], 0.1, 160) == {}
    at_chance = curve({"train_clean": 0.1, "train_robust": 0.15, "validation_robust": 0.1})
    assert curve_signs(at_chance, 0.1, 10_000) == {}


def test_a_sign_is_logged_once(caplog):
    watch, grown = Watch("retrain row", 0.1, 10_000), PLANTED["masked"]
    for length in range(1, 3):
        watch(grown[:length])
    watch([*grown, grown[-1]])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "retrain row" in record.getMessage()
    assert "above clean accuracy" in record.getMessage()


def split(count: int = 60, classes: int = 3) -> Split:
    """Class k has bright pixels in channel k: easy to learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 100, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), labels] += 120
    return Split(images, labels, 255)


class Linear(nn.Module):
    """The smallest network with the contract of `Subnet`."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.first_layer = nn.Conv2d(3, 3, 1, bias=False)
        self.rest = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with torch.no_grad():
            self.first_layer.weight.copy_(scale * 5 * torch.eye(3)[..., None, None])

    def forward(self, x):
        return self.rest(self.first_layer(x))


class Rounded(Linear):
    """Gradients masked: the input passes through a step function."""

    def forward(self, x):
        return super().forward((16 * x).round() / 16)


def traced(model: nn.Module) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return attack_trace(model, split(), eps=8 / 255, step_size=2 / 255, steps=5, generator=generator)


def test_the_loss_of_a_real_attack_grows():
    rows = traced(Linear())
    assert [row["step"] for row in rows] == list(range(6))
    assert all(later["loss"] > earlier["loss"] for earlier, later in pairwise(rows[:4]))
    assert rows[0]["classes"] == 3
    assert trace_signs(rows) == {}


@pytest.mark.parametrize(
    ("model", "words"),
    [(Rounded(), "does not grow"), (Linear(0.0), "is dead"), (Linear(math.nan), "NaN or infinite")],
    ids=["masked", "dead", "nan"],
)
def test_planted_networks_are_named(model, words):
    (line,) = trace_signs(traced(model)).values()
    assert words in line


def test_the_trace_leaves_the_network_as_found():
    model = Linear().train()
    before = model.first_layer.weight.clone()
    traced(model)
    assert model.training
    assert torch.equal(model.first_layer.weight, before)
    assert model.first_layer.weight.grad is None
    assert model.first_layer.weight.requires_grad


def test_an_image_or_two_are_no_sign():
    assert not any(
        above(NOISE, count, images) for count, images in ((0, 1), (1, 1), (1, 20), (2, 100), (3, 360), (35, 10_000))
    )
    assert all(above(NOISE, *pair) for pair in ((2, 50), (3, 100), (4, 360), (50, 10_000)))


def attack_rows_of(parts: dict[str, int], beside: dict[str, int], missed: dict[str, int]) -> list[dict]:
    """Of an attack on 100 images, 98 of them right without it: what stands after each part, and under others."""
    counts = [("clean", "clean", 98)]
    counts += [("beside", name, count) for name, count in beside.items()]
    counts += [("part", name, count) for name, count in parts.items()]
    return [
        {"attack": "ens", "images": 100, "role": role, "name": name, "accuracy": n / 100, "missed": missed.get(name)}
        for role, name, n in counts
    ]


ENSEMBLE = {"APGD-CE": 50, "DLR": 47, "Square": 47}
TEXTS = {"ens": "Ensemble at 8/255", "pgd100": "PGD-100 at 8/255"}


@pytest.mark.parametrize(
    ("parts", "pgd", "missed", "words"),
    [
        (ENSEMBLE, 50, {"Square": 0, "pgd100": 0}, None),
        (ENSEMBLE, 46, {"Square": 2, "pgd100": 2}, None),  # one image more than all of the ensemble, two that it missed
        (ENSEMBLE, 50, {"Square": 3}, "Square, which needs no gradients, fools 3 of 100 images"),
        (ENSEMBLE, 43, {"Square": 0, "pgd100": 4}, "PGD-100 at 8/255 fools 4 of 100 images that Ensemble"),
        (ENSEMBLE | {"APGD-CE": 70}, 66, {}, "PGD-100 at 8/255 leaves 66.00%, Ensemble at 8/255 47.00%"),
        ({"APGD-CE": 70, "DLR": 47}, 80, {}, "APGD-CE leaves 70.00%"),
        ({"Square": 90}, 50, {"pgd100": 40, "Square": 0}, None),  # alone and weak
    ],
    ids=str,
)
def test_signs_of_an_ensemble(parts, pgd, missed, words):
    found = list(ensemble_signs(attack_rows_of(parts, {"pgd100": pgd}, missed), TEXTS))
    assert len(found) == (words is not None)
    assert all(line.startswith(words) and "gradient masking" in line for line in found)


def test_a_smaller_radius_that_finds_more():
    assert radius_sign("PGD-30 at 8/255", None, 360) is None
    assert radius_sign("PGD-30 at 8/255", 3, 360) is None
    line = radius_sign("PGD-30 at 8/255", 4, 360)
    assert line.startswith("PGD-30 at 8/255 leaves 4 of 360 images that it fools within a smaller radius")


def test_no_results_no_signs():
    assert trace_signs([]) == {}


def test_a_network_that_dies_in_training_is_logged(caplog):
    from tamnas.config.sections import NumericsParams
    from tamnas.pipeline import device

    recipe = validated(
        RecipePlan,
        {"batch_size": 20, "lr": 1e-6, "weight_decay": 0.0, "epochs": 4, "schedule": {"kind": "cosine"}},
        "test",
    )
    attack = TrainingAttackPlan(eps=Fraction(8, 255), step_size=Fraction(5, 255), m=1, n=2)
    model = Linear(0.0)
    model.first_layer.weight.register_hook(torch.zeros_like)  # no gradient reaches the weights
    numerics = NumericsParams(precision="float32", threads=1, deterministic=False)
    runtime = device.start(numerics, ComputeParams(device="cpu"))
    setting = {"recipe": recipe, "attack": attack, "augment": AugmentParams(), "key": (0, "retrain", "row")}
    train(Single(model, recipe), split(), **setting, runtime=runtime)
    (record,) = caplog.records
    assert "retrain row: predicts one class for all images in epoch 2: the network is dead." in record.getMessage()


def test_a_trace_is_of_images_from_the_whole_set_and_of_their_mean_loss():
    """Folders come class by class."""
    torch.manual_seed(0)
    images, labels = torch.randint(256, (300, 3, 4, 4), dtype=torch.uint8), torch.arange(300) // 100
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    (row, *_) = attack_trace(model, Split(images, labels, 255), eps=0.0, step_size=0.0, steps=1)
    chosen = torch.arange(128) * 300 // 128
    logits = model(images[chosen] / 255)
    assert len(labels[chosen].unique()) == 3
    assert row["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels[chosen]).item(), rel=1e-5)
    assert row["correct"] == (logits.argmax(1) == labels[chosen]).sum()
