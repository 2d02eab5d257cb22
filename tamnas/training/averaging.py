"""The exponential moving average of a network while it is trained."""

import copy

import torch
from torch import Tensor, nn

from tamnas.pipeline.checkpoint import with_prefix


class Average:
    """Of weights and buffers, with the decay min(`decay`, (1 + n) / (10 + n)) at update n.

    The ramp lets the first steps be forgotten in short runs. torch's `AveragedModel` has none, and waits for a GPU
    in every step.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.network = copy.deepcopy(model)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present state in; integers (counters) are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        pairs = list(zip(self.network.state_dict().values(), model.state_dict().values(), strict=True))
        mine, theirs = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for own, other in pairs:
            if not own.is_floating_point():
                own.copy_(other)

    def tensors(self) -> dict[str, Tensor]:
        named = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return {"updates": torch.tensor(self.updates), **named}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.updates = int(tensors["updates"])
        self.network.load_state_dict(with_prefix(tensors, "network."))
