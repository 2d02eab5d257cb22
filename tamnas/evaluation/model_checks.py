"""Whether images, labels and a model of others are what an evaluation needs, and what would mislead it.

The checks of the model are those of RobustBench and of AutoAttack's own driver (Croce & Hein 2020; `checks.py` there).
"""

import torch
from torch import Tensor, nn

from tamnas.errors import InputError
from tamnas.evaluation.models import called

PROBED = 16  # images that the model is called with in several ways
TOLERANCE = 1e-3  # of the largest logit: other batch sizes round differently


def require_images(images: Tensor, labels: Tensor) -> None:
    """Raises InputError unless images are (N, C, H, W) floats in [0, 1] and labels (N,) integers from 0 on."""
    if images.ndim != 4 or not len(images):
        raise InputError(f"images of shape {tuple(images.shape)}; allowed: (N, C, H, W)")
    low, high = map(float, images.aminmax())
    if not (images.is_floating_point() and low >= 0 and high <= 1):  # neither holds for NaN
        raise InputError(f"images of {images.dtype} from {low:g} to {high:g}; allowed: floats in [0, 1]")
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(
            f"labels of {labels.dtype} and shape {tuple(labels.shape)}; allowed: one integer for each of {len(images)} "
            "images"
        )
    if int(labels.min()) < 0:
        raise InputError(f"the smallest label is {int(labels.min())}; allowed: 0 or more")


def require_classifier(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raises InputError unless the model gives each image logits of its own, the same every time.

    The model is under attack (`tamnas.attacks.ascent.under_attack`).
    """
    x = images[:PROBED]
    logits = called(model, x)
    if not isinstance(logits, Tensor):
        raise InputError(f"the model gives {type(logits).__name__}; allowed: a tensor of logits (N, classes)")
    if not logits.is_floating_point() or logits.ndim != 2 or len(logits) != len(x):
        kind = f"{logits.dtype} of shape {tuple(logits.shape)}"
        raise InputError(f"the model gives {kind} for {len(x)} images; allowed: logits ({len(x)}, classes)")
    if int(labels.max()) >= logits.shape[1]:
        raise InputError(f"labels up to {int(labels.max())}; the model gives {logits.shape[1]} logits")
    tolerance = TOLERANCE * max(1.0, float(logits.abs().max()))
    if float((called(model, x) - logits).abs().max()) > tolerance:
        raise InputError(
            "the model gives other logits for the same images: a layer is random, such as Dropout in training mode; "
            "these attacks need a deterministic model"
        )
    alone = torch.cat([called(model, image[None]) for image in x])
    if float((alone - logits).abs().max()) > tolerance:
        raise InputError(
            "an image's logits depend on the other images of its batch: BatchNorm in training mode? Save the model "
            "after model.eval()"
        )


def require_finite(logits: Tensor) -> None:
    if broken := int((~logits.isfinite()).any(1).sum()):
        raise InputError(f"the model gives NaN or infinite logits for {broken:,} of {len(logits):,} images")


def probabilities_sign(logits: Tensor) -> str | None:
    """What to say of outputs that are no logits."""
    if float(logits.min()) < 0 or float((logits.sum(1) - 1).abs().max()) > 1e-3:
        return None
    return (
        "the outputs lie in [0, 1] and sum to 1: probabilities, no logits. Their gradients vanish where the model is "
        "sure, which attacks on the cross-entropy take for robustness; leave the softmax out."
    )


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
    """Of the summed cross-entropy by images x (N, C, H, W) of classes y (N,); None where the model gives none."""
    x = x.clone().requires_grad_(True)
    with torch.enable_grad():
        loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
        if not loss.requires_grad:
            return None
        try:
            (slope,) = torch.autograd.grad(loss, x, allow_unused=True)
        except NotImplementedError:  # of an operation without a derivative
            return None
    return slope
