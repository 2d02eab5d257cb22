"""Accuracies against a brute-force attack, one image at a time, and the grid against its cells."""

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tamnas.attacks.listed import Square
from tamnas.attacks.registry import Pgd
from tamnas.attacks.survival import Attempt
from tamnas.config.sections import ValidationParams
from tamnas.data.loader import Split
from tamnas.evaluation import accuracy as evaluation
from tamnas.evaluation.accuracy import Validator, accuracy, evaluate_pgd, pgd_accuracy, robust_accuracy, share
from tamnas.evaluation.attacked import attack_model
from tamnas.seeding import torch_generator
from tests.helpers.quadrants import centred, eval_plan, labelled

EPS = Fraction(8, 255)


@pytest.fixture(scope="module")
def model(randomise) -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip
    return centred(randomise(layers), layers[-1]).train()


@pytest.fixture(scope="module")
def split(model) -> Split:
    return labelled(model)


def brute_force(model, split, eps, step_size, steps, success, generator) -> float:
    """PGD written out, one image after another; the noise is drawn as one block."""
    model = copy.deepcopy(model).eval()
    noise = (2 * torch.rand(split.images.shape, generator=generator) - 1) * eps
    held = 0
    for image, label, start in zip(split.images, split.labels, noise, strict=True):
        x = image[None] / 255
        moved = (x + start).clamp(0, 1)
        right = []
        for _ in range(steps + 1):
            moved.requires_grad_(True)
            logits = model(moved)
            right.append(logits.argmax(1).item() == label)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, label[None]), moved)
            moved = (moved.detach() + step_size * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
        held += all(right) if success == "any" else right[-1]
    return held / len(split)


def test_accuracy_by_brute_force(model, split):
    with torch.no_grad():
        guesses = [copy.deepcopy(model).eval()(image[None] / 255).argmax().item() for image in split.images]
    expected = sum(guess == label for guess, label in zip(guesses, split.labels.tolist(), strict=True)) / 60
    assert accuracy(model, split) == expected == 0.8


def test_what_is_no_number_is_no_class(split):
    """`argmax` takes NaN for the largest logit."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(split.images[0].numel(), 10))
    nn.init.constant_(model[1].bias[:1], float("nan"))  # of class 0 alone
    assert 0 in split.labels
    assert accuracy(model, split) == 0
    found = attack_model(model, lambda batch: split.scaled(split.images[batch]), split.labels, Square(eps=0.1), (0,))
    assert not found.correct.any()
    validator = evaluation.Validator(
        split, ValidationParams(start=1.0, attack=Pgd(eps=0.1, step_size=0.1, steps=1)), 2, (0,)
    )
    assert validator(model, 1) == {"validation_clean": 0, "validation_robust": 0, "validation_classes": 1}


@pytest.mark.parametrize("success", ["any", "last"])
@pytest.mark.parametrize("steps", [1, 4])
def test_robust_accuracy_by_brute_force(model, split, steps, success):
    attack = {"eps": 8 / 255, "step_size": 4 / 255, "steps": steps, "success": success}
    one = Attempt(**attack | {"steps": (steps,)}, generator=torch_generator("noise"))
    ours = robust_accuracy(model, split, one)
    theirs = brute_force(model, split, **attack, generator=torch_generator("noise"))
    assert ours == pytest.approx(theirs)
    assert 0.1 < ours < 0.75


def test_planned_attack(model, split):
    attack = Pgd(eps="8/255", step_size="2/255", steps=3)
    one = Attempt(8 / 255, 2 / 255, (3,), generator=torch_generator(0, "key"))
    expected = robust_accuracy(model, split, one)
    assert pgd_accuracy(model, split, attack, (0, "key")) == expected


def test_noise_is_drawn_alike_however_many_attacks_share_passes(model, split, monkeypatch):
    drawn = []
    start = evaluation.uniform_start
    monkeypatch.setattr(evaluation, "uniform_start", lambda x, *rest: (drawn.append(len(x)), start(x, *rest))[1])
    monkeypatch.setattr(evaluation, "PIXELS", {"cpu": 16 * split.size**2})
    several = [Attempt(8 / 255, 2 / 255, (1,), generator=torch_generator(seed)) for seed in range(3)]
    evaluation.survivals(model, split, several)
    together = drawn[::3]
    drawn.clear()
    robust_accuracy(model, split, several[0])
    assert drawn == together


@pytest.mark.parametrize("chunk", [1, 7, 16, 60])
def test_chunks_do_not_change_results(model, split, monkeypatch, chunk):
    def shares():
        one = Attempt(8 / 255, 2 / 255, (0, 2, 4), generator=torch_generator(0))
        (standing,) = evaluation.survivals(model, split, [one])
        return standing.tolist(), accuracy(model, split)

    whole = shares()
    sizes = []
    chunks = evaluation.chunks
    monkeypatch.setattr(evaluation, "PIXELS", {"cpu": chunk * split.size**2})
    monkeypatch.setattr(evaluation, "chunks", lambda split, size: (sizes.append(size), chunks(split, size))[1])
    assert shares() == whole
    assert sizes == [chunk] * 2


# -- the grid -----------------------------------------------------------------------------------


def pgds(*pairs) -> list[Pgd]:
    return [Pgd(eps=eps, steps=steps) for eps, steps in pairs]


def test_the_grid_and_the_final_attacks_are_merged():
    setting = eval_plan(
        eps=("8/255", "2/255"), steps=(30, 10),
        final=({"eps": "8/255", "steps": 20}, {"eps": "8/255", "steps": 10}, {"eps": "16/255", "steps": 100}),
    )  # fmt: skip
    small = ("2/255", 10), ("2/255", 30)
    assert setting.pgd(final=False) == pgds(*small, ("8/255", 10), ("8/255", 30))
    final = pgds(*small, ("8/255", 10), ("8/255", 20), ("8/255", 30), ("16/255", 100))
    assert setting.planned() == final


@pytest.mark.parametrize("success", ["any", "last"])
def test_the_grid_equals_every_attack_alone(model, split, success):
    grid = eval_plan(success=success, final=({"eps": "8/255", "steps": 5},), step_divisor=0.5)
    own = Pgd(eps="8/255", steps=4, step_size="1/255")
    attacks = [*grid.pgd(final=True), own]
    shares = {attack: share(mask) for attack, mask in evaluate_pgd(model, split, grid, attacks, (0, "key")).items()}
    expected = pgds(("4/255", 1), ("4/255", 3), (EPS, 1), (EPS, 3), (EPS, 5))
    assert list(shares) == [*expected, own]
    for attack, robust in shares.items():
        eps, step_size = float(attack.eps), float(attack.step_size or attack.eps * 2)
        noise = torch_generator(0, "key", str(attack.eps))
        alone = robust_accuracy(model, split, Attempt(eps, step_size, (attack.steps,), success, noise))
        assert robust == alone
    other = evaluate_pgd(
        model, split, eval_plan(success={"any": "last", "last": "any"}[success]), attacks[:4], (0, "key")
    )
    assert [share(mask) for mask in other.values()] != [*shares.values()][:4]  # the rule makes a difference here
    # it does not depend on which others there are
    (mask,) = evaluate_pgd(model, split, grid, expected[3:4], (0, "key")).values()
    assert share(mask) == shares[expected[3]]
    assert shares[expected[0]] > shares[expected[4]]


@pytest.mark.parametrize("which", ["accuracy", "robust", "grid", "validator"])
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_found(model, split, which, training):
    model = copy.deepcopy(model).train(training)
    model[1].eval()  # a part in another mode than the whole
    modes = [part.training for part in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attack = Pgd(eps="8/255", step_size="2/255", steps=1)
    {
        "accuracy": lambda: accuracy(model, split),
        "robust": lambda: pgd_accuracy(model, split, attack, (0,)),
        "grid": lambda: evaluate_pgd(model, split, eval_plan(), eval_plan().pgd(False), (0,)),
        "validator": lambda: Validator(split, ValidationParams(attack=attack, start=0.0), 2, (0,))(model, 1),
    }[which]()
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# -- validation during training -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "epochs", "first"), [(0.0, 4, 0), (0.25, 4, 1), (0.67, 10, 7), (1.0, 4, 3), (1.0, 1, 0), (0.9, 2, 1)]
)
def test_validator_attacks_from_start_on_and_at_the_end(model, split, monkeypatch, start, epochs, first):
    attacked = []
    monkeypatch.setattr(evaluation, "pgd_accuracy", lambda *args: attacked.append(args[3]) or 0.25)
    attack = Pgd(eps="8/255", step_size="2/255", steps=1)
    validator = Validator(split, ValidationParams(attack=attack, start=start), epochs, (0, "key"))
    rows = [validator(model, epoch) for epoch in range(epochs)]
    assert [row["validation_robust"] for row in rows] == [None] * first + [0.25] * (epochs - first)
    assert [row["validation_clean"] for row in rows] == [0.8] * epochs
    assert len(set(attacked)) == 1  # the same noise in every epoch


# -- many networks ------------------------------------------------------------------------------
