"""The one sign-gradient routine behind training, search and evaluation, and PGD in terms of it.

An attack sees the model in eval mode with frozen parameters and leaves mode, parameters,
buffers and every `.grad` as found. Images are float32 in [0, 1], NCHW; eps and step sizes
are floats in the same range.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Objective = Callable[[Tensor, Tensor], Tensor]  # (logits, per-sample target) -> summed loss


@contextmanager
def under_attack(model: nn.Module, bn: str = "eval") -> Iterator[nn.Module]:
    """`model` as an attack sees it: frozen; BatchNorm on running (`eval`) or `batch` statistics.

    With `batch` the running statistics are read by nobody and stay untouched.
    """
    modes = [(module, module.training) for module in model.modules()]
    frozen = [p for p in model.parameters() if p.requires_grad]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)] if bn == "batch" else []
    tracked = [norm.track_running_stats for norm in norms]
    model.eval()
    for p in frozen:
        p.requires_grad_(False)
    for norm in norms:
        norm.train()
        norm.track_running_stats = False
    try:
        yield model
    finally:
        for norm, flag in zip(norms, tracked, strict=True):
            norm.track_running_stats = flag
        for p in frozen:
            p.requires_grad_(True)
        for module, training in modes:
            module.training = training


def project(eta: Tensor, x: Tensor, eps: float) -> Tensor:
    """Into the eps-box, then so that x + eta lies in [0, 1]."""
    return (x + eta.clamp(-eps, eps)).clamp(0, 1) - x


def ascend(
    model: nn.Module,
    objective: Objective,
    x: Tensor,
    target: Tensor,
    eta: Tensor,
    *,
    eps: float,
    step_size: float,
) -> tuple[Tensor, Tensor]:
    """One step of projected sign-gradient ascent: (next eta, logits at x + the eta given).

    The objective must be a sum over samples, so that each sample's path is its own.
    """
    eta = eta.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(x + eta)
        (gradient,) = torch.autograd.grad(objective(logits, target), eta)
    return project(eta.detach() + step_size * gradient.sign(), x, eps), logits.detach()


def cross_entropy_sum(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), y, reduction="sum")


def uniform_start(x: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Uniform noise in the eps-box, projected."""
    noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return project((2 * noise - 1) * eps, x, eps)


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    generator: torch.Generator | None = None,
    random_start: bool = True,
) -> Tensor:
    """L-infinity PGD on the cross-entropy (Madry et al. 2018): x_adv after `steps` steps.

    x (N, 3, H, W) in [0, 1], y (N,) class indices; returns x_adv of x's shape with
    |x_adv - x| <= eps and x_adv in [0, 1].
    """
    eta = uniform_start(x, eps, generator) if random_start else torch.zeros_like(x)
    with under_attack(model):
        for _ in range(steps):
            eta, _ = ascend(model, cross_entropy_sum, x, y, eta, eps=eps, step_size=step_size)
    return (x + eta).clamp(0, 1)


def survivors(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: Sequence[int],
    success: str = "any",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Which samples PGD leaves correctly classified, for several step counts at once.

    Returns (len(steps), N) bool, row i for `steps[i]`. One run of max(steps) steps passes
    through the states of the shorter ones, so each row equals the one computed alone. With
    `success="any"` a sample falls with the first iterate (random start included) that fools
    the network and is not attacked further; with `"last"` only the final iterate counts.
    """
    standing = torch.zeros(len(steps), len(x), dtype=torch.bool, device=x.device)
    alive = torch.arange(len(x), device=x.device)
    eta = uniform_start(x, eps, generator)
    with under_attack(model):
        for step in range(max(steps) + 1):
            last = step == max(steps)
            if last:
                with torch.no_grad():
                    logits = model(x + eta)
            else:
                following, logits = ascend(model, cross_entropy_sum, x, y, eta, eps=eps, step_size=step_size)
            correct = logits.argmax(1) == y
            for row, count in enumerate(steps):
                if count == step:
                    standing[row, alive] = correct
            if last or (success == "any" and not correct.any()):
                break
            if success == "any":
                alive, x, y, following = alive[correct], x[correct], y[correct], following[correct]
            eta = following
    return standing
