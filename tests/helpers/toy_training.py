"""Tiny networks, three classes of images and a short recipe, for the tests of training."""

import torch
from torch import nn

from tamnas.config.images import AugmentParams
from tamnas.config.sections import RecipePlan, SchedulePlan, TrainingAttackPlan
from tamnas.data.loader import Split
from tamnas.networks.subnet import Subnet
from tamnas.pipeline.device import Runtime
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace
from tamnas.training.loop import TrainingOutcome, train

CPU = Runtime(torch.device("cpu"), None)
SPACE = SearchSpace(
    num_classes=3, stem_channels=4, channels=(8, 12), repeats=(1, 2), strides=(2, 1), head=(8, 16, 16),
    blocks=(0, 3, 6, 20), ratios=(0.4, 1.0, 1.6, 2.0), size=8,
)  # fmt: skip
ARCH = Architecture((0, 6, 20), (1.0, 0.4, 1.6))
ATTACK = TrainingAttackPlan(eps="8/255", step_size="5/255", m=1, n=2)
AUGMENT = AugmentParams(pad=1, flip=True)


def recipe(epochs: int = 4, schedule: dict | None = None, **changed) -> RecipePlan:
    setting = {"batch_size": 16, "lr": 0.05, "weight_decay": 5e-4, "epochs": epochs}
    return RecipePlan(**(setting | changed), schedule=SchedulePlan(**(schedule or {"kind": "milestones"})))


def three_classes() -> Split:
    """Three classes told apart by where they are bright; 52 images are 3 batches of 16 and a rest."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(52) % 3
    images = torch.randint(0, 120, (52, 3, 8, 8), generator=generator)
    for label in range(3):
        images[labels == label, :, 2 * label : 2 * label + 3] += 130
    return Split(images.to(torch.uint8), labels, 255)


def network(seed: int = 0, arch: Architecture = ARCH) -> Subnet:
    return Subnet(SPACE, arch, torch.Generator().manual_seed(seed))


def run(trainee, split, steps=None, **changed) -> TrainingOutcome:
    setting = {"recipe": recipe(), "attack": ATTACK, "augment": AUGMENT, "key": (0, "test"), "runtime": CPU}
    return train(trainee, split, **(setting | changed))


def equal(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def sgd_of(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01)


class StopError(Exception):
    """As if the process had been killed."""


class StopAfter:
    """A progress bar that stops the run in epoch `stop`, after its checkpoint was written."""

    def skip(self, done):
        pass

    def __init__(self, stop: int):
        self.left = stop

    def step(self, **figures):
        if self.left == 0:
            raise StopError
        self.left -= 1


QUICK = recipe(batch_size=26)  # two steps an epoch
