"""Clean and robust accuracy of one model. Always in float32 and eval mode.

Networks are evaluated as a folded, channels-last copy: the same function up to rounding, and
1.5 times as fast under PGD on CPU (benchmarks). The model given is never touched.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from tamnas.attacks import survivors
from tamnas.batchnorm import folded
from tamnas.data import Split, chunks
from tamnas.device import MEMORY_FORMAT
from tamnas.plan import Eval, Pgd, Validation
from tamnas.seeding import torch_generator

# Pixels in one pass, 512 and 2,048 images of 32x32: small maps cost more in overhead than in arithmetic
PIXELS = {"cpu": 512 * 32 * 32, "cuda": 2048 * 32 * 32}


def accuracy(model: nn.Module, split: Split) -> float:
    """Share of `split` classified correctly."""
    model = _fast(model)
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum() for x, y in _chunks(split))
    return int(correct) / len(split)


def _fast(model: nn.Module) -> nn.Module:
    return folded(model).to(memory_format=MEMORY_FORMAT)


def _chunks(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in chunks(split, max(1, PIXELS[split.images.device.type] // split.size**2)):
        yield x.to(memory_format=MEMORY_FORMAT), y


def robust_accuracy(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    step_size: float,
    steps: int,
    success: str = "any",
    generator: torch.Generator | None = None,
) -> float:
    """Share of `split` that PGD leaves correctly classified; eps and step_size in [0, 1].

    `success`: `any` iterate that fools the network counts, or only the `last`.
    """
    (share,) = robust_accuracies(
        model, split, eps=eps, step_size=step_size, steps=(steps,), success=success, generator=generator
    )
    return share


def robust_accuracies(model: nn.Module, split: Split, *, steps: Sequence[int], **attack) -> list[float]:
    """As `robust_accuracy` for several step counts, at the price of the longest."""
    model = _fast(model)
    standing = sum(survivors(model, x, y, steps=steps, **attack).sum(1) for x, y in _chunks(split))
    return [count / len(split) for count in standing.tolist()]


def restart_accuracy(
    model: nn.Module, split: Split, *, steps: int, generators: Sequence[torch.Generator], **attack
) -> float:
    """As `robust_accuracy`, where an image is lost if PGD succeeds from any of several random starts."""
    model = _fast(model)
    standing = 0
    for x, y in _chunks(split):
        left = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for generator in generators:
            (survived,) = survivors(model, x, y, steps=(steps,), generator=generator, **attack)
            left &= survived
        standing += int(left.sum())
    return standing / len(split)


def pgd_accuracy(model: nn.Module, split: Split, attack: Pgd, key: tuple) -> float:
    """Robust accuracy under a planned attack with noise derived from `key`."""
    return robust_accuracy(
        model, split, eps=float(attack.eps), step_size=float(attack.step_size), steps=attack.steps,
        generator=torch_generator(*key, device=split.images.device),
    )  # fmt: skip


def grid_cells(plan: Eval, final: bool) -> dict[Fraction, list[int]]:
    """Step counts to evaluate per eps: the grid, and for final networks the extra cells."""
    cells = {eps: set(plan.steps) for eps in plan.eps}
    for cell in plan.final if final else ():
        cells.setdefault(cell.eps, set()).add(cell.steps)
    return {eps: sorted(steps) for eps, steps in sorted(cells.items())}


def evaluate_grid(
    model: nn.Module, split: Split, plan: Eval, cells: Mapping[Fraction, Sequence[int]], key: tuple
) -> list[tuple[Fraction, int, float]]:
    """(eps, steps, robust accuracy) of every cell; the noise of an eps derives from `key`."""
    rows = []
    for eps, steps in cells.items():
        accuracies = robust_accuracies(
            model, split, steps=steps, eps=float(eps), step_size=float(eps) / plan.step_divisor,
            success=plan.success, generator=torch_generator(*key, str(eps), device=split.images.device),
        )  # fmt: skip
        rows += [(eps, count, share) for count, share in zip(steps, accuracies, strict=True)]
    return rows


class Validator:
    """Validation accuracies during training: clean in every epoch, PGD from `plan.start` on."""

    def __init__(self, split: Split, plan: Validation, epochs: int, key: tuple):
        self.split, self.plan, self.key = split, plan, key
        self.first_robust = min(round(plan.start * epochs), epochs - 1)

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float | None]:
        robust = None
        if epoch >= self.first_robust:
            robust = pgd_accuracy(model, self.split, self.plan.attack, (*self.key, "validation"))
        return {"validation_clean": accuracy(model, self.split), "validation_robust": robust}
