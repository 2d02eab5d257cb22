"""What the search knows of a subnet: accuracy with inherited weights, and size."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from torch import Tensor

from tamnas.config.compute import Compute
from tamnas.config.plan import Augment, RowPlan
from tamnas.data.loader import Split, batches, load_split
from tamnas.evaluation.accuracy import accuracy, fast_copy, pgd_accuracy
from tamnas.networks.batchnorm import recalibrate
from tamnas.networks.subnet import Subnet
from tamnas.networks.supernet import Supernet
from tamnas.networks.trained import load_supernet
from tamnas.pipeline import device
from tamnas.pipeline.deadline import Pace
from tamnas.seeding import torch_generator
from tamnas.space.architecture import Architecture


@dataclass(frozen=True)
class Fitness:
    """What the search knows of a subnet: accuracies in [0, 1] on validation, and its size."""

    clean: float
    robust: float
    parameters: int

    @property
    def objectives(self) -> tuple[float, float, float]:
        return 1 - self.clean, 1 - self.robust, float(self.parameters)


@dataclass(frozen=True)
class SearchContext:
    """What an evaluation job needs; loaded once per worker."""

    plan: RowPlan
    supernet: Supernet
    train: Split
    validation: Split
    pace: Pace = field(default_factory=Pace)


def load_context(plan: RowPlan, weights: Path, data: Path, compute: Compute) -> SearchContext:
    runtime = device.start(plan.numerics, compute)
    splits = (load_split(data, split, runtime.device) for split in ("train", "validation"))
    return SearchContext(plan, load_supernet(plan, weights, runtime), *splits)


def inherit(
    supernet: Supernet, arch: Architecture, train: Split, images: int, augment: Augment, batch: int, key: tuple
) -> Subnet:
    """The subnet with the supernet's weights and BatchNorm recalibrated on `images` training images.

    The images are one fixed augmented draw, the same for every subnet. Zero images: statistics
    as inherited.
    """
    subnet = supernet.extract(arch)
    if images:
        generator = torch_generator(*key, "recalibration", device=train.images.device)
        size = min(batch, images)
        recalibrate(subnet, (x for x, _ in islice(batches(train, size, augment, generator), max(1, images // size))))
    return subnet.eval()


def inherited_subnet(context: SearchContext, arch: Architecture) -> Subnet:
    plan = context.plan
    return inherit(
        context.supernet, arch, context.train, plan.search.bn_calibration_images, plan.data.augment,
        plan.supernet.joint.recipe.batch_size, (plan.seed, "search", plan.row),
    )  # fmt: skip


def evaluate_subnet(spec: dict, context: SearchContext) -> tuple[float, float]:
    """A job: (clean, robust) validation accuracy of one architecture with inherited weights.

    Raises DeadlineError when another one would end after the deadline.
    """
    plan = context.plan
    context.pace.require_time(f"search {plan.row}")
    subnet = fast_copy(inherited_subnet(context, Architecture.from_plain(spec)))
    key = (plan.seed, "search", plan.row, "attack")
    return accuracy(subnet, context.validation), pgd_accuracy(subnet, context.validation, plan.search.attack, key)


def inherited_weights(context: SearchContext, chosen: Sequence[dict]) -> dict[str, Tensor]:
    """Start weights for fine-tuning, `<id>.<tensor name>`, with the statistics the search saw."""
    tensors = {}
    for one in chosen:
        subnet = inherited_subnet(context, Architecture.from_plain(one["architecture"]))
        tensors |= {f"{one['id']}.{name}": tensor for name, tensor in subnet.state_dict().items()}
    return tensors
