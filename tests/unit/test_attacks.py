"""PGD and who survives it: against the Adversarial Robustness Toolbox, its definition, and properties."""

import copy
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tamnas.attacks.ascent import pgd, project, under_attack
from tamnas.attacks.survival import Attempt, survivors
from tamnas.attacks.yopo import perturb
from tests.helpers.attacked import CLASSES, SIZE, samples, trained_network

EPS, STEP = 16 / 255, 4 / 255
LEAP = 2 * EPS  # from border to border: iterates that fool the network are left again


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return trained_network()


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    return samples(300, 1000)


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def art_pgd(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> torch.Tensor:
    """The Adversarial Robustness Toolbox's PGD, without a random start."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        copy.deepcopy(model), nn.CrossEntropyLoss(), (3, SIZE, SIZE), CLASSES, clip_values=(0, 1), device_type="cpu"
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier, eps=EPS, eps_step=STEP, max_iter=steps, num_random_init=0, batch_size=len(x), verbose=False
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


@pytest.mark.parametrize("steps", [1, 10])
def test_pgd_without_random_start_is_the_toolboxs(model, data, steps):
    x, y = data
    ours = pgd(model, x, y, eps=EPS, step_size=STEP, steps=steps, random_start=False)
    theirs = art_pgd(model, x, y, steps)
    apart = (ours - theirs).abs() > 1e-5
    assert apart.float().mean() < 1e-3  # a gradient within rounding of zero may change its sign
    assert ours.ne(x).any()


@settings(max_examples=30)
@given(
    eps=st.floats(0.001, 1),
    step=st.floats(0.001, 1),
    steps=st.integers(1, 3),
    random_start=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_pgd_stays_in_the_ball_and_in_the_image(trained, eps, step, steps, random_start, seed):
    x, y = samples(5, seed)
    kept = x.clone()
    x_adv = pgd(trained, x, y, eps=eps, step_size=step, steps=steps, generator=seeded(seed), random_start=random_start)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert (x_adv - x).abs().max() <= eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.equal(x, kept)


@given(st.floats(-3, 3), st.floats(0, 1), st.floats(0.001, 1))
def test_projection_is_the_nearest_point(eta, x, eps):
    low, high = max(-eps, -x), min(eps, 1 - x)
    found = project(torch.tensor([eta]), torch.tensor([x]), eps).item()
    assert found == pytest.approx(min(max(eta, low), high), abs=1e-6)


def test_pgd_follows_its_generator(model, data):
    x, y = data

    def attacked(seed):
        return pgd(model, x[:20], y[:20], eps=EPS, step_size=STEP, steps=2, generator=seeded(seed))

    assert torch.equal(attacked(1), attacked(1))
    assert not torch.equal(attacked(1), attacked(2))


def test_random_start_covers_the_ball(model):
    x, y = torch.full((200, 3, SIZE, SIZE), 0.5), torch.zeros(200, dtype=torch.long)
    start = pgd(model, x, y, eps=EPS, step_size=STEP, steps=0, generator=seeded()) - x
    assert abs(start.mean().item()) < 0.01 * EPS
    assert start.std().item() == pytest.approx(EPS / 3**0.5, rel=0.01)
    assert start.abs().max().item() == pytest.approx(EPS, rel=0.01)


class Fuse(nn.Module):
    """Passes its input, and raises at the `nth` call."""

    def __init__(self, nth: int | None = None):
        super().__init__()
        self.left = nth

    def forward(self, x):
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise RuntimeError("blown")
        return x


def marked(model: nn.Module) -> nn.Module:
    """`model` in a state that no attack would choose: mixed modes, frozen parts, gradients set."""
    model.train()
    model[3].eval()
    model[4].eval()
    model[0].weight.requires_grad_(False)
    for i, p in enumerate(model.parameters()):
        p.grad = None if i % 2 else torch.full_like(p, i)
    return model


def fingerprint(model: nn.Module) -> list:
    tensors = [t.detach().clone() for t in model.state_dict().values()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = [p.requires_grad for p in model.parameters()]
    modes = [(part.training, getattr(part, "track_running_stats", None)) for part in model.modules()]
    return [tensors, grads, flags, modes]


def assert_as_found(before: list, after: list):
    assert before[2:] == after[2:]
    for left, right in zip(before[0] + before[1], after[0] + after[1], strict=True):
        assert (left is None and right is None) or torch.equal(left, right)


@pytest.mark.parametrize("blown", [None, 1, 2])
@pytest.mark.parametrize("attack", [pgd, survivors])
def test_attacks_leave_the_model_as_found(model, data, attack, blown):
    x, y = data[0][:8], data[1][:8]
    model = marked(nn.Sequential(*model, Fuse(blown)))
    before = fingerprint(model)
    try:
        if attack is pgd:
            pgd(model, x, y, eps=EPS, step_size=STEP, steps=3, generator=seeded())
        else:
            survivors(model, x, y, [Attempt(EPS, STEP, (1, 3), generator=seeded())])
        assert blown is None
    except RuntimeError:
        assert blown
    assert_as_found(before, fingerprint(model))


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_under_attack_restores_after_an_error(model, bn):
    before = fingerprint(marked(model))
    with suppress(InterruptedError), under_attack(model, bn):
        assert not any(p.requires_grad for p in model.parameters())
        assert [part.training for part in model] == [bn == "batch" and isinstance(p, nn.BatchNorm2d) for p in model]
        model(samples(4, 0)[0])
        raise InterruptedError
    assert_as_found(before, fingerprint(model))


@pytest.mark.parametrize("caller", [torch.no_grad, torch.enable_grad])
def test_attacks_work_in_either_grad_mode(model, data, caller):
    x, y = data[0][:20], data[1][:20]
    with caller():
        x_adv = pgd(model, x, y, eps=EPS, step_size=STEP, steps=3, generator=seeded())
    assert not x_adv.requires_grad
    assert torch.equal(x_adv, pgd(model, x, y, eps=EPS, step_size=STEP, steps=3, generator=seeded()))


def stand(model, data, steps, success, seed=0, step_size=STEP):
    (found,) = survivors(model, *data, [Attempt(EPS, step_size, tuple(steps), success, seeded(seed))])
    return found


@pytest.mark.parametrize("success", ["any", "last"])
def test_survivors_equal_each_step_count_alone(model, data, success):
    steps = (7, 1, 10, 3)
    together = stand(model, data, steps, success, step_size=LEAP)
    assert together.shape == (4, len(data[0]))
    assert together.dtype == torch.bool
    for row, count in zip(together, steps, strict=True):
        assert torch.equal(row, stand(model, data, (count,), success, step_size=LEAP)[0])


def test_attacks_that_share_passes_equal_each_alone(model, data):
    several = [
        Attempt(eps * EPS, eps * step, steps, success)
        for eps, step, steps, success in (
            (1, LEAP, (7, 1, 10), "any"), (0.25, STEP, (3,), "last"), (2, STEP, (0, 12), "last"),
            (1, LEAP, (2,), "any"),
        )
    ]  # fmt: skip

    def seeds():
        return [replace(one, generator=seeded(seed)) for seed, one in enumerate(several)]

    together = survivors(model, *data, seeds())
    assert [found.shape for found in together] == [(len(one.steps), len(data[0])) for one in several]
    for found, one in zip(together, seeds(), strict=True):
        (alone,) = survivors(model, *data, [one])
        assert (found != alone).float().mean() <= 0.005  # larger batches may round differently
        assert 0 < found.float().mean() < 1


def plain_survivors(model, data, steps: tuple[int, ...], eta: Tensor, step_size: float) -> Tensor:
    """By definition, every image attacked to the end: (len(steps), N) bool."""
    x, y = data
    standing, found = torch.ones(len(y), dtype=torch.bool), {}
    for step in range(max(steps) + 1):
        eta = eta.detach().requires_grad_(True)
        logits = model(x + eta)
        standing &= logits.argmax(1) == y
        found[step] = standing.clone()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, y, reduction="sum"), eta)
        eta = (x + (eta + step_size * gradient.sign()).clamp(-EPS, EPS)).clamp(0, 1) - x
    return torch.stack([found[count] for count in steps])


class Counting(nn.Module):
    """How many images were propagated."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


@pytest.mark.parametrize("step_size", [STEP, EPS])
def test_images_whose_iterates_repeat_are_left_alone_and_stand(model, data, step_size):
    model, (x, y) = model.double().eval(), (data[0].double(), data[1])
    counting, start = Counting(model), torch.zeros_like(x)
    (found,) = survivors(counting, x, y, [Attempt(EPS, step_size, (40, 2, 60))], [start])
    assert torch.equal(found, plain_survivors(model, (x, y), (40, 2, 60), start, step_size))
    assert 0 < found[2].float().mean() < 1
    assert counting.images < 0.9 * (60 * int(found[2].sum()))  # those that stand were not attacked to the end


def test_any_is_last_at_every_iterate(model, data):
    # By definition: a sample stands if no iterate up to the last, random start included, fools the network.
    x, y = data
    everything = stand(model, data, range(9), "last", step_size=LEAP)
    start = pgd(model, x, y, eps=EPS, step_size=STEP, steps=0, generator=seeded())
    assert torch.equal(everything[0], model(start).argmax(1) == y)
    expected = everything.cumprod(0).bool()
    found = stand(model, data, range(9), "any", step_size=LEAP)
    assert (found != expected).float().mean() <= 0.005  # smaller batches may round differently


@pytest.mark.parametrize("steps", [1, 10])
def test_survivors_of_the_last_iterate_are_pgds(model, data, steps):
    x, y = data
    x_adv = pgd(model, x, y, eps=EPS, step_size=STEP, steps=steps, generator=seeded(5))
    with torch.no_grad():
        correct = model(x_adv).argmax(1) == y
    assert torch.equal(stand(model, data, (steps,), "last", seed=5)[0], correct)


def test_survivors_when_nobody_stands(model, data):
    x, y = data
    wrong = model(x).argmax(1) != y
    (nobody,) = survivors(model, x[wrong], y[wrong], [Attempt(1e-6, 1e-6, (1, 5), generator=seeded())])
    assert not nobody.any()


@pytest.mark.parametrize(
    ("change", "eps", "words"),
    [
        (lambda x: 255 * x, 8 / 255, r"images of dtype torch.float32 from 0 to 255; allowed: floats in \[0, 1\]"),
        (lambda x: (255 * x).byte(), 8 / 255, "images of dtype torch.uint8"),
        (lambda x: 2 * x - 1, 8 / 255, "from -1 to 1"),
        (lambda x: x.where(x < 0.9, float("nan")), 8 / 255, "nan"),
        (lambda x: x, 8, "eps is 8; allowed: a share of the pixel range, such as 8 / 255"),
        (lambda x: x, -0.1, "eps is -0.1"),
    ],
    ids=["of 255", "bytes", "centred", "nan", "large eps", "negative eps"],
)
def test_what_is_no_share_of_the_pixel_range_is_refused(trained, data, change, eps, words):
    x, y = change(data[0]), data[1]
    with pytest.raises(ValueError, match=words):
        pgd(trained, x, y, eps=eps, step_size=STEP, steps=1)
    with pytest.raises(ValueError, match=words):
        perturb(trained, x, torch.zeros_like(x), eps=eps, step_size=STEP, m=1, n=1)


def test_no_images_are_no_error(trained, data):
    x, y = (part[:0] for part in data)
    assert pgd(trained, x, y, eps=EPS, step_size=STEP, steps=1).shape == x.shape
