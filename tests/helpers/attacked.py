"""Networks to attack: one that is neither robust nor helpless, and what masks its gradients."""

from functools import cache

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import nn
from torch.nn import functional as F

CLASSES, SIZE = 4, 8


def samples(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images of four fixed patterns, in [0, 1] and often at its borders."""
    patterns = torch.rand(CLASSES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=generator)
    noise = torch.randn(n, 3, SIZE, SIZE, generator=generator)
    return (0.5 + 0.35 * (patterns[y] - 0.5) + 0.25 * noise).clamp(0, 1), y


def first_wrong(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`samples`, the first with a label that no network would give it."""
    x, y = samples(n, seed)
    y[0] = (y[0] + 1) % CLASSES
    return x, y


def fewer_queries(patch: pytest.MonkeyPatch, queries: int) -> None:
    """Of the Square Attack within AutoAttack, for time's sake: the standard version has 5,000."""

    def square(*args, n_queries, **more):
        assert n_queries == 5000
        return SquareAttack(*args, n_queries=queries, **more)

    patch.setattr("pyautoattack.autoattack.SquareAttack", square)


@cache
def trained_network() -> nn.Module:
    """A small convolutional network, trained for a few steps; shared, so leave it as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, CLASSES),
        )  # fmt: skip
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for seed in range(60):
        x, y = samples(64, seed)
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval().requires_grad_(True)


class Scaled(nn.Module):
    """Logits times `scale`: a large one rounds the gradient of the cross-entropy to zero."""

    def __init__(self, model: nn.Module, scale: float):
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.model(x)
