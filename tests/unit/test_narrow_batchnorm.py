"""`BatchNorm2d` against torch's: the same maps, running statistics and gradients, whichever way computes them."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tamnas.networks.batchnorm import BatchNorm2d, is_narrow, untracked

NARROW = [(2, 12, 32, 32), (128, 3, 4, 4), (1, 1, 64, 64), (32, 63, 8, 8), (16, 20, 16, 9)]
WIDE = [(2, 16, 32, 32), (64, 12, 4, 4), (2, 100, 32, 32), (3, 12, 27, 27)]  # few pixels, many channels, 2,187 pixels


def channels_last(shape: tuple[int, ...], dtype=torch.float64, mean: float = 0.3) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 + mean
    return values.to(memory_format=torch.channels_last)


def trained(norm: nn.BatchNorm2d, x: Tensor, randomise) -> dict[str, Tensor]:
    """What two training passes leave: the output, the buffers, and every gradient of an uneven loss."""
    norm = randomise(norm.to(x.dtype)).train()
    x = x.detach().requires_grad_(True)
    norm(x.detach() + 1)  # the running statistics have seen another batch
    y = norm(x)
    (y.sin() * torch.linspace(0.5, 2, y.shape[1], dtype=y.dtype)[:, None, None]).sum().backward()
    gradients = {"of x": x.grad, "of weight": norm.weight.grad, "of bias": norm.bias.grad}
    return {"y": y.detach(), **dict(norm.named_buffers()), **gradients}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", NARROW)
def test_equals_torchs_in_training(shape, momentum, randomise):
    x = channels_last(shape)
    assert is_narrow(x)
    ours = trained(BatchNorm2d(shape[1], momentum=momentum), x, randomise)
    theirs = trained(nn.BatchNorm2d(shape[1], momentum=momentum), x, randomise)
    assert ours.keys() == theirs.keys()
    assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert ours["y"].is_contiguous(memory_format=torch.channels_last)


def test_gradients_in_double_precision():
    x = channels_last((32, 3, 8, 8)).requires_grad_(True)
    weight, bias = torch.tensor([0.5, -1.5, 2.0]).double(), torch.tensor([0.1, 0.0, -3.0]).double()
    norm = BatchNorm2d(3).double()
    assert is_narrow(x)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = torch.func.functional_call(norm, {"weight": weight, "bias": bias}, x)
        return y[:, :, ::4, ::4]  # a gradient that is not dense

    assert torch.autograd.gradcheck(
        function, (x, weight.requires_grad_(True), bias.requires_grad_(True)), fast_mode=True
    )


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_float32_is_as_exact_as_torchs(mean, randomise):
    """Also where the mean is 5,000 standard deviations: a variance as a difference of squares would be noise there."""
    x = channels_last((8, 12, 16, 16), torch.float32, mean)
    exact = trained(nn.BatchNorm2d(12), x.double(), randomise)
    ours, theirs = (trained(norm(12), x, randomise) for norm in (BatchNorm2d, nn.BatchNorm2d))
    for name in ("y", "running_mean", "running_var", "of x", "of weight", "of bias"):
        errors = [float((own[name] - exact[name]).abs().max()) for own in (ours, theirs)]
        assert errors[0] <= 4 * errors[1] + 1e-6 * float(exact[name].abs().max()), name


@pytest.mark.parametrize("shape", WIDE)
def test_other_shapes_are_torchs_to_the_bit(shape, randomise):
    x = channels_last(shape, torch.float32)
    assert not is_narrow(x)
    ours, theirs = (trained(norm(shape[1]), x, randomise) for norm in (BatchNorm2d, nn.BatchNorm2d))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_other_memory_and_precision_are_left_to_torch():
    x = channels_last((8, 12, 16, 16), torch.float32)
    assert is_narrow(x)
    assert not is_narrow(x.contiguous())
    assert not is_narrow(x[:, :, ::2])
    assert not is_narrow(x.bfloat16())
    assert not is_narrow(x.to("meta"))


def test_statistics_rest_when_untracked_or_evaluated(randomise):
    x, norm = channels_last((8, 12, 16, 16), torch.float32), randomise(BatchNorm2d(12))
    before = {name: tensor.clone() for name, tensor in norm.named_buffers()}
    with untracked(norm.train()):
        batch = norm(x)
    running = norm.eval()(x)
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.named_buffers())
    assert_close(batch, nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, True))
    assert torch.equal(running, nn.BatchNorm2d.forward(norm, x))


def test_equal_bits_from_call_to_call(randomise):
    x, norm = channels_last((8, 12, 16, 16), torch.float32), BatchNorm2d(12)
    first, again = (trained(copy.deepcopy(norm), x, randomise) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
