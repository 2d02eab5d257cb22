"""The one sign-gradient routine behind training, search and evaluation, and PGD in terms of it.

An attack sees the model in eval mode with frozen parameters and leaves mode, parameters,
buffers and every `.grad` as found. Images are float32 in [0, 1], NCHW; eps and step sizes
are floats in the same range.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamnas.networks.batchnorm import modes_kept, untracked

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, per-sample target) -> summed loss


@contextmanager
def under_attack(model: nn.Module, bn: str = "eval") -> Iterator[nn.Module]:
    """`model` as an attack sees it: frozen; BatchNorm on running (`eval`) or `batch` statistics.

    With `batch` the running statistics are read by nobody and stay untouched.
    """
    frozen = [p for p in model.parameters() if p.requires_grad]
    with modes_kept(model), untracked(model) if bn == "batch" else nullcontext():
        for module in model.modules():
            module.training = bn == "batch" and isinstance(module, nn.BatchNorm2d)
        for p in frozen:
            p.requires_grad_(False)
        try:
            yield model
        finally:
            for p in frozen:
                p.requires_grad_(True)


def project(eta: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    """Into the eps-box, then so that x + eta lies in [0, 1]."""
    return (x + eta.clamp(-eps, eps)).clamp(0, 1) - x


def ascend(
    model: nn.Module,
    objective: Loss,
    x: Tensor,
    target: Tensor,
    eta: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """One step of projected sign-gradient ascent: (next eta, logits at x + the eta given).

    The objective must be a sum over samples, so that each sample's path is its own. `eps` and
    `step_size` are numbers, or (N, 1, 1, 1) with one for each sample.
    """
    eta = eta.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(x + eta)
        (gradient,) = torch.autograd.grad(objective(logits, target), eta)
    return project(eta.detach() + step_size * gradient.sign(), x, eps), logits.detach()


def cross_entropy_sum(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), y, reduction="sum")


def classes(logits: Tensor) -> Tensor:
    """The class that each image is given: (N,) int64; -1 where a logit is NaN, of which `argmax` makes a class."""
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)


def right(logits: Tensor, y: Tensor) -> Tensor:
    """Which images are classified correctly: (N,) bool."""
    return classes(logits) == y


def require_pixels(x: Tensor, eps: float) -> None:
    """Raises ValueError unless images and radius are shares of the pixel range: 0..255 would be clamped to 1."""
    low, high = map(float, x.aminmax()) if x.numel() else (0.0, 0.0)
    if not (x.is_floating_point() and low >= 0 and high <= 1):  # neither holds for NaN
        raise ValueError(f"images of dtype {x.dtype} from {low:g} to {high:g}; allowed: floats in [0, 1]")
    if not 0 <= eps <= 1:
        raise ValueError(f"eps is {eps:g}; allowed: a share of the pixel range, such as 8 / 255")


def margin_sum(logits: Tensor, y: Tensor) -> Tensor:
    """The best wrong logit minus the right one, summed (Carlini & Wagner 2017, f_6): its sign knows no scale."""
    column, logits = y[:, None], logits.float()
    best_wrong = logits.scatter(1, column, -torch.inf).amax(1)
    return (best_wrong - logits.gather(1, column).squeeze(1)).sum()


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
    |x_adv - x| <= eps and x_adv in [0, 1]. Raises ValueError for images or eps out of [0, 1].
    """
    require_pixels(x, eps)
    eta = uniform_start(x, eps, generator) if random_start else torch.zeros_like(x)
    with under_attack(model):
        for _ in range(steps):
            eta, _ = ascend(model, cross_entropy_sum, x, y, eta, eps=eps, step_size=step_size)
    return (x + eta).clamp(0, 1)
