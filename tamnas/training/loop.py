"""The one training loop: adversarial training with TRADES-YOPO or PGD-AT, resumable bit for bit.

Both supernet phases, both retrainings, Lego-Net and the baselines run through `train`. What
differs between them is the `Trainee`: which network a step trains, and what a checkpoint holds.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from tamnas.attacks.yopo import STARTS
from tamnas.config.images import AugmentParams
from tamnas.config.sections import RecipePlan, TrainingAttackPlan
from tamnas.data.loader import Split, batches, steps_per_epoch
from tamnas.errors import DeadlineError, DivergenceError
from tamnas.evaluation.health import Watch
from tamnas.pipeline import checkpoint
from tamnas.pipeline.checkpoint import with_prefix
from tamnas.pipeline.deadline import Pace
from tamnas.pipeline.device import MEMORY_FORMAT, Runtime
from tamnas.pipeline.progress import Progress
from tamnas.pipeline.ranks import any_rank, is_first, own_part
from tamnas.seeding import torch_generator
from tamnas.training.averaging import Average
from tamnas.training.step import Stepper

# torch.optim.lr_scheduler.OneCycleLR's own: it starts at lr / 25 and ends at that / 10,000.
ONE_CYCLE_RISE, ONE_CYCLE_FALL = 25.0, 1e4


class Trainee(Protocol):
    """What the loop trains. Tensors in and out are named, on any device."""

    @property
    def network(self) -> nn.Module:
        """What is validated and kept: the network that was trained last, or the average of its weights."""

    def at(self, epoch: int, step: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The network and optimiser of this step, in train mode."""

    def stepped(self) -> None:
        """Called after every step."""

    def weights(self) -> Iterator[Tensor]:
        """All that is trained, at this step or at others."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that going on needs, besides the epoch."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`, before the first step of an epoch."""


class Single:
    """One standalone network, its optimiser and, with `recipe.ema`, the moving average of its weights and buffers."""

    def __init__(self, model: nn.Module, recipe: RecipePlan):
        self.model = model.train()
        self.optimiser = sgd(recipe, list(model.parameters()))
        self.average = None if recipe.ema is None else Average(model, recipe.ema)

    @property
    def network(self) -> nn.Module:
        return self.model if self.average is None else self.average.network

    def at(self, epoch: int, step: int):
        return self.model, self.optimiser

    def stepped(self) -> None:
        if self.average is not None:
            self.average.update(self.model)

    def weights(self) -> Iterator[Tensor]:
        return self.model.parameters()

    def tensors(self) -> dict[str, Tensor]:
        named = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, p in self.model.named_parameters():
            if "momentum_buffer" in self.optimiser.state[p]:  # SGD without momentum keeps none
                named[f"momentum.{name}"] = self.optimiser.state[p]["momentum_buffer"]
        if self.average is not None:
            named |= {f"average.{name}": tensor for name, tensor in self.average.tensors().items()}
        return named

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(with_prefix(tensors, "model."))
        if self.average is not None:
            self.average.restore(with_prefix(tensors, "average."))
        parameters = dict(self.model.named_parameters())
        for name, tensor in with_prefix(tensors, "momentum.").items():
            p = parameters[name]  # empty_like keeps its memory layout: other layouts sum in another order
            self.optimiser.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(tensor)


def sgd(recipe: RecipePlan, parameters: list[nn.Parameter]) -> torch.optim.SGD:
    """The recipe's optimiser; the loop sets the learning rate.

    On CUDA one fused kernel, its learning rate a tensor that a captured step can read.
    """
    where, cuda = parameters[0].device, parameters[0].is_cuda
    lr = torch.tensor(recipe.lr, device=where) if cuda else recipe.lr
    return torch.optim.SGD(
        parameters, lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=cuda or None
    )


def learning_rate(recipe: RecipePlan, epoch: float) -> float:
    """At `epoch` of the phase (fractions of an epoch count for warm-up and cosine)."""
    schedule = recipe.schedule
    total, now = schedule.total or recipe.epochs, schedule.start + epoch
    rising = now < schedule.warmup
    share = now / schedule.warmup if rising else (now - schedule.warmup) / (total - schedule.warmup)
    if schedule.kind == "one_cycle":
        low = recipe.lr / (ONE_CYCLE_RISE if rising else ONE_CYCLE_RISE * ONE_CYCLE_FALL)
        return low + (recipe.lr - low) * _cosine(1 - share if rising else share)
    if rising:
        return recipe.lr * share
    if schedule.kind == "milestones":
        return recipe.lr * schedule.factor ** sum(now >= milestone for milestone in schedule.milestones)
    return recipe.lr * _cosine(share)


def _cosine(share: float) -> float:
    """From 1 to 0 along half a wave."""
    return 0.5 * (1 + math.cos(math.pi * share))


Validate = Callable[[nn.Module, int], dict[str, float | None]]


@dataclass
class TrainingOutcome:
    """What training left: one row per epoch, and the best epoch's weights if there was validation."""

    history: list[dict] = field(default_factory=list)
    best_epoch: int | None = None
    best: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Resume:
    """Where checkpoints go, and how often at most."""

    path: Path
    seconds: float = 10.0


def train(
    trainee: Trainee,
    split: Split,
    *,
    recipe: RecipePlan,
    attack: TrainingAttackPlan,
    augment: AugmentParams,
    key: tuple,
    runtime: Runtime,
    validate: Validate | None = None,
    resume: Resume | None = None,
    progress: Progress | None = None,
    clean_epochs: int = 0,
    validated_at: Fraction | None = None,
    pace: Pace | None = None,
) -> TrainingOutcome:
    """Train for `recipe.epochs`, the first `clean_epochs` without an attack; goes on from `resume` if it holds a state.

    All randomness of epoch e derives from (`key`, e): on CPU a resumed run gives the same bits
    as an undisturbed one. The best epoch is the one with the highest robust validation
    accuracy, then clean accuracy, then the later. `validated_at`: the radius of `validate`'s attack. `pace`: of
    epochs of networks before. Raises DivergenceError, and DeadlineError after saving a checkpoint.
    """
    outcome, first = _resumed(trainee, resume)
    if progress is not None:
        progress.skip(first)
    saved, pace = time.monotonic(), pace or Pace()
    who = " ".join(map(str, key[1:]))
    watch = Watch(who, split.largest_share, len(split), validated_at is None or attack.eps >= validated_at)
    for epoch in range(first, recipe.epochs):
        if (over := _deadline_error(pace, f"{who}, epoch {epoch} of {recipe.epochs}")) is not None:
            if resume and epoch > first:
                _save(trainee, outcome, epoch - 1, resume.path)
            raise over
        row = {"epoch": epoch, "lr": learning_rate(recipe, epoch)}
        against = attack if epoch >= clean_epochs else None
        if epoch in (first, clean_epochs):
            stepper = Stepper(against, recipe, runtime)
        try:
            row |= _epoch(trainee, stepper, split, recipe, against, augment, (*key, "epoch", epoch), epoch)
        except DivergenceError as error:
            kept = f"; the last good state is in {resume.path}" if resume and resume.path.exists() else ""
            raise DivergenceError(f"{who}: {error}{kept}", error.details) from None
        if validate is not None:
            model = trainee.network
            row |= validate(model, epoch)
            best = [] if outcome.best_epoch is None else _merit(outcome.history[outcome.best_epoch])
            if row["validation_robust"] is not None and _merit(row) >= best:
                outcome.best_epoch = epoch
                outcome.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        outcome.history.append(row)
        watch(outcome.history)
        if resume and (epoch == recipe.epochs - 1 or time.monotonic() - saved >= resume.seconds):
            _save(trainee, outcome, epoch, resume.path)
            saved = time.monotonic()
        if progress is not None:
            progress.step(**{k: v for k, v in row.items() if k != "epoch" and v is not None})
    return outcome


def _deadline_error(pace: Pace, what: str) -> DeadlineError | None:
    """For all ranks, if the next epoch is too long for one of them."""
    error = None
    try:
        pace.require_time(what)
    except DeadlineError as reached:
        error = reached
    return (error or DeadlineError(f"{what}: stopped at the deadline")) if any_rank(error is not None) else None


def _epoch(trainee, stepper, split, recipe, attack, augment, key, epoch) -> dict[str, float]:
    """One pass over the data; reads the device once, at its end. `train_classes`: the most that one step predicted."""
    device = split.images.device
    generator = torch_generator(*key, device=device)
    steps = steps_per_epoch(split, recipe.batch_size)
    sums, classes = torch.zeros(3, device=device), torch.zeros((), device=device)
    first_bad = torch.full((), steps, device=device)
    for step, (x, y) in enumerate(batches(split, recipe.batch_size, augment, generator)):
        x = x.to(memory_format=MEMORY_FORMAT)
        noise = STARTS[attack.loss](x, float(attack.eps), generator) if attack else torch.zeros_like(x)
        model, optimiser = trainee.at(epoch, step)
        figures = stepper(model, optimiser, *own_part(x, y, noise), learning_rate(recipe, epoch + step / steps))
        trainee.stepped()
        sums += figures[:3]
        classes = torch.maximum(classes, figures[3])
        first_bad = torch.where(figures[0].isfinite(), first_bad, first_bad.clamp(max=step))
    # Weights that a step broke show in the loss of the next one that uses them, if there is one.
    whole = torch.stack([p.isfinite().all() for p in trainee.weights()]).all()
    bad = int(torch.where(whole, first_bad, first_bad.clamp(max=steps - 1)))
    if bad < steps:
        reason = "loss or weights became NaN or infinite"
        raise DivergenceError(
            f"{reason} at epoch {epoch}, step {bad} of {steps}",
            {"reason": reason, "epoch": epoch, "step": bad, "steps": steps},
        )
    images = steps * len(y)
    loss, clean, robust = sums.tolist()
    accuracies = {"train_clean": clean / images, "train_robust": robust / images if attack else None}
    return {"loss": loss / steps, **accuracies, "train_classes": int(classes)}


def _merit(row: dict) -> list[float]:
    return [row["validation_robust"], row["validation_clean"]]


def _save(trainee: Trainee, outcome: TrainingOutcome, epoch: int, path: Path) -> None:
    if not is_first():
        return
    tensors = {f"trainee.{name}": tensor for name, tensor in trainee.tensors().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in outcome.best.items()}
    meta = {"epoch": epoch + 1, "history": outcome.history, "best_epoch": outcome.best_epoch}
    checkpoint.save(path, tensors, meta)


def _resumed(trainee: Trainee, resume: Resume | None) -> tuple[TrainingOutcome, int]:
    state = checkpoint.load_latest(resume.path) if resume else None
    if state is None:
        return TrainingOutcome(), 0
    tensors, meta = state
    trainee.restore(with_prefix(tensors, "trainee."))
    return TrainingOutcome(meta["history"], meta["best_epoch"], with_prefix(tensors, "best.")), meta["epoch"]
