"""Clean and robust accuracy of one model. Always in float32 and eval mode.

Networks are evaluated as a folded, channels-last copy: the same function up to rounding, and
1.5 times as fast under PGD on CPU (benchmarks). The model given is never touched. Who evaluates
one network several times makes the copy once, with `fast_copy`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tamnas.attacks.ascent import classes, uniform_start
from tamnas.attacks.registry import Pgd
from tamnas.attacks.survival import Attempt, survivors
from tamnas.config.sections import EvalParams, ValidationParams
from tamnas.data.loader import Split, chunks
from tamnas.networks.folding import Folded
from tamnas.pipeline.device import MEMORY_FORMAT
from tamnas.seeding import torch_generator

# Pixels in one pass, 512 and 2,048 images of 32x32: small maps cost more in overhead than in arithmetic
PIXELS = {"cpu": 512 * 32 * 32, "cuda": 2048 * 32 * 32}


def predictions(model: nn.Module, split: Split) -> Tensor:
    """The class that each image of `split` is given: (images,) int64; -1 where the model gives NaN."""
    model = fast_copy(model)
    with torch.no_grad():
        return torch.cat([classes(model(x)) for x, _ in _chunks(split)])


def correct(model: nn.Module, split: Split) -> Tensor:
    """Which images of `split` are classified correctly: (images,) bool."""
    return predictions(model, split) == split.labels


def accuracy(model: nn.Module, split: Split) -> float:
    """Share of `split` classified correctly."""
    return share(correct(model, split))


def share(mask: Tensor) -> float:
    """Of its elements that are true."""
    return int(mask.sum()) / len(mask)


class Fast(nn.Module):
    """What `fast_copy` makes, so that it is not made of itself again."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.network = Folded(model).network.to(memory_format=MEMORY_FORMAT)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def fast_copy(model: nn.Module) -> Fast:
    """The network as every function here evaluates it, for as long as the model's weights stay as they are."""
    return model if isinstance(model, Fast) else Fast(model)


def _pass_size(split: Split) -> int:
    return max(1, PIXELS[split.images.device.type] // split.size**2)


def _chunks(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in chunks(split, _pass_size(split)):
        yield x.to(memory_format=MEMORY_FORMAT), y


def survivals(model: nn.Module, split: Split, attempts: Sequence[Attempt]) -> list[Tensor]:
    """Which images of `split` each attack leaves correctly classified: (len(attempt.steps), images) bool."""
    model, standing = fast_copy(model), []
    size = max(1, _pass_size(split) // len(attempts))
    for x, y in _chunks(split):
        # Drawn for the whole chunk, however many attacks share its passes: a GPU's noise depends on the size of a draw.
        starts = [uniform_start(x, attempt.eps, attempt.generator) for attempt in attempts]
        for part in zip(*(tensor.split(size) for tensor in (x, y, *starts)), strict=True):
            standing.append(survivors(model, *part[:2], attempts, part[2:]))
    return [torch.cat(parts, dim=1) for parts in zip(*standing, strict=True)]


def robust_accuracy(model: nn.Module, split: Split, attempt: Attempt) -> float:
    """Share of `split` that one attack, which looks once, leaves correctly classified."""
    ((standing,),) = survivals(model, split, [attempt])
    return share(standing)


def pgd_accuracy(model: nn.Module, split: Split, attack: Pgd, key: tuple) -> float:
    """Robust accuracy under a planned attack with noise derived from `key`."""
    generator = torch_generator(*key, device=split.images.device)
    attempt = Attempt(float(attack.eps), float(attack.step_size), (attack.steps,), generator=generator)
    return robust_accuracy(model, split, attempt)


def evaluate_pgd(
    model: nn.Module, split: Split, plan: EvalParams, attacks: Sequence[Pgd], key: tuple
) -> dict[Pgd, Tensor]:
    """Which images of `split` each of `attacks` leaves correctly classified, in their order: (images,) bool.

    All share passes, and those of a radius and step size their noise, which derives from `key`.
    """
    model, device = fast_copy(model), split.images.device
    alike: dict[tuple, list[Pgd]] = {}
    for attack in attacks:
        alike.setdefault((attack.eps, attack.step_size), []).append(attack)
    attempts = [
        Attempt(
            float(eps),
            float(step_size) if step_size else float(eps) / plan.step_divisor,
            tuple(attack.steps for attack in same),
            plan.success,
            torch_generator(*key, str(eps), device=device),
        )
        for (eps, step_size), same in alike.items()
    ]
    left = {
        attack: standing
        for same, masks in zip(alike.values(), survivals(model, split, attempts), strict=True)
        for attack, standing in zip(same, masks, strict=True)
    }
    return {attack: left[attack] for attack in attacks}


class Validator:
    """Validation during training: clean accuracy and classes predicted in every epoch, PGD from `plan.start` on."""

    def __init__(self, split: Split, plan: ValidationParams, epochs: int, key: tuple):
        self.split, self.plan, self.key = split, plan, key
        self.first_robust = min(round(plan.start * epochs), epochs - 1)

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float | None]:
        robust = None
        if epoch >= self.first_robust:
            model = fast_copy(model)
            robust = pgd_accuracy(model, self.split, self.plan.attack, (*self.key, "validation"))
        predicted = predictions(model, self.split)
        clean, count = share(predicted == self.split.labels), len(predicted.unique())
        return {"validation_clean": clean, "validation_robust": robust, "validation_classes": count}
