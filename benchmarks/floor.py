"""How far a training step is from the floor: the bytes it must move over the device's bandwidth.

    python -m benchmarks.floor [--row ROW] [--batch 64]

Counts what every operation of one eager step reads and writes (views move nothing), once for all
operations, once for convolutions alone; and times, in turns, the step as the training loop runs it
and a large copy, which gives the bandwidth. Without fusion no step is faster than bytes over
bandwidth, unless the tensors fit a cache: on CPU with small maps they do, and the step is bound by
arithmetic instead.
"""

import copy
import statistics
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.harness import ATTACK, PLAIN, alternate, environment, report, setting
from benchmarks.options import benchmark, click
from tamnas.attacks.yopo import start_noise
from tamnas.pipeline.device import MEMORY_FORMAT, Runtime
from tamnas.seeding import torch_generator
from tamnas.training.loop import sgd
from tamnas.training.step import Stepper


class Traffic(TorchDispatchMode):
    """Bytes read and written by the operations inside, and their number, by kind."""

    def __init__(self):
        super().__init__()
        self.bytes, self.calls = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, torch.Tensor)]
            kind = "convolutions" if "convolution" in func.name() else "other operations"
            self.bytes[kind] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.calls[kind] += 1
        return found


def copying(where: torch.device, size: int) -> Callable[[], object]:
    """A function that copies `size` bytes: it reads and writes so many."""
    source = torch.empty(size, dtype=torch.uint8, device=where).random_(0, 255)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


@benchmark
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--networks", type=click.IntRange(min=1), default=3, show_default=True)
def main(row, where, threads, out, batch: int, rounds: int, networks: int) -> None:
    at = setting(row, where, threads)
    device, generator, size = at.runtime.device, torch_generator("benchmark", "images"), at.plan.data.size
    x = torch.rand((batch, 3, size, size), generator=generator)
    noise, y = start_noise(x, 8 / 255, generator), torch.randint(0, 10, (batch,), generator=generator)
    images = [tensor.to(device) for tensor in (x.to(memory_format=MEMORY_FORMAT), y, noise)]
    rows, figures, copied = [], [], 2**28
    copy_once = copying(device, copied)
    for number in range(networks):
        model = at.network(number).train()
        recipe = at.plan.retrain.scratch.recipe.model_copy(update=PLAIN)
        make = sgd(recipe)
        eager = Runtime(device, at.runtime.autocast_dtype)
        counted = copy.deepcopy(model)
        once, optimiser = Stepper(ATTACK, recipe, eager), make(list(counted.parameters()))
        once(counted, optimiser, *images, 0.01)
        with Traffic() as traffic:
            once(counted, optimiser, *images, 0.01)
        stepper, optimiser = Stepper(ATTACK, recipe, at.runtime), make(list(model.parameters()))
        runs = {"step": lambda s=stepper, m=model, o=optimiser: s(m, o, *images, 0.01), "copy": copy_once}
        seconds = alternate(runs, rounds, device, 5)
        taken, speed = seconds["step"], 2 * copied / seconds["copy"]
        total = sum(traffic.bytes.values())
        shares = {kind: f"{count / 1e9:.2f} GB, {traffic.calls[kind]:,}" for kind, count in traffic.bytes.items()}
        rows.append([number, *shares.values(), 1e3 * total / speed, 1e3 * taken, taken / (total / speed)])
        figures.append(
            {"bytes": traffic.bytes, "operations": traffic.calls, "seconds": taken, "floor": total / speed,
             "bandwidth": speed}
        )  # fmt: skip
    columns = ["network", *(f"{kind}: bytes, number" for kind in shares), "floor, ms", "step, ms", "step / floor"]
    speed = statistics.mean(one["bandwidth"] for one in figures)
    title = f"TRADES-YOPO-5-3 at batch {batch}, {size}x{size}: bytes over {speed / 1e9:,.0f} GB/s of copy bandwidth"
    result = environment(device, threads, rounds) | {"bandwidth": speed, "networks": figures}
    report(title, columns, rows, result, out)


if __name__ == "__main__":
    main()
