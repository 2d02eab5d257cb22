"""A training step as a CUDA graph."""

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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
