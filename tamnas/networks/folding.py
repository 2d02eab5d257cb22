"""A faster twin of a network for attacks: BatchNorm folded, ReLU in place."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights


class Rectifier(nn.Module):
    """ReLU in place, for an input that nothing else reads. Of a view a copy, since autograd would copy its base."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=not x._is_view())


class Folded:
    """A frozen twin of `model` in eval mode, each BatchNorm folded into its convolution.

    `network` computes the same function up to float32 rounding, and is 1.5 times as fast under
    attack on CPU. It shares every other tensor with the model; after the model's weights have
    changed in place, `refresh` folds again. Pairs are neighbours in an `nn.Sequential`, and
    those that a module names in `conv_norm`.
    """

    def __init__(self, model: nn.Module):
        shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
        shared |= {id(buffer): buffer for buffer in model.buffers()}
        self.network = copy.deepcopy(model, shared).eval()
        self._pairs = [
            (model.get_submodule(conv), model.get_submodule(norm), self._fold(conv, norm))
            for conv, norm in list(_pairs(model))
        ]
        for name in list(_rectified(self.network)):
            self.network.set_submodule(name, Rectifier())
        self.refresh()

    def _fold(self, conv: str, norm: str) -> nn.Conv2d:
        """Put a convolution with a bias in the place of a pair; its weights come with `refresh`."""
        network = self.network
        fused = fuse_conv_bn_eval(network.get_submodule(conv), network.get_submodule(norm))
        network.set_submodule(conv, fused)
        network.set_submodule(norm, nn.Identity())
        return fused

    @torch.no_grad()
    def refresh(self) -> None:
        """Fold the model's weights and running statistics of this moment."""
        for conv, norm, fused in self._pairs:
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            fused.weight.copy_(weight)
            fused.bias.copy_(bias)


def _rectified(model: nn.Module) -> Iterator[str]:
    """Names of the ReLUs behind a convolution or BatchNorm in a plain `nn.Sequential`: theirs alone is the output."""
    for prefix, module in model.named_modules():
        plain = type(module).forward is nn.Sequential.forward
        for (_, before), (name, act) in pairwise(module.named_children() if plain else ()):
            if isinstance(act, nn.ReLU) and isinstance(before, (nn.Conv2d, nn.BatchNorm2d, nn.Identity)):
                yield f"{prefix}.{name}".lstrip(".")


def _pairs(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of a convolution and the BatchNorm that directly follows it."""
    for prefix, module in model.named_modules():
        named = list(module.named_children()) if isinstance(module, nn.Sequential) else []
        neighbours = [
            (first, second)
            for (first, conv), (second, norm) in pairwise(named)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        ]
        for pair in (*neighbours, *getattr(module, "conv_norm", ())):
            yield tuple(f"{prefix}.{name}".lstrip(".") for name in pair)
