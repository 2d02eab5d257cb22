"""BatchNorm statistics: recalibrated for inherited weights, left alone under attack."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace all running statistics by their cumulative average over `batches` (clean images).

    Weights, and the model's train/eval mode, stay as found.
    """
    with modes_kept(model), torch.no_grad():
        update_bn(batches, model)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Puts every module's train/eval mode back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """BatchNorm layers in train mode use their batch's statistics and leave the running ones alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    flags = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, flag in zip(norms, flags, strict=True):
            norm.track_running_stats = flag
