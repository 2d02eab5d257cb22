"""A standalone network of the space."""

import torch
from torch import Tensor, nn

from tamnas.networks.batchnorm import BatchNorm2d
from tamnas.networks.blocks import ACTIVATIONS, SqueezeExcite, choice_block, initialise
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


class Head(nn.Module):
    """Table I from the last choice block on: 1x1 conv, pooling, SE stage, 1x1 conv, classes."""

    conv_norm = (("conv", "norm"),)

    def __init__(self, space: SearchSpace, act_layer=nn.ReLU):
        super().__init__()
        conv, hidden, out = space.head
        self.conv = nn.Conv2d(space.layers[-1].cout, conv, 1, bias=False)
        self.norm = BatchNorm2d(conv)
        self.act = act_layer()
        # 1x1 convolutions of a pooled, 1x1 map: linear layers
        self.hidden = nn.Linear(conv, hidden)
        self.gate = SqueezeExcite(hidden, act_layer)
        self.out = nn.Linear(hidden, out)
        self.classes = nn.Linear(out, space.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x))).mean((2, 3))
        x = self.gate(self.act(self.hidden(x)))
        return self.classes(self.act(self.out(x)))


class LeanHead(nn.Module):
    """Pooling and the classifier, not of the paper: its own head holds most parameters of a small network."""

    def __init__(self, space: SearchSpace):
        super().__init__()
        self.classes = nn.Linear(space.layers[-1].cout, space.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(x.mean((2, 3)))


class Rest(nn.Module):
    """Everything behind the stem convolution."""

    def __init__(self, space: SearchSpace, layers: nn.Module, act_layer):
        super().__init__()
        self.norm = BatchNorm2d(space.stem_channels)
        self.act = act_layer()
        self.layers = layers
        self.head = Head(space, act_layer) if space.head else LeanHead(space)

    def forward(self, h: Tensor) -> Tensor:
        return self.head(self.layers(self.act(self.norm(h))))


class Subnet(nn.Module):
    """One architecture as a standalone network; (N, 3, H, W) in [0, 1] -> (N, classes) logits.

    `generator` initialises the weights; without one they are torch's defaults.
    Raises InputError if `arch` is not legal in `space`.
    """

    conv_norm = (("first_layer", "rest.norm"),)

    def __init__(self, space: SearchSpace, arch: Architecture, generator: torch.Generator | None = None):
        super().__init__()
        self.space, self.arch = space, space.require_legal(arch)
        act_layer = ACTIVATIONS[space.activation]
        self.first_layer = nn.Conv2d(3, space.stem_channels, 3, padding=1, bias=False)
        genes = zip(space.layers, arch.blocks, arch.ratios, strict=True)
        self.rest = Rest(space, nn.Sequential(*(choice_block(*gene, act_layer) for gene in genes)), act_layer)
        if generator is not None:
            initialise(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first_layer(x))
