"""Ranks: processes that train one network together, each on its part of every batch; without a process group, one.

All of them draw the same batch and the same noise, so that together they compute the step that one would. Sums come
in another order: losses agree to the precision of float32, not in their bits.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


def ranks() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this rank is the one that writes and tells."""
    return ranks() == 1 or distributed.get_rank() == 0


def own_part(*tensors: Tensor) -> tuple[Tensor, ...]:
    """This rank's rows of tensors whose lengths the ranks divide."""
    if ranks() == 1:
        return tensors
    return tuple(tensor.chunk(ranks())[distributed.get_rank()] for tensor in tensors)


def total(tensor: Tensor) -> Tensor:
    """The sum over ranks, in place."""
    if ranks() > 1:
        distributed.all_reduce(tensor)
    return tensor


def any_rank(condition: bool) -> bool:
    """Whether it holds on any rank: what ranks see of a clock must not part them."""
    return bool(total(torch.tensor(float(condition), device=_device()))) if ranks() > 1 else condition


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Each gradient's mean over ranks: the gradient of the whole batch's mean loss. One exchange, of these alone."""
    if ranks() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = total(torch.cat([gradient.flatten() for gradient in gradients])) / ranks()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def _device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
