"""Trained networks, read back from their files."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tamnas.config.plan import RowPlan
from tamnas.errors import InputError
from tamnas.networks.baselines import baseline
from tamnas.networks.subnet import Subnet
from tamnas.networks.supernet import Supernet
from tamnas.pipeline import checkpoint, device
from tamnas.pipeline.checkpoint import with_prefix
from tamnas.pipeline.device import Runtime
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


@dataclass(frozen=True)
class NetworkSpec:
    """A network by name: a subnet's architecture, or a baseline."""

    id: str
    architecture: Architecture | None = None
    baseline: str | None = None

    def plain(self) -> dict:
        arch = self.architecture.plain() if self.architecture else None
        return {"id": self.id, "architecture": arch, "baseline": self.baseline}

    @classmethod
    def from_plain(cls, plain: dict) -> "NetworkSpec":
        arch = plain["architecture"]
        if Path(str(plain["id"])).name != plain["id"]:  # it becomes a file's name
            raise InputError(f"network id {plain['id']!r:.80}: must be a plain name, without folders")
        return cls(plain["id"], Architecture.from_plain(arch) if arch else None, plain["baseline"])

    def build(self, space: SearchSpace, generator: torch.Generator | None = None) -> nn.Module:
        if self.architecture is not None:
            return Subnet(space, self.architecture, generator)
        return baseline(self.baseline, space.num_classes, generator)

    @property
    def identity(self) -> str:
        """What random numbers derive from: the network itself, not its place in a list."""
        return str(self.architecture) if self.architecture else self.baseline


def load_network(space: SearchSpace, path: Path, weights: str, runtime: device.Runtime) -> tuple[nn.Module, dict]:
    """A trained network with its `best` or `last` weights, and its record. Raises InputError."""
    tensors, meta = checkpoint.load(path)
    record = _record(path, meta)
    network = NetworkSpec.from_plain(record)
    model = network.build(space)
    chosen = with_prefix(tensors, f"{weights}.")
    checkpoint.require_match(path, chosen, model.state_dict())
    model.load_state_dict(chosen)
    return model.to(runtime.device, memory_format=device.MEMORY_FORMAT).eval(), record


def trained_record(path: Path) -> dict:
    """What `train_network` recorded of the network in `path`. Raises InputError."""
    return _record(path, checkpoint.load(path)[1])


def _record(path: Path, meta: dict) -> dict:
    if "record" not in meta:
        raise InputError(f"{path}: holds no trained network")
    return meta["record"]


def supernet_tensors(supernet: Supernet) -> dict[str, Tensor]:
    """Weights, buffers and momentum, by name."""
    named = {f"model.{name}": tensor for name, tensor in supernet.state_dict().items()}
    return named | {f"momentum.{name}": tensor for name, tensor in supernet.momentum.items()}


def load_tensors(supernet: Supernet, tensors: dict[str, Tensor]) -> None:
    supernet.load_state_dict(with_prefix(tensors, "model."))
    for name, tensor in with_prefix(tensors, "momentum.").items():
        supernet.momentum[name].copy_(tensor)


def load_supernet(plan: RowPlan, path: Path, runtime: Runtime) -> Supernet:
    """A trained supernet. Raises InputError if the file is damaged or of another space."""
    supernet = Supernet(SearchSpace.from_params(plan))
    tensors, _ = checkpoint.load(path)
    checkpoint.require_match(path, tensors, supernet_tensors(supernet))
    load_tensors(supernet, tensors)
    return supernet.to(runtime.device)
