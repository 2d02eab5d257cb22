"""Networks from their specs and files: fresh ones, trained ones, supernets."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tamnas.errors import InputError
from tamnas.networks.baselines import baseline
from tamnas.networks.subnet import Subnet
from tamnas.networks.supernet import Supernet
from tamnas.pipeline import checkpoint
from tamnas.pipeline.checkpoint import with_prefix
from tamnas.pipeline.device import MEMORY_FORMAT, Runtime
from tamnas.records import NetworkSpec, Record
from tamnas.space.space import SearchSpace


def build(network: NetworkSpec, space: SearchSpace, generator: torch.Generator | None = None) -> nn.Module:
    """The network with fresh weights from `generator`, torch's own without one."""
    if network.architecture is not None:
        return Subnet(space, network.architecture, generator)
    return baseline(network.baseline, space.num_classes, generator)


def load_network(space: SearchSpace, path: Path, weights: str, runtime: Runtime) -> tuple[nn.Module, Record]:
    """A trained network with its `best` or `last` weights, in eval mode, and its record. Raises InputError."""
    tensors, meta = checkpoint.load(path)
    record = _record(path, meta)
    model = build(record.network, space)
    checkpoint.fill(model, with_prefix(tensors, f"{weights}."), path)
    return model.to(runtime.device, memory_format=MEMORY_FORMAT).eval(), record


def trained_record(path: Path) -> Record:
    """The record of the network in `path`. Raises InputError."""
    return _record(path, checkpoint.load(path)[1])


def _record(path: Path, meta: dict) -> Record:
    if "record" not in meta:
        raise InputError(f"{path}: holds no trained network")
    return Record.from_plain(meta["record"], path)


def supernet_tensors(supernet: Supernet) -> dict[str, Tensor]:
    """Weights, buffers and momentum, by name."""
    named = {f"model.{name}": tensor for name, tensor in supernet.state_dict().items()}
    return named | {f"momentum.{name}": tensor for name, tensor in supernet.momentum.items()}


def load_tensors(supernet: Supernet, tensors: dict[str, Tensor]) -> None:
    supernet.load_state_dict(with_prefix(tensors, "model."))
    for name, tensor in with_prefix(tensors, "momentum.").items():
        supernet.momentum[name].copy_(tensor)


def load_supernet(space: SearchSpace, path: Path, runtime: Runtime) -> Supernet:
    """A trained supernet. Raises InputError if the file is damaged or of another space."""
    supernet = Supernet(space)
    tensors, _ = checkpoint.load(path)
    checkpoint.require_match(path, tensors, supernet_tensors(supernet))
    load_tensors(supernet, tensors)
    return supernet.to(runtime.device)
