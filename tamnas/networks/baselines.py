"""Hand-made networks beside which the searched ones stand, for (N, 3, H, W) in [0, 1].

Each keeps the contract of `Subnet`: `model(x) == model.rest(model.first_layer(x))` with a
linear first layer, so that TRADES-YOPO's closed form holds for it too. ResNet-8, ResNet-20, ResNet-32
and WRN-34-2 are made for 32x32 images; ResNet-18, ShuffleNetV2 x1.0 and MobileNetV3 large are
torchvision's, adapted: stem with stride 1, no max-pooling, no pretrained weights.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamnas.networks.blocks import initialise


class HandMade(nn.Module):
    """A first layer (one convolution) and the `rest`, whose last module is the classifier.

    `norm` names the BatchNorm in `rest` that sees the first layer's output alone.
    """

    def __init__(self, first_layer: nn.Conv2d, *rest: nn.Module, norm: str = "0"):
        super().__init__()
        self.first_layer, self.rest = first_layer, nn.Sequential(*rest)
        self.conv_norm = (("first_layer", f"rest.{norm}"),)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first_layer(x))


class Adapted(HandMade):
    """A network of torchvision's, with stride 1 in the stem.

    Activations leave their input as found: a first layer's output is read more than once.
    """

    def __init__(self, first_layer: nn.Conv2d, *rest: nn.Module):
        super().__init__(first_layer, *rest)
        first_layer.stride = (1, 1)
        for module in self.modules():
            if hasattr(module, "inplace"):
                module.inplace = False

    def scale_classifier(self) -> None:
        """From He's fan-out to fan-in: with 512 features and more, first logits of +-20 would be a bad start."""
        *_, last = (module for module in self.modules() if isinstance(module, nn.Linear))
        with torch.no_grad():
            last.weight.mul_((last.out_features / last.in_features) ** 0.5)


def _conv3x3(cin: int, cout: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 3, stride, 1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016): without parameters (option A), or `projected` where the
    width changes, by a 1x1 convolution (option B, without BatchNorm).
    """

    conv_norm = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(
        self, cin: int, cout: int, stride: int, projected: bool = False, activation: type[nn.Module] = nn.ReLU
    ):
        super().__init__()
        self.activation = activation()
        self.conv1 = _conv3x3(cin, cout, stride)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = _conv3x3(cout, cout)
        self.bn2 = nn.BatchNorm2d(cout)
        self.stride, self.widen = stride, cout - cin
        self.shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False) if projected and cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            return self.activation(out + self.shortcut(x))
        kept = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.widen))
        return self.activation(out + kept)


class WideBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions (Zagoruyko and Komodakis 2016).

    Where the width changes, the shortcut is a 1x1 convolution of the normalised input.
    """

    conv_norm = (("conv1", "bn2"),)  # bn1 sees a sum, which no convolution can absorb

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv1 = _conv3x3(cin, cout, stride)
        self.bn2 = nn.BatchNorm2d(cout)
        self.conv2 = _conv3x3(cout, cout)
        self.shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        normed = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(normed))))
        return out + (x if self.shortcut is None else self.shortcut(normed))


def _stages(block: Callable[..., nn.Module], n: int, cin: int, widths: tuple[int, ...]) -> list[nn.Module]:
    """`n` blocks a stage; every stage but the first begins with stride 2."""
    blocks = []
    for stage, cout in enumerate(widths):
        for i in range(n):
            blocks.append(block(cin, cout, 2 if stage and not i else 1))
            cin = cout
    return blocks


def _pooled() -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten()


def cifar_resnet(n: int, num_classes: int, projected: bool = False, activation: type[nn.Module] = nn.ReLU) -> HandMade:
    """ResNet-(6n+2) for small images: 16, 32, 64 channels, n blocks a stage."""
    stages = _stages(partial(BasicBlock, projected=projected, activation=activation), n, 16, (16, 32, 64))
    return HandMade(_conv3x3(3, 16), nn.BatchNorm2d(16), activation(), *stages, *_pooled(), nn.Linear(64, num_classes))


def wide_resnet(n: int, k: int, num_classes: int) -> HandMade:
    """WRN-(6n+4)-k without dropout: 16k, 32k, 64k channels, n blocks a stage; k at least 2."""
    stages = _stages(WideBlock, n, 16, (16 * k, 32 * k, 64 * k))
    last = nn.BatchNorm2d(64 * k), nn.ReLU(), *_pooled(), nn.Linear(64 * k, num_classes)
    return HandMade(_conv3x3(3, 16), *stages, *last, norm="0.bn1")


def resnet18(num_classes: int) -> Adapted:
    """As usual for CIFAR: a 3x3 stem in place of the 7x7 one."""
    from torchvision.models import resnet

    model = resnet.resnet18(weights=None, num_classes=num_classes)
    for block in model.modules():
        if isinstance(block, resnet.BasicBlock):
            block.conv_norm = BasicBlock.conv_norm
    stages = model.layer1, model.layer2, model.layer3, model.layer4
    return Adapted(_conv3x3(3, 64), model.bn1, nn.ReLU(), *stages, *_pooled(), model.fc)


def shufflenetv2(num_classes: int) -> Adapted:
    from torchvision.models import shufflenet_v2_x1_0

    model = shufflenet_v2_x1_0(weights=None, num_classes=num_classes)
    conv, norm, act = model.conv1
    stages = model.stage2, model.stage3, model.stage4, model.conv5
    return Adapted(conv, norm, act, *stages, *_pooled(), model.fc)


def mobilenetv3(num_classes: int) -> Adapted:
    """BatchNorm with the defaults that all other networks have; no dropout, whose draws no seed of ours reaches."""
    from torchvision.models import mobilenet_v3_large

    model = mobilenet_v3_large(weights=None, num_classes=num_classes, dropout=0.0, norm_layer=nn.BatchNorm2d)
    (conv, norm, act), *layers = model.features
    return Adapted(conv, norm, act, *layers, *_pooled(), model.classifier)


FACTORIES = {
    "resnet18": resnet18,
    "shufflenetv2": shufflenetv2,
    "mobilenetv3": mobilenetv3,
    # Of MLPerf Tiny (Banbury et al. 2021), without the biases in front of its BatchNorms.
    "resnet8": lambda num_classes: cifar_resnet(1, num_classes, projected=True),
    "resnet8_silu": lambda num_classes: cifar_resnet(1, num_classes, projected=True, activation=nn.SiLU),
    "resnet20": lambda num_classes: cifar_resnet(3, num_classes),
    "resnet32": lambda num_classes: cifar_resnet(5, num_classes),
    "wrn34_2": lambda num_classes: wide_resnet(5, 2, num_classes),
}


def baseline(name: str, num_classes: int, generator: torch.Generator | None = None) -> nn.Module:
    """The baseline `name` (one of `tamnas.config.sections.BASELINES`), initialised from `generator`."""
    model = FACTORIES[name](num_classes)
    if generator is not None:
        initialise(model, generator)
        if isinstance(model, Adapted):
            model.scale_classifier()
    return model
