"""What else could make a training step faster on CPU: threads, memory layout, bfloat16, torch.compile.

    python -m benchmarks.cpu_levers [--row ROW] [--batch 64] [--rounds 10]

The row's own training step, as it runs and with one thing changed at a time, in turns in one
process. `torch.compile` compiles both the network and its twin; its first call, which compiles,
is given apart.
"""

import copy

import torch

from benchmarks.harness import alternate, environment, report, seconds, setting
from benchmarks.options import benchmark, click
from tamnas.attacks.yopo import start_noise
from tamnas.pipeline.device import Runtime
from tamnas.seeding import torch_generator
from tamnas.training.loop import sgd
from tamnas.training.step import Stepper


@benchmark
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--compile/--no-compile", "compiling", default=True, help="Without: leave torch.compile out.")
def main(row, where, threads, out, batch: int, rounds: int, compiling: bool) -> None:
    at = setting(row, where, threads)
    scratch, generator, size = at.plan.retrain.scratch, torch_generator("benchmark", "images"), at.plan.data.size
    x = torch.rand((batch, 3, size, size), generator=generator).to(memory_format=torch.channels_last)
    y = torch.randint(0, at.space.num_classes, (batch,), generator=generator)
    noise, template = start_noise(x, float(scratch.attack.eps), generator), at.network(0)

    def step(runtime=at.runtime, memory_format=torch.channels_last, count=threads, compiled=False):
        model = copy.deepcopy(template).to(memory_format=memory_format).train()
        optimiser = sgd(scratch.recipe)(list(model.parameters()))
        stepper = Stepper(scratch.attack, scratch.recipe, runtime)
        if compiled:
            model.compile()  # in place: a twin copies the compiled call
        images = x.to(memory_format=memory_format)

        def run() -> None:
            torch.set_num_threads(count)
            stepper(model, optimiser, images, y, noise, 0.01)
            torch.set_num_threads(threads)

        return run

    runs = {
        "as it is": step(),
        "two threads" if threads == 1 else "one thread": step(count=2 if threads == 1 else 1),
        "contiguous memory": step(memory_format=torch.contiguous_format),
        "bfloat16 autocast": step(Runtime(at.runtime.device, torch.bfloat16)),
    }
    first = {}
    if compiling:
        runs["torch.compile"] = step(compiled=True)
        first["first compiled step"] = seconds(runs["torch.compile"], at.runtime.device)
    taken = alternate(runs, rounds, at.runtime.device, 2)
    rows = [[name, 1e3 * value, taken["as it is"] / value] for name, value in taken.items()]
    rows += [[name, 1e3 * value, taken["as it is"] / value] for name, value in first.items()]
    attack = scratch.attack
    title = f"{at.plan.row}: TRADES-YOPO-{attack.m}-{attack.n} step at batch {batch}, one lever at a time"
    figures = environment(at.runtime.device, threads, rounds) | {"seconds": taken | first}
    report(title, ["lever", "ms", "speed / as it is"], rows, figures, out)


if __name__ == "__main__":
    main()
