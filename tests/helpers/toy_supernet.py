"""A tiny supernet in a phase of its training."""

import torch

from tamnas.config.plan import PhaseStagePlan, row_stages
from tamnas.config.resolve import parse_params, resolve_row
from tamnas.networks.subnet import Subnet
from tamnas.networks.supernet import Supernet
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace
from tamnas.training.phases import SampledPaths
from tests.helpers.tiny import tiny_params
from tests.helpers.toy_training import SPACE


def phase_plan(every: dict, phase: str = "joint", budget=None, span: str = "both", paths: int = 1) -> PhaseStagePlan:
    """The plan of a phase, with SPACE's geometry: 4 epochs with batches of 16."""
    raw = tiny_params()
    raw["data"]["digits"].update(classes=3)
    raw["network"].update(stem_channels=4, channels=[8, 12], repeats=[1, 2], strides=[2, 1])
    raw["network"]["head"] = {"conv": 8, "hidden": 16, "out": 16}
    raw["space"] = {"blocks": [0, 3, 6, 20], "ratios": [0.4, 1.0, 1.6, 2.0]}
    raw["supernet"].update(batch_size=16, resample_every=every, lr=0.05, paths=paths)
    raw["supernet"]["schedule"] = {"kind": "cosine", "warmup": 1, "span": span}
    raw["supernet"]["block"] = {"epochs": 4}
    raw["supernet"]["joint"] = {"epochs": 4, "open_ratios": {"first": 2, "after": 2, "every": 1}}
    raw["supernet"][phase]["budget"] = budget
    raw["run"]["rows"], raw["modes"] = {"one": {"dataset": "digits", "mode": "base"}}, {"base": {}}
    plan = row_stages(resolve_row(parse_params(raw), "one"))[f"supernet_{phase}"]
    assert SearchSpace.from_params(plan) == SPACE
    return plan


def supernet_with(seed: int = 0) -> Supernet:
    """A supernet whose momentum is not zero."""
    generator = torch.Generator().manual_seed(seed)
    made = Supernet(SPACE, generator)
    for tensor in made.momentum.values():
        tensor.normal_(0, 0.01, generator=generator)
    return made


def paths(plan: PhaseStagePlan, steps: int = 3, seed: int = 0) -> SampledPaths:
    return SampledPaths(supernet_with(seed), plan, steps, (0, "paths"))


def visited(trainee: SampledPaths, epochs: int = 4) -> list[Architecture]:
    """The architecture of every step of a phase, without training."""
    found = []
    for epoch in range(epochs):
        for step in range(trainee.steps):
            subnet, optimiser = trainee.at(epoch, step)
            assert subnet.training
            assert [id(p) for p in optimiser.param_groups[0]["params"]] == [id(p) for p in subnet.parameters()]
            found.append(subnet.arch)
    return found


def path_mask(net: Supernet, archs) -> dict[str, torch.Tensor]:
    """Of every tensor of the supernet: which numbers lie on one of the paths."""
    mask = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in net.state_dict().items()}
    for arch in archs:
        for _, home, index in net.slices(Subnet(SPACE, arch), arch):
            mask[home][index] = True
    return mask
