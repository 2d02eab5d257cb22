"""What an attack does step by step: the loss it climbs, and how many classes the network predicts.

An attack whose loss does not grow measures nothing: gradients are masked, or the step is wrong.
A network that predicts one class for every image is dead. `tamnas.evaluation.health` reads both from the trace.
"""

import torch
from torch import Tensor, nn

from tamnas.attacks.ascent import ascend, classes, cross_entropy_sum, under_attack, uniform_start
from tamnas.data.loader import Split

IMAGES = 128  # enough to tell growth from none, next to no time
TRACE_STEPS = 10  # likewise


def attack_trace(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    step_size: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> list[dict[str, float | int | None]]:
    """PGD on `IMAGES` images spread evenly over `split`; one row per iterate, the random start first.

    `loss` is the mean cross-entropy, `classes` how many classes are predicted, `correct` how many images correctly,
    `stuck` of how many of these the step changes no pixel (None behind the last): at the start, which lies within the
    box, their gradient is zero. The model is left as found.
    """
    count = min(IMAGES, len(split))
    # Image folders come class by class: the first images would show one class alone.
    chosen = torch.arange(count, device=split.labels.device) * len(split) // count
    x, y = split.scaled(split.images[chosen]), split.labels[chosen]
    eta, rows = uniform_start(x, eps, generator), []
    with under_attack(model):
        for step in range(steps):
            following, logits = ascend(model, cross_entropy_sum, x, y, eta, eps=eps, step_size=step_size)
            still = (following == eta).flatten(1).all(1)
            rows.append(_row(step, logits, y, still))
            eta = following
        with torch.no_grad():
            rows.append(_row(steps, model(x + eta), y))
    return rows


def _row(step: int, logits: Tensor, y: Tensor, still: Tensor | None = None) -> dict[str, float | int | None]:
    loss, predicted = float(cross_entropy_sum(logits, y) / len(y)), classes(logits)
    correct = predicted == y
    stuck = None if still is None else int((still & correct).sum())
    counts = {"classes": len(predicted.unique()), "correct": int(correct.sum()), "stuck": stuck}
    return {"step": step, "loss": loss, **counts}
