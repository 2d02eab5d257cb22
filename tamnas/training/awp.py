"""Adversarial weight perturbation: training at the weights near by where the loss is worst.

Wu, Xia and Wang, "Adversarial Weight Perturbation Helps Robust Generalization" (NeurIPS 2020).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tamnas.networks.batchnorm import untracked

TINY = 1e-12  # keeps a vanished gradient from dividing zero by zero


@contextmanager
def at_worst_weights(model: nn.Module, objective: Callable[[], tuple[Tensor, ...]], gamma: float) -> Iterator[None]:
    """Each weight tensor w moved by gamma * |w| / |g| * g; g is the gradient of `objective()[0]`.

    One step of their Algorithm 1. Biases and BatchNorm's vectors stay. At the end the weights are put back
    bit for bit; the pass that finds g leaves `.grad` and running statistics alone.
    """
    weights = [p for p in model.parameters() if p.dim() > 1]
    with untracked(model):
        gradients = torch.autograd.grad(objective()[0], weights)
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.add_(gradient * (gamma * weight.norm() / (gradient.norm() + TINY)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)
