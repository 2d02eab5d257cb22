"""`tamnas.evaluate` and its command: equality with the pipeline's evaluation, formats, checks, resumption."""

import json
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import nn

import tamnas
from tamnas.attacks.listed import ApgdCe, AutoAttack, EvalPgd, PgdCw, Square
from tamnas.attacks.registry import EvalAttack, parse_attack, register
from tamnas.errors import InputError
from tamnas.evaluation import any_model
from tamnas.evaluation.attacked import attack_model
from tests.helpers.attacked import CLASSES, Scaled, fewer_queries, first_wrong, trained_network

EPS = Fraction(16, 255)
X, Y = first_wrong(24, 1000)


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    fewer_queries(monkeypatch, 100)


@register
class NearSighted(EvalAttack):
    """Fools every image within 4/255 and none within more."""

    kind: Literal["near_sighted"] = "near_sighted"
    name: ClassVar[str] = "Near-sighted"

    def survivors(self, model, x, y, generator):
        return torch.full((len(x),), self.eps > Fraction(4, 255))


def test_the_worst_case_is_over_all_attacks_of_this_radius_or_a_smaller_one():
    far, near = (NearSighted(eps=f"{eps}/255") for eps in (8, 4))
    result = tamnas.evaluate(trained_network(), X, Y, [far, near])
    assert [attack.robust.correct for attack in result.attacks] == [23, 0]
    assert [attack.worst.correct for attack in result.attacks] == [0, 0]
    (alarm,) = result.alarms
    assert alarm.startswith("Near-sighted at 8/255 leaves 23 of 24 images that it fools within a smaller radius")
    alone = tamnas.evaluate(trained_network(), X, Y, [far])
    assert (alone.attacks[0].worst.correct, alone.alarms) == (23, ())


def test_each_ensemble_is_shown_with_its_own_parts():
    found = tamnas.evaluate(trained_network(), X, Y, ["autoattack:2/255", "autoattack:32/255"])
    weak, strong = (result.parts["APGD-CE"].correct for result in found.attacks)
    assert weak > strong
    expected = [
        (name, accuracy.text)
        for result in found.attacks
        for name, accuracy in ((result.attack.text, result.robust), *result.parts.items())
    ]
    for line, (name, text) in zip(found.text.splitlines()[1:], expected, strict=False):
        assert name in line
        assert line.endswith(text)


class Off8Bits(nn.Module):
    """`change` of the logits of images whose pixels are no whole 255ths."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.eval()

    def forward(self, x):
        logits = trained_network()(x)
        off = ((255 * x - (255 * x).round()).abs() > 1e-3).flatten(1).any(1)
        return torch.where(off[:, None], self.change(logits), logits)


WHOLE = (X * 255).round() / 255


def test_nan_under_attack_is_no_class():
    """`argmax` of NaN alone is class 0."""
    assert (Y == 0).any()
    found = tamnas.evaluate(Off8Bits(lambda logits: logits * NAN), WHOLE, Y, ["pgd:8/255:steps=2"])
    assert found.attacks[0].robust.correct == 0
    assert found.alarms == ("the loss under attack is NaN or infinite: the network is broken.",)


def test_what_is_kept_of_a_model_is_not_given_for_one_that_differs_under_attack_alone(tmp_path):
    attacks, other = ["pgd:16/255:steps=2"], Off8Bits(lambda logits: -logits)
    kept = tamnas.evaluate(trained_network(), WHOLE, Y, attacks, checkpoints=tmp_path)
    found = tamnas.evaluate(other, WHOLE, Y, attacks, checkpoints=tmp_path)
    assert found.clean == kept.clean
    assert found == tamnas.evaluate(other, WHOLE, Y, attacks) != kept


@pytest.mark.parametrize("kind", [">i8", "uint16", "uint64"])
def test_any_of_numpys_integers_are_labels_and_any_strides_images(kind):
    expected = tamnas.evaluate(trained_network(), X, Y, ["pgd:16/255:steps=2"])
    backwards = X.flip(0).numpy()[::-1]
    assert tamnas.evaluate(trained_network(), backwards, Y.numpy().astype(kind), ["pgd:16/255:steps=2"]) == expected


def test_a_frozen_script_has_no_mode():
    frozen = torch.jit.freeze(torch.jit.script(trained_network()))
    assert tamnas.evaluate(frozen, X, Y, ["pgd:16/255:steps=2"]).notes == ()


def test_images_of_one_class_are_no_sign_of_a_dead_network():
    x, y = X[Y == 2], Y[Y == 2]
    right = trained_network()(x).argmax(1) == y
    found = tamnas.evaluate(trained_network(), x[right], y[right], ["pgd:16/255:steps=3"])
    assert (found.clean.share, found.alarms) == (1, ())


def test_it_is_the_evaluation_of_the_pipeline():
    model, attack = trained_network(), AutoAttack(eps=EPS, images=12, batch_size=5)
    found = tamnas.evaluate(model, X, Y, [attack, ApgdCe(eps=EPS)], seed=3)
    outcome = attack_model(model, lambda rows: X[rows], Y, attack, (3, "evaluate"))
    ensemble, single = found.attacks
    left = [int(standing.sum()) for standing in outcome.left()]
    assert [accuracy.correct for accuracy in ensemble.parts.values()] == left
    assert list(ensemble.parts) == ["APGD-CE", "APGD-DLR targeted", "FAB targeted", "Square"]
    assert ensemble.robust.correct == left[-1] < ensemble.clean.correct
    assert (ensemble.clean.images, single.clean.images, found.clean.images) == (12, 24, 24)
    assert found.clean.correct == 23
    assert single.parts == {}
    low, high = single.robust.interval
    assert low < single.robust.share < high
    assert json.loads(json.dumps(found.plain()))["attacks"][0]["robust"]["correct"] == left[-1]
    assert "AutoAttack at 16/255 on 12 images" in found.text
    assert (found.alarms, found.notes) == ((), ())


def test_numpy_and_torch_images_and_a_model_in_training_mode_are_left_as_found():
    model = trained_network()
    expected = tamnas.evaluate(model, X, Y, ["pgd:16/255:steps=3"])
    model.train()
    try:
        found = tamnas.evaluate(model, X.double().numpy(), Y.int().numpy(), ["pgd:16/255:steps=3"])
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    assert all(p.requires_grad for p in model.parameters())
    assert found.attacks == expected.attacks
    assert found.notes == ("the model was in training mode; it is evaluated in eval mode.",)


class Softmax(nn.Sequential):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Random(nn.Module):
    def forward(self, x):
        return trained_network()(x) + torch.rand(len(x), CLASSES)


class OfBatch(nn.Module):
    def forward(self, x):
        return trained_network()(x - x.mean(0))


class Rounded(nn.Module):
    """Gradients masked by a step function; few digits, so that the classes stay."""

    def forward(self, x):
        return trained_network()((16 * x).round() / 16)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("model", "attacks", "words"),
    [
        (
            Scaled(trained_network(), 1e4),
            ["pgd:16/255:steps=20", "autoattack:16/255"],
            ["the gradient is zero for", "PGD-20 at 16/255 leaves"],
        ),
        (Rounded(), ["pgd:16/255:steps=2"], ["the loss of the attack does not grow"]),
        (Softmax(trained_network()), ["pgd_cw:16/255:steps=2"], ["probabilities, no logits"]),
    ],
    ids=["scaled", "rounded", "softmax"],
)
def test_models_that_mislead_attacks_raise_alarms(model, attacks, words):
    alarms = tamnas.evaluate(model, X, Y, attacks).alarms
    assert len(alarms) == len(words)
    assert all(word in alarm for alarm, word in zip(alarms, words, strict=True))


def test_a_model_without_gradients_meets_square_alone():
    model = Function(torch.no_grad()(trained_network()))
    found = tamnas.evaluate(model, X, Y, [AutoAttack(eps=EPS, batch_size=9), EvalPgd(eps=EPS, steps=2)])
    (square,) = found.attacks
    assert square.attack == Square(eps=EPS, batch_size=9)
    assert square == tamnas.evaluate(trained_network(), X, Y, [square.attack]).attacks[0]
    assert found.notes == (
        "AutoAttack at 16/255: the model gives no gradients; of it Square alone ran.",
        "PGD-2 at 16/255: the model gives no gradients; left out.",
        "without gradients an attack finds less: true robust accuracy may be far lower.",
    )
    assert found.alarms == ()
    with pytest.raises(InputError, match="no gradients, which PGD-2 at 16/255 needs; allowed: square, autoattack"):
        tamnas.evaluate(model, X, Y, ["pgd:16/255:steps=2"])


def test_an_operation_without_a_derivative_gives_no_gradients():
    network = trained_network()
    found = tamnas.evaluate(Function(lambda x: torch.nextafter(network(x), X.new_ones(()))), X, Y, "square:16/255")
    assert [one.attack.kind for one in found.attacks] == ["square"]
    assert found.notes == ("without gradients an attack finds less: true robust accuracy may be far lower.",)


NAN = torch.tensor(float("nan"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": X * 255}, "images of torch.float32 from 0 to 255; allowed: floats in [0, 1]"),
        ({"images": X * NAN}, "images of torch.float32 from nan to nan"),
        ({"images": (X * 255).byte()}, "images of torch.uint8 from 0 to 255"),
        ({"images": X[0]}, "images of shape (3, 8, 8); allowed: (N, C, H, W)"),
        ({"images": X[:0], "labels": Y[:0]}, "images of shape (0, 3, 8, 8)"),
        ({"images": X[..., :4]}, "the model fails on images of shape (16, 3, 8, 4): RuntimeError: mat1 and mat2"),
        ({"labels": Y[:5]}, "labels of torch.int64 and shape (5,); allowed: one integer for each of 24 images"),
        ({"labels": Y.float()}, "labels of torch.float32"),
        ({"labels": Y + 1}, "labels up to 4; the model gives 4 logits"),
        ({"labels": Y - 1}, "the smallest label is -1"),
        ({"model": Random()}, "gives other logits for the same images"),
        ({"model": OfBatch()}, "depend on the other images of its batch"),
        ({"model": Function(lambda x: x)}, "gives torch.float32 of shape (16, 3, 8, 8) for 16 images"),
        ({"model": Function(lambda x: (x,))}, "the model gives tuple"),
        ({"model": Function(lambda x: trained_network()(x).argmax(1))}, "gives torch.int64 of shape (16,)"),
        ({"model": Function(lambda x: trained_network()(x) / 0)}, "NaN or infinite logits for 24 of 24 images"),
        ({"attacks": []}, "attacks: none"),
        ({"attacks": [Square(eps=EPS)] * 2 + [Square(eps=EPS, batch_size=3)]}, "must differ"),
        ({"attacks": [NearSighted(eps=EPS), Square(eps=EPS, images=25)]}, "images is 25; there are 24 test images"),
        ({"labels": np.array(["cat"] * 24)}, "labels of <U3; allowed: numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line(change, words):
    setting = {"model": trained_network(), "images": X, "labels": Y, "attacks": [Square(eps=EPS)]} | change
    with pytest.raises(InputError) as error:
        tamnas.evaluate(**setting)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "attack"),
    [
        ("autoattack:8/255", AutoAttack(eps="8/255", batch_size=7)),
        ("pgd:8/255:steps=20", EvalPgd(eps="8/255", steps=20, batch_size=7)),
        ("pgd_cw:0.5:steps=3:step_size=1/255", PgdCw(eps=0.5, steps=3, step_size="1/255", batch_size=7)),
        ("autoattack", "allowed: KIND:EPS"),
        ("", "allowed: KIND:EPS"),
        ("autoattack:8", "attack.eps is '8': must be a fraction"),
        ("foo:8/255", "attack.kind is 'foo': no such attack; allowed: pgd, pgd_cw"),
        ("pgd:8/255", "attack.steps: is missing"),
        ("pgd:8/255:steps", "allowed: KIND:EPS"),
        ("pgd:8/255:steps=\u00b2", "attack.steps is '\u00b2'"),
        (f"pgd:8/255:steps={'9' * 5000}", "is not valid YAML: Exceeds the limit"),
        ("pgd:8/255:steps=2.5", "attack.steps is 2.5"),
        ("pgd:8/255:steps=true", "attack.steps is True"),
        ("pgd:8/255:steps=2:steps=3", "allowed: KIND:EPS"),
        ("pgd:8/255:stps=3", "attack.stps: no such parameter"),
        ("square:8/255:images=9", "images is no part of an attack's text"),
    ],
)
def test_attacks_as_text(text, attack):
    if isinstance(attack, str):
        with pytest.raises(InputError) as error:
            parse_attack(text, 7)
        assert attack in str(error.value)
    else:
        assert parse_attack(text, 7) == attack


# -- killed and resumed -----------------------------------------------------------------------------------------------


def batches_run(monkeypatch, model, folder, most: int | None = None, **changed) -> tuple[list[str], object]:
    """What an evaluation computed until it was killed after `most` batches, and its result."""
    told = []

    def tell(what: str) -> None:
        if most is not None and len(told) == most:
            raise KeyboardInterrupt
        told.append(what)

    monkeypatch.setattr(any_model.log, "info", tell)
    setting = {"attacks": ["autoattack:16/255"], "batch_size": 10, "checkpoints": folder} | changed
    try:
        return told, tamnas.evaluate(model, X, Y, **setting)
    except KeyboardInterrupt:
        return told, None


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_another_model_begins_anew(monkeypatch, tmp_path):
    model = trained_network()
    planned, whole = batches_run(monkeypatch, model, None)
    first, nothing = batches_run(monkeypatch, model, tmp_path, most=4)
    assert nothing is None
    rest, found = batches_run(monkeypatch, model, tmp_path)
    assert [*first, *rest] == planned
    assert found == whole
    assert batches_run(monkeypatch, model, tmp_path)[0] == []
    others = [  # the same weights and classes, each time with something else that matters
        batches_run(monkeypatch, Scaled(model, 2), tmp_path, most=1),
        batches_run(monkeypatch, model, tmp_path, most=1, seed=1),
        batches_run(monkeypatch, model, tmp_path, most=1, batch_size=11),
        batches_run(monkeypatch, Function(lambda x: model(x.detach() + 0.5 * (x - x.detach()))), tmp_path, most=1),
    ]
    assert all(len(told) == 1 for told, _ in others)
