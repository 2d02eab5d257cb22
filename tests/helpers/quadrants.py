"""Images of few colours, a network's own labels of them, and a grid of attacks on it."""

import copy
from functools import cache

import torch
from torch import nn

from tamnas.config.sections import EvalParams
from tamnas.data.loader import Split


def eval_plan(**changed) -> EvalParams:
    setting = {"eps": ("4/255", "8/255"), "steps": (1, 3), "success": "any", "weights": "last"}
    return EvalParams(**(setting | changed))


@cache
def quadrants() -> torch.Tensor:
    """60 images of four quadrants, each with a brightness of its own, and some noise."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 200, (60, 3, 2, 2), generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (colours + torch.randint(0, 56, (60, 3, 8, 8), generator=generator)).to(torch.uint8)


@torch.no_grad()
def centred(model: nn.Module, last: nn.Linear) -> nn.Module:
    """So that all classes are guessed: an untrained network favours one."""
    last.bias -= copy.deepcopy(model).eval()(quadrants() / 255).mean(0)
    return model


def labelled(model: nn.Module, count: int = 60) -> Split:
    """The label is what the network says, another one for every fifth image."""
    images = quadrants()[:count]
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(images / 255)
    labels = logits.argmax(1)
    assert len(labels.unique()) > 2
    labels[::5] = logits[::5].argmin(1)
    return Split(images, labels, 255)
