"""What a network says of images, and up to which radius it goes on saying so."""

from fractions import Fraction

import torch
from torch import Tensor, nn

from tamnas.attacks.survival import Attempt, survivors
from tamnas.evaluation.accuracy import fast_copy
from tamnas.seeding import torch_generator

STEPS, LARGEST = 10, 32  # of PGD; radii are 1/255 to so many


def classify(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(class, its probability) of each image; x (N, 3, H, W) in [0, 1]."""
    with torch.no_grad():
        probability, label = model(x).softmax(1).max(1)
    return label, probability


def smallest_radius(model: nn.Module, x: Tensor, label: Tensor) -> Fraction | None:
    """The smallest k/255 at which PGD-10 takes the network off `label` for the image x (3, H, W); None: none does.

    Step size eps / 4, random start, any iterate counts, the same noise every time. An upper bound: a stronger attack
    may need less.
    """
    radii = [Fraction(k, 255) for k in range(1, LARGEST + 1)]
    attempts = [
        Attempt(float(eps), float(eps) / 4, (STEPS,), generator=torch_generator("predict", str(eps))) for eps in radii
    ]
    standing = survivors(fast_copy(model), x[None], label[None], attempts)
    return next((eps for eps, stands in zip(radii, standing, strict=True) if not stands.item()), None)
