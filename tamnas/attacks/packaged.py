"""The attacks of AutoAttack as their authors wrote them: an adapter of the package `pyautoattack`.

The package is the code of https://github.com/fra31/auto-attack. Its own driver is left aside: its resuming fails
(ValueError at the second call), it fixes nine targets, and its check for dynamic defences takes tracing away from
debuggers. One attack runs here on one batch; `tamnas.evaluation.attacked` goes from batch to batch as the driver does.
"""

import logging

import pyautoattack
import torch
from torch import Tensor, nn

from tamnas.attacks.ascent import right
from tamnas.attacks.attack import EvalAttack

# Of zero gradients the package warns for every target and batch; the reports say it once (`tamnas.evaluation.health`).
logging.getLogger("auto-attack").setLevel(logging.ERROR)
MOST_TARGETS = 9  # of the standard version


def adversarial(kind: str, model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
    """x_adv of one of the four attacks of AutoAttack's standard version; shape of x.

    `kind` is apgd_ce, apgd_dlr (targeted), fab (targeted) or square. x (N, C, H, W) in [0, 1] and the model are on one
    device. The model is in eval mode with frozen parameters (`under_attack`): FAB would leave gradients on others. The
    package reseeds torch's global generators with `seed`, which are restored.
    """
    # Contiguous: the package takes views that a channels-last tensor does not allow.
    x, y = x.detach().float().contiguous(), y.long()
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad():
        targets = min(MOST_TARGETS, model(x[:1]).shape[1] - 1)
        package = pyautoattack.AutoAttack(model, eps=eps, seed=seed, device=x.device, version="custom", attacks=[])
        match kind:
            case "apgd_ce":
                attack = package.apgd
                attack.n_restarts = 1
            case "apgd_dlr":
                attack = package.apgd_targeted
                attack.n_target_classes = targets
            case "fab":
                attack = package.fab
                attack.targeted, attack.n_restarts, attack.n_target_classes = True, 1, targets
            case "square":
                attack = package.square
            case _:
                raise ValueError(f"{kind!r} is none of the package's attacks")
        return attack.perturb(x, y)


def survivors(attack: EvalAttack, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """`EvalAttack.survivors` of the package's attacks; their seed is the generator's."""
    x_adv = adversarial(attack.kind, model, x, y, float(attack.eps), generator.initial_seed())
    with torch.no_grad():
        return right(model(x_adv), y)
