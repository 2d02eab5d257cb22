"""The supernet, and the one way weights and momentum move between it and its subnets.

A `Subnet` is a standalone network at its own size. The `Supernet` holds every block of every
layer at the largest ratio; a subnet's tensor is the leading slice `[:c_out, :c_in]` of the
supernet's tensor of the same name (paper, Section III-E1, read as slicing: docs/reading.md).
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tamnas.networks.blocks import ACTIVATIONS, choice_block, initialise
from tamnas.networks.subnet import Rest, Subnet
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


class Supernet(nn.Module):
    """All blocks of all layers at the largest ratio, with room for each weight's momentum.

    Momentum lives here between visits to a path, so that weights off the path rest.
    """

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None):
        super().__init__()
        self.space = space
        act_layer = ACTIVATIONS[space.activation]
        self.first_layer = nn.Conv2d(3, space.stem_channels, 3, padding=1, bias=False)
        layers = nn.ModuleList()
        for i, layer in enumerate(space.layers):
            blocks = {str(id_): choice_block(layer, id_, space.max_ratio, act_layer) for id_ in space.allowed_blocks(i)}
            layers.append(nn.ModuleDict(blocks))
        self.rest = Rest(space, layers, act_layer)
        if generator is not None:
            initialise(self, generator)
        self.momentum = {name: torch.zeros_like(p) for name, p in self.named_parameters()}
        self._tensors = self.state_dict(keep_vars=True)

    def slices(self, subnet: nn.Module, arch: Architecture) -> Iterator[tuple[str, str, tuple[slice, ...]]]:
        """(subnet's tensor name, supernet's tensor name, index) along the path of `arch`."""
        for name, tensor in subnet.state_dict(keep_vars=True).items():
            home = re.sub(r"^rest\.layers\.(\d+)", lambda match: f"{match[0]}.{arch.blocks[int(match[1])]}", name)
            yield name, home, tuple(slice(0, n) for n in tensor.shape)

    @torch.no_grad()
    def extract(self, arch: Architecture, memory_format: torch.memory_format = torch.preserve_format) -> Subnet:
        """A standalone copy of the path of `arch`, in the supernet's mode and on its device."""
        subnet = Subnet(self.space, arch).to(self.first_layer.weight.device, memory_format=memory_format)
        subnet.train(self.training)
        tensors = subnet.state_dict(keep_vars=True)
        for name, home, index in self.slices(subnet, arch):
            tensors[name].copy_(self._tensors[home][index])
        return subnet

    @torch.no_grad()
    def lend_momentum(self, subnet: Subnet, optimiser: torch.optim.SGD) -> None:
        """From now on `optimiser`, of the subnet's parameters, goes on with its path's momentum."""
        tensors = subnet.state_dict(keep_vars=True)
        for name, home, index in self.slices(subnet, subnet.arch):
            if home in self.momentum:
                # Laid out as its parameter: fused SGD on CUDA refuses any other.
                kept = self.momentum[home][index]
                momentum = torch.empty_like(tensors[name], dtype=kept.dtype).copy_(kept)
                optimiser.state[tensors[name]]["momentum_buffer"] = momentum

    @torch.no_grad()
    def absorb(self, subnet: Subnet, optimiser=None) -> None:
        """Write a subnet's weights and buffers (and its optimiser's momentum) back to its path."""
        tensors = subnet.state_dict(keep_vars=True)
        for name, home, index in self.slices(subnet, subnet.arch):
            self._tensors[home][index] = tensors[name]
            if optimiser is not None and home in self.momentum:
                momentum = optimiser.state[tensors[name]].get("momentum_buffer")
                if momentum is not None:  # SGD without momentum keeps none
                    self.momentum[home][index] = momentum

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        """The path of `arch` in place: gradients and BatchNorm statistics reach the supernet.

        (N, 3, H, W) in [0, 1] -> logits (N, classes). Raises InputError if `arch` is not legal.
        """
        subnet = Subnet(self.space, arch).train(self.training)
        views = {name: self._tensors[home][index] for name, home, index in self.slices(subnet, arch)}
        return torch.func.functional_call(subnet, views, (x,))

    def _apply(self, fn, *args, **kwargs):
        # nn.Module moves buffers by replacing them; keep our own tables in step.
        super()._apply(fn, *args, **kwargs)
        self.momentum = {name: fn(tensor) for name, tensor in self.momentum.items()}
        self._tensors = self.state_dict(keep_vars=True)
        return self
