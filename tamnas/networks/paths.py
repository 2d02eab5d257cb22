"""Several paths of a supernet as one network: what a training step with `supernet.paths` above 1 trains."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tamnas.networks.subnet import Subnet
from tamnas.networks.supernet import Supernet


class Paths(nn.Module):
    """Subnets that were extracted from `supernet`, each of which sees its part of a batch.

    (N, 3, H, W) in [0, 1] -> (N, classes) logits, N a multiple of the number of subnets. Each has a copy of what they
    share. The copies stay equal with `share_gradients` before every step and `share_statistics` after it.
    """

    def __init__(self, supernet: Supernet, subnets: Sequence[Subnet]):
        super().__init__()
        self.subnets = nn.ModuleList(subnets)
        copies = defaultdict(list)
        for subnet in subnets:
            tensors = subnet.state_dict(keep_vars=True)
            for name, home, _ in supernet.slices(subnet, subnet.arch):
                if tensors[name].is_floating_point():  # BatchNorm counts its batches, the same number in every copy
                    copies[home].append(tensors[name])
        self._weights = [tensors for tensors in copies.values() if isinstance(tensors[0], nn.Parameter)]
        buffers = [tensors for tensors in copies.values() if not isinstance(tensors[0], nn.Parameter)]
        self._statistics = [tensors for tensors in buffers if len(tensors) > 1]

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.subnets))
        return torch.cat([subnet(part) for subnet, part in zip(self.subnets, parts, strict=True)])

    def share_gradients(self) -> list[Tensor]:
        """Give every copy of a weight the sum of all copies' gradients; returns each weight's gradient once."""
        return [sum_overlaps([weight.grad for weight in weights]) for weights in self._weights]

    def share_statistics(self) -> None:
        """Give every copy of BatchNorm's running statistics their mean."""
        for statistics in self._statistics:
            numbers = [torch.ones_like(tensor) for tensor in statistics]
            sum_overlaps(statistics)
            sum_overlaps(numbers)
            for tensor, number in zip(statistics, numbers, strict=True):
                tensor /= number


@torch.no_grad()
def sum_overlaps(tensors: Sequence[Tensor]) -> Tensor:
    """Put in the place of `tensors`, leading slices of one whole, their sum where they overlap; returns the whole."""
    if len(tensors) == 1:
        return tensors[0]
    whole = tensors[0].new_zeros([max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)])
    slices = [tuple(slice(size) for size in tensor.shape) for tensor in tensors]
    for tensor, index in zip(tensors, slices, strict=True):
        whole[index] += tensor
    for tensor, index in zip(tensors, slices, strict=True):
        tensor.copy_(whole[index])
    return whole
