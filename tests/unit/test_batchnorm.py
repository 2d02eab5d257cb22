"""BatchNorm recalibrated on images, and folded into convolutions."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tamnas.networks.batchnorm import recalibrate
from tamnas.networks.folding import Folded, Rectifier
from tamnas.networks.subnet import Subnet
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


@pytest.fixture
def model(randomise) -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1, bias=False), nn.BatchNorm2d(4)
        )
    )  # fmt: skip


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(i + 1) * torch.rand(8, 3, 6, 6, generator=generator) for i in range(3)]


def averages(maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over batches of each batch's mean and unbiased variance, per channel."""
    means = torch.stack([t.mean((0, 2, 3)) for t in maps]).mean(0)
    return means, torch.stack([t.transpose(0, 1).flatten(1).var(1) for t in maps]).mean(0)


@torch.no_grad()
def test_statistics_are_the_cumulative_mean(model):
    images = batches()
    recalibrate(model, images)
    first = [model[0](x) for x in images]
    # Deeper layers see what the layers before them make of batch statistics.
    normed = [nn.functional.batch_norm(h, None, None, model[1].weight, model[1].bias, training=True) for h in first]
    second = [model[3](h.relu()) for h in normed]
    for norm, maps in ((model[1], first), (model[4], second)):
        mean, var = averages(maps)
        assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        assert_close(norm.running_var, var, rtol=1e-4, atol=1e-5)


def test_earlier_statistics_are_forgotten(model):
    recalibrate(model, batches())
    once = [buffer.clone() for buffer in model.buffers()]
    for norm in (model[1], model[4]):
        norm.running_mean.fill_(100)
        norm.running_var.fill_(100)
    recalibrate(model, iter(batches()))
    assert all(map(torch.equal, model.buffers(), once))


@pytest.mark.parametrize("training", [False, True])
def test_mode_weights_and_momentum_are_kept(model, training):
    model.train(training)
    model[4].train(not training)
    modes = [part.training for part in model.modules()]
    weights = [p.clone() for p in model.parameters()]
    grad = model[0].weight.grad = torch.ones_like(model[0].weight)
    recalibrate(model, batches())
    assert [part.training for part in model.modules()] == modes
    assert all(map(torch.equal, model.parameters(), weights))
    assert all(p.requires_grad for p in model.parameters())
    assert model[0].weight.grad is grad
    assert {model[1].momentum, model[4].momentum} == {0.1}


def test_model_without_batchnorm_is_left_alone():
    recalibrate(nn.Linear(2, 2), [torch.rand(3, 2)])


def test_folded_copies_compute_the_same_function(randomise):
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    space = SearchSpace.paper()
    legal = [space.allowed_blocks(layer) for layer in range(16)]
    for k in range(0, 22, 4):
        blocks = tuple(choices[(7 * i + k) % len(choices)] for i, choices in enumerate(legal))
        model = randomise(Subnet(space, Architecture(blocks, (1.0,) * 16))).double().eval()
        next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d)).eps = 0.1  # a user's block
        fast = Folded(model).network
        assert not any(isinstance(part, nn.BatchNorm2d) for part in fast.modules())
        with torch.no_grad():
            expected = model(x)  # attention of random weights amplifies rounding a billion times
            assert_close(fast(x), expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())
        assert any(isinstance(part, nn.BatchNorm2d) for part in model.modules())  # the original is left as found


def test_rectifier_spares_views():
    base = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    kept, half = base.clone(), base[:, 3:]
    assert torch.equal(Rectifier()(half), kept[:, 3:].relu())
    assert torch.equal(base, kept)
    whole = base.clone()
    assert Rectifier()(whole) is whole
    assert torch.equal(whole, kept.relu())


class PreActivation(nn.Module):
    """A residual block that reads its input twice, before and after its ReLU."""

    def __init__(self):
        super().__init__()
        self.first_layer = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.branch = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        h = self.first_layer(x)
        return h + self.act(h) + self.branch(h)


def test_a_twin_leaves_alone_what_is_read_before_its_relu(randomise):
    model = randomise(PreActivation()).eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(Folded(model).network(x), model(x), rtol=1e-4, atol=1e-5)
