"""The TRADES-YOPO training step of one network, and what lasts from one step to the next.

`train_step` is the step. `Stepper` is how the loop runs it: it builds once per network what
stays as long as that network is trained, the folded twin that perturbations attack and, on
CUDA, a graph of the whole step.
"""

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from tamnas.awp import at_worst_weights
from tamnas.batchnorm import Folded
from tamnas.device import Runtime
from tamnas.plan import Attack, Recipe
from tamnas.yopo import perturb, trades_loss


def train_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    attack: Attack,
    recipe: Recipe,
    runtime: Runtime,
    twin: Folded | None = None,
) -> Tensor:
    """One TRADES-YOPO step; returns (loss, clean correct, robust correct), float32, on device.

    With a `twin` of the model, the perturbation is found on it: the same function as the model
    in eval mode, for less.
    """
    if twin is not None:
        twin.refresh()
    attacked = model if twin is None else twin.network
    with runtime.autocast():
        eta = perturb(
            attacked, x, noise, eps=float(attack.eps), step_size=float(attack.step_size),
            m=attack.m, n=attack.n, bn=attack.bn,
        )  # fmt: skip

    def objective() -> tuple[Tensor, Tensor, Tensor]:
        with runtime.autocast():
            return trades_loss(model, x, y, eta, lam=attack.lam, label_smoothing=recipe.label_smoothing)

    optimiser.zero_grad(set_to_none=True)
    with at_worst_weights(model, objective, recipe.awp) if recipe.awp else nullcontext():
        loss, clean, robust = objective()
        loss.backward()
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimiser.step()
    return torch.stack((loss.detach(), (clean.argmax(1) == y).sum(), (robust.argmax(1) == y).sum()))


class Stepper:
    """Runs training steps, and keeps what lasts for as long as one network is trained.

    A network whose parameters move to other memory must not come back: twin and graph hold
    on to the memory they were made for.
    """

    def __init__(self, attack: Attack, recipe: Recipe, runtime: Runtime):
        self._attack, self._recipe, self._runtime = attack, recipe, runtime
        self._model: nn.Module | None = None
        self._step: Callable[..., Tensor] | None = None

    def __call__(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, noise: Tensor, lr: float
    ) -> Tensor:
        """As `train_step`, at learning rate `lr`."""
        if model is not self._model:
            self._step = None  # frees the last network's graph before the next one needs memory
            self._model, self._step = model, self._prepared(model, optimiser)
        set_learning_rate(optimiser, lr)
        return self._step(x, y, noise)

    def _prepared(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Callable[..., Tensor]:
        # Without `self` in `step`: in a cycle, graph and memory would outlast the training until garbage is collected.
        attack, recipe, runtime = self._attack, self._recipe, self._runtime
        # With batch statistics, which change with the perturbation, nothing can be folded.
        twin = Folded(model) if attack.bn == "eval" else None

        def step(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
            return train_step(model, optimiser, x, y, noise, attack, recipe, runtime, twin)

        return Captured(step) if runtime.graphs else step


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """A number, or in place where the rate is a tensor: a captured graph reads that."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


class Captured:
    """A function of tensors of fixed shapes as a CUDA graph, which one launch replays.

    The first `WARM_UP` calls run as they are, on a side stream: they allocate gradients and
    momentum and let libraries set themselves up. The next call captures the graph (a capture
    executes nothing), and it and all later ones replay it. So every call computes its result
    once, and a network that is trained for a few steps only is never captured.
    """

    WARM_UP = 3

    def __init__(self, function: Callable[..., Tensor]):
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._output: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        self._calls += 1
        if self._calls <= self.WARM_UP:
            return self._aside(*inputs)
        if self._graph is None:
            self._capture(inputs)
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given)
        self._graph.replay()
        return self._output.clone()

    def _aside(self, *inputs: Tensor) -> Tensor:
        side = side_stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            output = self._function(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        return output

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(torch.empty_like(given) for given in inputs)
        self._graph = torch.cuda.CUDAGraph()
        with no_garbage_collection(), torch.cuda.graph(self._graph, stream=side_stream()):
            self._output = self._function(*self._inputs)


@functools.cache
def side_stream() -> torch.cuda.Stream:
    """The one stream of this process for warming up and capturing: every stream keeps freed memory for itself."""
    return torch.cuda.Stream()


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collects garbage before, and none inside: a graph that is freed during a capture breaks the capture."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
