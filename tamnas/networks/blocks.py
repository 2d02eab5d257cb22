"""Choice blocks as torch modules (paper, Figures 3 and 4), built from the table in `space`.

Every tensor of a block at a smaller ratio is the leading slice of the same tensor at a
larger one: names do not depend on the ratio, only shapes do.
"""

import pkgutil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamnas.networks.batchnorm import BatchNorm2d
from tamnas.space.blocks import BLOCKS, BlockKind
from tamnas.space.layers import Layer

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}


class SqueezeExcite(nn.Module):
    """Channel gates from the pooled map (SE), reduction 4.

    Takes (N, C, H, W), or (N, C) that is already pooled. A 1x1 convolution of a 1x1 map is a
    linear layer, which runs three times as fast on CPU.
    """

    def __init__(self, channels: int, act_layer=nn.ReLU):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 4)
        self.act = act_layer()
        self.excite = nn.Linear(channels // 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3)) if x.dim() == 4 else x
        gates = torch.sigmoid(self.excite(self.act(self.squeeze(pooled))))
        return x * (gates[:, :, None, None] if x.dim() == 4 else gates)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T) value; (N, L, C), (N, M, C), (N, M, D) -> (N, L, D)."""
    if query.is_cuda or query.shape[2] == value.shape[2]:
        one_head = (t[:, None] for t in (query, key, value))
        return F.scaled_dot_product_attention(*one_head, scale=1.0)[:, 0]
    # No fused kernel takes two widths on CPU, and torch's way without one first looks for rows that are masked out.
    return (query @ key.transpose(1, 2)).softmax(2) @ value


class NonLocal(nn.Module):
    """Non-local block, embedded Gaussian or Gaussian (Wang et al. 2018), residual.

    The last of output convolution and BatchNorm starts at zero: a fresh block is the identity.
    """

    def __init__(self, channels: int, inner: int, attention: str, norm: bool = False):
        super().__init__()
        embedded = attention == "embedded"
        self.theta = nn.Conv2d(channels, inner, 1) if embedded else nn.Identity()
        self.phi = nn.Conv2d(channels, inner, 1) if embedded else nn.Identity()
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)
        self.norm = BatchNorm2d(channels) if norm else None

    @property
    def conv_norm(self) -> tuple[tuple[str, str], ...]:
        return () if self.norm is None else (("out", "norm"),)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.theta(x), self.phi(x), self.g(x)
        if min(x.shape[2:]) >= 2:
            key, value = F.max_pool2d(key, 2, 2), F.max_pool2d(value, 2, 2)
        # (N, C, H, W) -> (N, H*W, C); attention in fp32 at least, whatever autocast says
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(x.dtype, torch.float32)
            mixed = _attention(*(t.flatten(2).transpose(1, 2).to(wide) for t in (query, key, value)))
        # channels-last as it is: (N, H*W, C) -> (N, H, W, C), seen as (N, C, H, W)
        mixed = self.out(mixed.to(x.dtype).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2))
        return x + (mixed if self.norm is None else self.norm(mixed))


def _conv(cin: int, cout: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 1, bias=False)


def _depthwise(channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)


def _normed(conv: nn.Conv2d) -> tuple[nn.Module, ...]:
    return conv, BatchNorm2d(conv.out_channels)


def shuffle_branch(layer: Layer, m: int, kernel: int, act_layer=nn.ReLU) -> list[nn.Module]:
    """ShuffleNetV2 branch: 1x1, depthwise, 1x1."""
    p, o = layer.branch_in, layer.branch_out
    middle = _normed(_depthwise(m, kernel, layer.stride))
    return [*_normed(_conv(p, m)), act_layer(), *middle, *_normed(_conv(m, o)), act_layer()]


def xception_branch(layer: Layer, m: int, kernel: int, act_layer=nn.ReLU) -> list[nn.Module]:
    """Shuffle-Xception branch: three depthwise-separable convolutions."""
    p, o = layer.branch_in, layer.branch_out
    first = _depthwise(p, kernel, layer.stride), _conv(p, m)
    pairs = first, (_depthwise(m, kernel), _conv(m, m)), (_depthwise(m, kernel), _conv(m, o))
    return [part for spatial, mix in pairs for part in (*_normed(spatial), *_normed(mix), act_layer())]


BRANCH_MODULES = {"shuffle": shuffle_branch, "xception": xception_branch}


def shuffled_halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Interleave the two halves of the channels, then split in two again: ShuffleNet's shuffle and split.

    Interleaved, channel 2i is channel i of the first half and 2i + 1 channel i of the second.
    Works on channels-last memory and leaves it so: a shuffle along the leading axes would copy
    to contiguous memory, and every convolution behind it would copy back.
    """
    pairs = x.permute(0, 2, 3, 1).unflatten(3, (2, -1)).transpose(3, 4)  # (N, H, W, C/2, 2)
    whole = pairs.shape[3] % 2 == 0  # each half holds whole pairs: copy them apart, both dense
    halves = [half.flatten(3) for half in pairs.chunk(2, dim=3)] if whole else pairs.flatten(3).chunk(2, dim=3)
    kept, worked = (half.permute(0, 3, 1, 2) for half in halves)
    return kept, worked


class TinyBlock(nn.Module):
    """Pure tiny and tiny robust blocks (ids 0 to 17)."""

    def __init__(self, layer: Layer, kind: BlockKind, ratio: float, act_layer=nn.ReLU):
        super().__init__()
        o = layer.branch_out
        branch = BRANCH_MODULES[kind.branch](layer, layer.middle(ratio), kind.kernel, act_layer)
        if kind.attention:
            branch.append(NonLocal(o, o // 2, kind.attention))
        self.branch = nn.Sequential(*branch, SqueezeExcite(o, act_layer))
        self.projection = None
        if layer.transition:
            cin = layer.cin
            spatial, mix = _depthwise(cin, kind.kernel, layer.stride), _conv(cin, cin)
            self.projection = nn.Sequential(*_normed(spatial), *_normed(mix), act_layer())

    def forward(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            return torch.cat((self.projection(x), self.branch(x)), dim=1)
        kept, worked = shuffled_halves(x)
        return torch.cat((kept, self.branch(worked)), dim=1)


class PureRobustBlock(nn.Sequential):
    """A non-local block with a searched inner width, then SE (ids 18 to 21)."""

    def __init__(self, layer: Layer, kind: BlockKind, ratio: float, act_layer=nn.ReLU):
        attention = NonLocal(layer.cout, layer.middle(ratio), kind.attention, kind.attention_norm)
        super().__init__(attention, SqueezeExcite(layer.cout, act_layer))


def choice_block(layer: Layer, block: int, ratio: float, act_layer=nn.ReLU) -> nn.Module:
    """The module of one block id at one layer and ratio; (N, cin, H, W) -> (N, cout, H/s, W/s)."""
    kind = BLOCKS[block]
    return pkgutil.resolve_name(kind.module)(layer, kind, ratio, act_layer)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """He initialisation (fan-out) from `generator`; BatchNorm at identity, biases at zero."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
            part.reset_running_stats()
    for part in module.modules():
        if isinstance(part, NonLocal):
            nn.init.zeros_((part.norm or part.out).weight)
