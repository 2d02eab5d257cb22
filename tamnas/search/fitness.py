"""What the search knows of a subnet: what was measured of it with inherited weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from torch import Tensor

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import InheritStagePlan, SearchStagePlan
from tamnas.data.loader import Split, batches, load_split
from tamnas.evaluation.accuracy import accuracy, fast_copy, pgd_accuracy
from tamnas.networks.batchnorm import recalibrate
from tamnas.networks.subnet import Subnet
from tamnas.networks.supernet import Supernet
from tamnas.networks.trained import load_supernet
from tamnas.pipeline import device
from tamnas.pipeline.deadline import Pace
from tamnas.search.objectives import OBJECTIVES, Candidate, measured
from tamnas.seeding import torch_generator
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


@dataclass(frozen=True)
class Fitness:
    """Measured values by column (accuracies in [0, 1] on validation, sizes), and the costs to minimise."""

    values: dict[str, float]
    costs: tuple[float, ...]

    @classmethod
    def of(cls, values: dict[str, float], objectives: Sequence[str]) -> "Fitness":
        chosen = [OBJECTIVES[name] for name in objectives]
        return cls(values, tuple(objective.cost(values[objective.column]) for objective in chosen))

    @property
    def row(self) -> dict[str, float]:
        """As in results: the size first."""
        return {"parameters": self.values["parameters"], **self.values}


@dataclass(frozen=True)
class SearchContext:
    """What evaluating subnets needs; loaded once per worker."""

    plan: InheritStagePlan
    supernet: Supernet
    train: Split
    validation: Split
    pace: Pace = field(default_factory=Pace)


def load_context(plan: InheritStagePlan, weights: Path, data: Path, compute: ComputeParams) -> SearchContext:
    runtime = device.start(plan.numerics, compute)
    splits = (load_split(data, split, runtime.device) for split in ("train", "validation"))
    return SearchContext(plan, load_supernet(SearchSpace.from_params(plan), weights, runtime), *splits)


def inherited_subnet(context: SearchContext, arch: Architecture) -> Subnet:
    """The subnet with the supernet's weights, in eval mode, BatchNorm recalibrated on training images.

    The images are one fixed augmented draw, the same for every subnet. Zero images: statistics
    as inherited.
    """
    plan, subnet = context.plan, context.supernet.extract(arch)
    images = plan.search.bn_calibration_images
    if images:
        key = (plan.seed, "search", plan.name, "recalibration")
        size = min(plan.batch_size, images)
        drawn = batches(context.train, size, plan.augment, torch_generator(*key, device=context.train.images.device))
        recalibrate(subnet, (x for x, _ in islice(drawn, max(1, images // size))))
    return subnet.eval()


def evaluate_subnet(arch: Architecture, context: SearchContext) -> dict[str, float]:
    """A job: the measured values of one architecture with inherited weights, by column.

    Raises DeadlineError when another one would end after the deadline.
    """
    plan: SearchStagePlan = context.plan
    context.pace.require_time(f"search {plan.name}")
    subnet = fast_copy(inherited_subnet(context, arch))
    key = (plan.seed, "search", plan.name, "attack")
    candidate = Candidate(
        context.supernet.space,
        arch,
        subnet,
        context.validation,
        clean=partial(accuracy, subnet, context.validation),
        robust=partial(pgd_accuracy, subnet, context.validation, plan.search.attack, key),
    )
    return {objective.column: objective.measure(candidate) for objective in measured(plan.search.objectives)}


def inherited_weights(context: SearchContext, chosen: Sequence[dict]) -> dict[str, Tensor]:
    """Start weights for fine-tuning, `<id>.<tensor name>`, with the statistics the search saw."""
    tensors = {}
    for network in chosen:
        subnet = inherited_subnet(context, Architecture.from_plain(network["architecture"]))
        tensors |= {f"{network['id']}.{name}": tensor for name, tensor in subnet.state_dict().items()}
    return tensors
