"""BatchNorm statistics of a network that uses weights trained along other paths."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace all running statistics by their cumulative average over `batches` (clean images).

    Weights, and the model's train/eval mode, stay as found.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            update_bn(batches, model)
    finally:
        for module, training in modes:
            module.training = training
