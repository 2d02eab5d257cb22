"""What the search knows of a subnet: what was measured of it with inherited weights."""

from collections.abc import Iterator, Sequence
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
from tamnas.search.objectives import Candidate, measured
from tamnas.seeding import torch_generator
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


@dataclass(frozen=True)
class SearchContext:
    """What evaluating subnets needs; loaded once per worker."""

    plan: InheritStagePlan
    supernet: Supernet
    train: Split
    validation: Split
    pace: Pace = field(default_factory=Pace)


def load_context(
    plan: InheritStagePlan, supernet: Path, data: Path, compute: ComputeParams, space: SearchSpace | None = None
) -> SearchContext:
    """`space`: the plan's with latencies, where they are an objective."""
    runtime = device.start(plan.numerics, compute)
    splits = (load_split(data, split, runtime.device) for split in ("train", "validation"))
    return SearchContext(plan, load_supernet(space or SearchSpace.from_params(plan), supernet, runtime), *splits)


def calibration_batches(context: SearchContext) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images to recalibrate BatchNorm on: one fixed augmented draw, the same for every subnet."""
    plan, images = context.plan, context.plan.search.bn_calibration_images
    key = (plan.seed, "search", plan.name, "recalibration")
    size = max(1, min(plan.batch_size, images))
    drawn = batches(context.train, size, plan.augment, torch_generator(*key, device=context.train.images.device))
    return islice(drawn, max(1, images // size) if images else 0)


def inherited_subnet(context: SearchContext, arch: Architecture) -> Subnet:
    """The subnet with the supernet's weights, in eval mode, BatchNorm recalibrated on clean training images.

    Zero images: statistics as inherited.
    """
    subnet = context.supernet.extract(arch)
    if context.plan.search.bn_calibration_images:
        recalibrate(subnet, (x for x, _ in calibration_batches(context)))
    return subnet.eval()


def attack_key(plan: InheritStagePlan) -> tuple:
    """Of the noise that every subnet of a row is attacked with."""
    return plan.seed, "search", plan.name, "attack"


def evaluate_subnet(arch: Architecture, context: SearchContext) -> dict[str, float]:
    """A job: the measured values of one architecture with inherited weights, by column.

    Raises DeadlineError when another one would end after the deadline.
    """
    plan: SearchStagePlan = context.plan
    context.pace.require_time(f"search {plan.name}")
    subnet = fast_copy(inherited_subnet(context, arch))
    candidate = Candidate(
        context.supernet.space,
        arch,
        subnet,
        context.validation,
        clean=partial(accuracy, subnet, context.validation),
        robust=partial(pgd_accuracy, subnet, context.validation, plan.search.attack, attack_key(plan)),
    )
    return {objective.column: objective.of(candidate) for objective in measured(plan.search.objectives)}


def inherited_weights(context: SearchContext, chosen: Sequence[dict]) -> dict[str, Tensor]:
    """Start weights for fine-tuning, `<id>.<tensor name>`, with the statistics the search saw."""
    tensors = {}
    for network in chosen:
        subnet = inherited_subnet(context, Architecture.from_plain(network["architecture"]))
        tensors |= {f"{network['id']}.{name}": tensor for name, tensor in subnet.state_dict().items()}
    return tensors
