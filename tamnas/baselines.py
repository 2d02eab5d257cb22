"""Hand-made networks beside which the searched ones stand, for (N, 3, H, W) in [0, 1].

Each keeps the contract of `Subnet`: `model(x) == model.rest(model.first_layer(x))` with a
linear first layer, so that TRADES-YOPO's closed form holds for it too.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamnas.blocks import initialise


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (He et al. 2016, option A)."""

    conv_norm = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.stride, self.widen = stride, cout - cin

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        kept = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.widen))
        return F.relu(out + kept)


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for small images: 16, 32, 64 channels, n blocks a stage."""

    conv_norm = (("first_layer", "rest.0"),)

    def __init__(self, n: int, num_classes: int):
        super().__init__()
        self.first_layer = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        blocks, cin = [], 16
        for stage, cout in enumerate((16, 32, 64)):
            for i in range(n):
                blocks.append(BasicBlock(cin, cout, 2 if stage and not i else 1))
                cin = cout
        self.rest = nn.Sequential(
            nn.BatchNorm2d(16), nn.ReLU(), *blocks,
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first_layer(x))


FACTORIES = {"resnet20": lambda num_classes: CifarResNet(3, num_classes)}


def baseline(name: str, num_classes: int, generator: torch.Generator | None = None) -> nn.Module:
    """The baseline `name` (one of `tamnas.plan.BASELINES`), initialised from `generator`."""
    model = FACTORIES[name](num_classes)
    if generator is not None:
        initialise(model, generator)
    return model
