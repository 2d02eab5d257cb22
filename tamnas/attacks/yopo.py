"""TRADES-YOPO-m-n: the perturbation and the loss (paper, Section III-D and Eq. 3); and PGD-AT in the same steps.

YOPO's n inner steps move along one fixed gradient, because the first layer is linear: they
equal a single step of n * step_size and one projection. What remains is m steps of projected
sign-gradient ascent on the KL divergence, the same routine as PGD with another objective.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamnas.attacks.ascent import ascend, cross_entropy_sum, project, require_pixels, under_attack, uniform_start

START_NOISE = 0.001  # standard deviation of the start, as in TRADES


def kl_sum(logits: Tensor, soft: Tensor) -> Tensor:
    """KL(soft || softmax(logits)), summed over the batch."""
    return F.kl_div(F.log_softmax(logits.float(), dim=1), soft, reduction="sum")


def start_noise(x: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """0.001 x normal noise, projected to the eps-box and to x + eta in [0, 1]."""
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return project(START_NOISE * noise, x, eps)


STARTS = {"trades": start_noise, "pgd_at": uniform_start}  # of the perturbation, by the loss


def perturb(
    model: nn.Module,
    x: Tensor,
    start: Tensor,
    *,
    eps: float,
    step_size: float,
    m: int,
    n: int,
    bn: str = "eval",
    y: Tensor | None = None,
) -> Tensor:
    """eta after TRADES-YOPO-m-n from `start` (noise like x, projected inside): |eta| <= eps, x + eta in [0, 1].

    x, start and eta (N, 3, H, W), x in [0, 1]. With labels `y` (N,) it climbs their cross-entropy, as PGD-AT does,
    instead of the divergence from the clean prediction. The model is left as found. Soft label and first propagation
    run in float32 even under autocast: the start noise is below bfloat16's resolution near 1. On CPU raises ValueError
    for images or eps out of [0, 1].
    """
    if not x.is_cuda:  # there the host would wait for the device at every training step
        require_pixels(x, eps)
    eta = project(start, x, eps)
    with under_attack(model, bn):
        objective, target = cross_entropy_sum, y
        if y is None:
            with torch.autocast(x.device.type, enabled=False), torch.no_grad():
                objective, target = kl_sum, F.softmax(model(x).float(), dim=1)
        for propagation in range(m):
            with torch.autocast(x.device.type, enabled=False) if propagation == 0 else nullcontext():
                eta, _ = ascend(model, objective, x, target, eta, eps=eps, step_size=n * step_size)
    return eta


def trades_loss(
    model: nn.Module, x: Tensor, y: Tensor, eta: Tensor, *, lam: float, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 3 with KL: CE(f(x), y) + KL(f(x) || f(x + eta)) / lam, batch means, in float32.

    Two separate train-mode passes, each with its own batch statistics; gradients reach both
    predictions. Returns (loss, clean logits, perturbed logits), the logits detached.
    """
    clean, perturbed = model(x).float(), model(x + eta).float()
    # Both as logarithms: the gradient of a softmax that underflowed to zero would be NaN.
    robust = F.kl_div(
        F.log_softmax(perturbed, dim=1), F.log_softmax(clean, dim=1), reduction="batchmean", log_target=True
    )
    natural = F.cross_entropy(clean, y, label_smoothing=label_smoothing)
    return natural + robust / lam, clean.detach(), perturbed.detach()


def clean_loss(
    model: nn.Module, x: Tensor, y: Tensor, *, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """CE(f(x), y), the batch mean in float32; returns what `trades_loss` does, the clean logits for both."""
    logits = model(x).float()
    return F.cross_entropy(logits, y, label_smoothing=label_smoothing), logits.detach(), logits.detach()


def pgd_at_loss(
    model: nn.Module, x: Tensor, y: Tensor, eta: Tensor, *, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """CE(f(x + eta), y), the batch mean in float32 (Madry et al. 2018); returns what `trades_loss` does.

    Only the perturbed images are trained on. The clean logits tell how training goes: with batch statistics, as the
    perturbed ones have them, for running ones lag behind in the first epochs.
    """
    with under_attack(model, "batch"), torch.no_grad():
        clean = model(x).float()
    perturbed = model(x + eta).float()
    return F.cross_entropy(perturbed, y, label_smoothing=label_smoothing), clean, perturbed.detach()
