import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from tamnas.attacks.ascent import pgd, project, uniform_start
from tamnas.attacks.yopo import perturb, pgd_at_loss, start_noise, trades_loss
from tamnas.networks.baselines import baseline
from tamnas.networks.batchnorm import recalibrate
from tamnas.networks.subnet import Subnet
from tamnas.space.architecture import Architecture
from tests.helpers.toy_training import network

EPS = 8 / 255


def literal_yopo(model: nn.Module, x, start, *, eps, step_size, m, n):
    """Design section 6 word for word, in the mode that the model is in."""
    eta = project(start, x, eps)
    with torch.no_grad():
        soft = F.softmax(model(x), dim=1)
    for _ in range(m):
        h = model.first_layer(x + eta).detach().requires_grad_(True)
        loss = F.kl_div(F.log_softmax(model.rest(h), dim=1), soft, reduction="sum")
        (p,) = torch.autograd.grad(loss, h)
        for _ in range(n):
            eta.requires_grad_(True)
            (g,) = torch.autograd.grad((p * model.first_layer(x + eta)).sum(), eta)
            eta = project(eta.detach() + step_size * g.sign(), x, eps)
    return eta


@pytest.fixture(scope="module", params=["subnet", "attention", "resnet20"])
def model(request, space, randomise) -> nn.Module:
    if request.param == "resnet20":
        return randomise(baseline("resnet20", 10)).double().eval()
    blocks = (0,) * 4 if request.param == "subnet" else (6, 12, 20, 6)
    arch = Architecture(blocks[: len(space.layers)], (1.0,) * len(space.layers))
    return randomise(Subnet(space, arch)).double().eval()


@pytest.fixture(scope="module", params=["subnet", "attention", "resnet20"])
def trained(request, split) -> nn.Module:
    """Twenty steps on `split`: its predictions are sure, so that attacks move them far beyond rounding. Eval mode."""
    generator = torch.Generator().manual_seed(0)
    if request.param == "resnet20":
        model = baseline("resnet20", 3, generator)
    else:
        model = network(arch=Architecture((0, 6, 20) if request.param == "attention" else (0, 3, 0), (1.0,) * 3))
    optimiser, x = torch.optim.SGD(model.train().parameters(), lr=0.05, momentum=0.9), split.scaled(split.images)
    for _ in range(20):
        optimiser.zero_grad()
        F.cross_entropy(model(x), split.labels).backward()
        optimiser.step()
    recalibrate(model, [x])  # running statistics lag behind so few steps
    return model.double().eval()


@pytest.fixture(scope="module")
def seen(split) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images that `trained` saw, and a start."""
    x = split.scaled(split.images[:16]).double()
    return x, start_noise(x, EPS, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64).mul(0.4).add(0.5).clamp(0, 1)
    return x, start_noise(x, EPS, generator)


@pytest.fixture
def double(monkeypatch):
    """float32 rounding of softmax and loss switched off: a gradient near zero would change its sign."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def buffers(model: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in model.buffers()]


@pytest.mark.parametrize(("m", "n", "step"), [(1, 1, 4), (1, 2, 5), (2, 2, 2.5), (3, 2, 2), (5, 3, 2), (2, 7, 0.5)])
def test_perturbation_is_the_literal_inner_loop(model, batch, m, n, step, double):
    x, start = batch
    setting = {"eps": EPS, "step_size": step / 255, "m": m, "n": n}
    ours, literal = perturb(model, x, start, **setting), literal_yopo(model, x, start, **setting)
    assert_close(ours, literal, rtol=0, atol=1e-9)
    assert (ours.abs() > 0.9 * min(EPS, n * step / 255)).double().mean() > 0.3  # it went somewhere
    assert ours.abs().max() <= EPS + 1e-12
    assert (x + ours).min() >= 0
    assert (x + ours).max() <= 1


def test_perturbation_raises_the_divergence(trained, seen, double):
    x, start = seen

    def divergence(eta):
        clean, moved = trained(x).log_softmax(1), trained(x + eta).log_softmax(1)
        return F.kl_div(moved, clean, reduction="sum", log_target=True).item()

    with torch.no_grad():
        reached = [divergence(perturb(trained, x, start, eps=EPS, step_size=2 / 255, m=m, n=2)) for m in (1, 5)]
        assert reached[0] > 0.01
        assert divergence(start) < 0.2 * reached[0]
        assert reached[0] < 1.05 * reached[1]


@pytest.mark.parametrize("training", [False, True])
def test_batch_statistics(model, batch, training, double):
    x, start = batch
    setting = {"eps": EPS, "step_size": 2 / 255, "m": 2, "n": 2}
    # The reference in train mode uses batch statistics, and spoils its own running ones.
    literal = literal_yopo(copy.deepcopy(model).train(), x, start, **setting)
    model, before = copy.deepcopy(model).train(training), buffers(model)
    ours = perturb(model, x, start, bn="batch", **setting)
    assert_close(ours, literal, rtol=0, atol=1e-9)
    assert all(map(torch.equal, buffers(model), before))
    assert all(part.training == training for part in model.modules())
    running = perturb(model, x, start, bn="eval", **setting)
    assert ((ours - running).abs() > 1e-6).double().mean() > 0.05


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_model_is_left_as_found(model, batch, bn):
    model = copy.deepcopy(model).train()
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 3 > 0)
        p.grad = torch.full_like(p, i) if i % 2 else None
    before = copy.deepcopy(model)
    grads = [p.grad for p in model.parameters()]
    perturb(model, *batch, eps=EPS, step_size=2 / 255, m=2, n=2, bn=bn)
    assert all(map(torch.equal, model.state_dict().values(), before.state_dict().values()))
    for ours, theirs, grad in zip(model.parameters(), before.parameters(), grads, strict=True):
        assert ours.requires_grad == theirs.requires_grad
        assert ours.grad is grad
        assert grad is None or torch.equal(grad, torch.full_like(grad, grad.flatten()[0].item()))
    assert all(part.training for part in model.modules())
    assert all(getattr(part, "track_running_stats", True) for part in model.modules())


def test_start_is_projected(model, batch):
    x, _ = batch
    huge = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    seen = []
    hook = model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach() - x))
    try:
        eta = perturb(model, x, huge, eps=EPS, step_size=1 / 255, m=1, n=1)
    finally:
        hook.remove()
    clean, first = seen
    assert not clean.any()
    assert_close(first, project(huge, x, EPS))
    assert first.abs().max() <= EPS + 1e-12
    assert_close(eta, perturb(model, x, project(huge, x, EPS), eps=EPS, step_size=1 / 255, m=1, n=1))


def test_first_propagation_is_float32_under_autocast(trained, seen):
    # The start noise is below bfloat16's resolution near 1: its gradient signs would be noise.
    single, (x, start) = copy.deepcopy(trained).float(), (tensor.float() for tensor in seen)
    for m in (1, 3):
        setting = {"eps": EPS, "step_size": 2 / 255, "m": m, "n": 2}
        exact = perturb(single, x, start, **setting)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = perturb(single, x, start, **setting)
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, exact) == (m == 1)
        assert (rounded.sign() == exact.sign()).float().mean() > 0.85


def test_start_noise():
    x = torch.full((50, 3, 8, 8), 0.5)
    noise = start_noise(x, EPS, torch.Generator().manual_seed(0))
    assert noise.std().item() == pytest.approx(0.001, rel=0.05)
    assert torch.equal(noise, start_noise(x, EPS, torch.Generator().manual_seed(0)))
    assert start_noise(x, 0.0005, torch.Generator().manual_seed(0)).abs().max().item() == pytest.approx(
        0.0005, abs=1e-7
    )
    assert start_noise(torch.ones(1, 3, 8, 8), EPS, None).max() <= 0


class Table(nn.Module):
    """Logits read from a table: row 0 for the clean image, row 1 for the moved one."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits[x[:, 0, 0, 0].long()]


def test_trades_loss_by_hand():
    # Two classes, clean p = (0.8, 0.2), moved q = (0.5, 0.5), true class 1.
    model = Table([[math.log(0.8), math.log(0.2)], [math.log(0.5), math.log(0.5)]])
    x, y = torch.zeros(3, 1, 1, 1), torch.ones(3, dtype=torch.long)
    kl = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    for lam in (1.0, 0.5, 1 / 6):
        loss, clean, moved = trades_loss(model, x, y, torch.ones_like(x), lam=lam)
        assert loss.item() == pytest.approx(-math.log(0.2) + kl / lam, rel=1e-5)
    assert_close(clean.softmax(1), torch.tensor([[0.8, 0.2]] * 3))
    assert_close(moved.softmax(1), torch.tensor([[0.5, 0.5]] * 3))
    assert not clean.requires_grad
    assert not moved.requires_grad


def test_pgd_at_loss_by_hand():
    model = Table([[math.log(0.8), math.log(0.2)], [math.log(0.6), math.log(0.4)]])
    x, y = torch.zeros(3, 1, 1, 1), torch.ones(3, dtype=torch.long)
    loss, clean, moved = pgd_at_loss(model, x, y, torch.ones_like(x))
    assert loss.item() == pytest.approx(-math.log(0.4), rel=1e-5)
    assert_close(clean.softmax(1), torch.tensor([[0.8, 0.2]] * 3))
    assert_close(moved.softmax(1), torch.tensor([[0.6, 0.4]] * 3))


def test_trades_gradient_reaches_both_predictions():
    p, q = np.array([0.8, 0.2]), np.array([0.5, 0.5])
    model = Table([[math.log(0.8), math.log(0.2)], [math.log(0.5), math.log(0.5)]])
    x, y = torch.zeros(3, 1, 1, 1), torch.ones(3, dtype=torch.long)
    trades_loss(model, x, y, torch.ones_like(x), lam=0.5)[0].backward()
    # d CE / d clean = p - onehot; d KL / d clean = p (log(p / q) - KL); d KL / d moved = q - p.
    kl = (p * np.log(p / q)).sum()
    by_hand = np.stack([p - [0, 1] + 2 * p * (np.log(p / q) - kl), 2 * (q - p)])
    assert_close(model.logits.grad, torch.tensor(by_hand, dtype=torch.float32), rtol=1e-4, atol=1e-6)


def test_gradients_of_a_very_sure_network_are_finite():
    # 200 apart: the smaller softmax underflows to zero
    x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([200.0, 0.0]))
    loss, _, _ = trades_loss(model, x, y, torch.zeros_like(x), lam=1.0)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_perturbation_of_pgd_at_is_pgd(trained, seen):
    """By whole steps of n * step_size, from a start in the eps-box."""
    x, y = seen[0], torch.arange(len(seen[0])) % 3
    start = uniform_start(x, EPS, torch.Generator().manual_seed(1))
    eta = perturb(trained, x, start, eps=EPS, step_size=1 / 255, m=3, n=2, y=y)
    whole = pgd(trained, x, y, eps=EPS, step_size=2 / 255, steps=3, generator=torch.Generator().manual_seed(1))
    assert_close(x + eta, whole)
    assert not torch.equal(eta, perturb(trained, x, start, eps=EPS, step_size=1 / 255, m=3, n=2))
