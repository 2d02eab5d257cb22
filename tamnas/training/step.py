"""The adversarial training step of one network (TRADES-YOPO, or PGD-AT), and what lasts from one step to the next.

`train_step` is the step. `Stepper` is how the loop runs it: it builds once per network what
stays as long as that network is trained, the folded twin that perturbations attack and, on
CUDA, a graph of the whole step.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from tamnas.attacks.yopo import clean_loss, perturb, pgd_at_loss, trades_loss
from tamnas.config.sections import RecipePlan, TrainingAttackPlan
from tamnas.networks.folding import Folded
from tamnas.networks.paths import Paths
from tamnas.pipeline.device import Runtime
from tamnas.pipeline.ranks import average_gradients, ranks, total
from tamnas.training.awp import at_worst_weights
from tamnas.training.graphs import Captured


def train_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    attack: TrainingAttackPlan | None,
    recipe: RecipePlan,
    runtime: Runtime,
    twin: Folded | None = None,
) -> Tensor:
    """One step; returns (loss, clean correct, robust correct, classes predicted), float32, on device.

    Without an attack, on the cross-entropy of clean images, which then count as the perturbed ones.

    Of several ranks (`tamnas.pipeline.ranks`) each is given its part of the batch, and the figures are the whole's.

    With a `twin` of the model, the perturbation is found on it: the same function as the model
    in eval mode, for less.
    """
    if twin is not None:
        twin.refresh()
    attacked = model if twin is None else twin.network
    if attack is not None:
        with runtime.autocast():
            radii = {"eps": float(attack.eps), "step_size": float(attack.step_size)}
            labels = y if attack.loss == "pgd_at" else None
            eta = perturb(attacked, x, noise, **radii, m=attack.m, n=attack.n, bn=attack.bn, y=labels)

    def objective() -> tuple[Tensor, Tensor, Tensor]:
        with runtime.autocast():
            if attack is None:
                return clean_loss(model, x, y, label_smoothing=recipe.label_smoothing)
            if attack.loss == "pgd_at":
                return pgd_at_loss(model, x, y, eta, label_smoothing=recipe.label_smoothing)
            return trades_loss(model, x, y, eta, lam=attack.lam, label_smoothing=recipe.label_smoothing)

    optimiser.zero_grad(set_to_none=True)
    with at_worst_weights(model, objective, recipe.awp) if recipe.awp else nullcontext():
        loss, clean, robust = objective()
        loss.backward()
    average_gradients(model.parameters())
    several = isinstance(model, Paths)
    gradients = model.share_gradients() if several else [p.grad for p in model.parameters() if p.grad is not None]
    if recipe.clip_norm is not None:
        norm = nn.utils.get_total_norm(gradients)
        nn.utils.clip_grads_with_norm_(model.parameters(), recipe.clip_norm, norm)
    optimiser.step()
    predicted = clean.argmax(1)
    present = clean.new_zeros(clean.shape[1]).index_fill_(0, predicted, 1)
    right = (predicted == y).sum(), (robust.argmax(1) == y).sum()
    figures = total(torch.cat((torch.stack((loss.detach() / ranks(), *right)), present)))
    return torch.cat((figures[:3], (figures[3:] > 0).sum(0, keepdim=True)))


class Stepper:
    """Runs training steps, and keeps what lasts for as long as one network is trained.

    A network whose parameters move to other memory must not come back: twin and graph hold
    on to the memory they were made for.
    """

    def __init__(self, attack: TrainingAttackPlan | None, recipe: RecipePlan, runtime: Runtime):
        self._attack, self._recipe, self._runtime = attack, recipe, runtime
        self._model: nn.Module | None = None
        self._step: Callable[..., Tensor] | None = None

    def __call__(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, noise: Tensor, lr: float
    ) -> Tensor:
        """As `train_step`, at learning rate `lr`."""
        if model is not self._model:
            self._step = None  # frees the last network's graph before the next one needs memory
            self._model, self._step = model, self._prepared(model, optimiser)
        set_learning_rate(optimiser, lr)
        return self._step(x, y, noise)

    def _prepared(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Callable[..., Tensor]:
        # Without `self` in `step`: in a cycle, graph and memory would outlast the training until garbage is collected.
        attack, recipe, runtime = self._attack, self._recipe, self._runtime
        # With batch statistics, which change with the perturbation, nothing can be folded.
        twin = Folded(model) if attack is not None and attack.bn == "eval" else None

        def step(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
            return train_step(model, optimiser, x, y, noise, attack, recipe, runtime, twin)

        return Captured(step) if runtime.graphs else step


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """A number, or in place where the rate is a tensor: a captured graph reads that."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
