"""What a newly drawn path of the supernet costs before it trains at full speed; on CUDA, its capture.

    python -m benchmarks.new_path [--row ROW] [--geometry paper] [--batch 512] [--paths 5]

Trains drawn architectures for a few steps each, as the training loop does, and times every step by
itself. A path's first steps run as they are (the first also brings the last path home, fetches this
one and builds its twin), the next is captured as a CUDA graph and replayed, all later ones replay
it; what the early steps take more than the later ones is the price of a new path. On CPU nothing is
captured. The paper's schedule draws 50 paths.
"""

import statistics

import torch

from benchmarks.harness import ATTACK, environment, parameters, random_images, report, seconds, setting
from benchmarks.options import GEOMETRY, benchmark, click
from benchmarks.supernet_epoch import sampled_paths
from tamnas.attacks.yopo import start_noise
from tamnas.config.sections import ResampleParams
from tamnas.data.loader import batches
from tamnas.pipeline.device import MEMORY_FORMAT
from tamnas.seeding import torch_generator
from tamnas.training.graphs import Captured
from tamnas.training.step import Stepper

LATER = 5  # steps at full speed, whose median is the measure
STEPS = Captured.WARM_UP + 1 + LATER


@benchmark
@GEOMETRY
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--paths", type=click.IntRange(min=1), default=5, show_default=True, help="Paths to measure, after one to warm up."
)
def main(row, where, threads, out, geometry: str, batch: int, paths: int) -> None:
    at = setting(row, where, threads)
    device, (space, size) = at.runtime.device, at.geometry(geometry)
    split = random_images(batch, size, space.num_classes, device)
    trainee, recipe = sampled_paths(at, space, split, batch, 1, ResampleParams(steps=STEPS))
    stepper, generator = Stepper(ATTACK, recipe, at.runtime), torch_generator("benchmark", device=device)
    x, y = next(batches(split, batch, at.plan.data.augment, generator))
    x = x.to(memory_format=MEMORY_FORMAT)
    noise = start_noise(x, float(ATTACK.eps), generator)

    def step(number: int) -> torch.Tensor:
        return stepper(*trainee.at(0, number), x, y, noise, recipe.lr)

    rows, captures, prices = [], [], []
    for path in range(1 + paths):
        taken = [
            seconds(lambda number=number: step(number), device) for number in range(path * STEPS, (path + 1) * STEPS)
        ]
        if path == 0:
            continue
        later = statistics.median(taken[-LATER:])
        prices.append(sum(taken[:-LATER]) - (STEPS - LATER) * later)
        captures += [taken[Captured.WARM_UP] - later] if at.runtime.graphs else []
        capture = captures[-1] if captures else "nothing captured"
        rows.append([path, parameters(trainee.network), taken[0], capture, prices[-1], later])
    title = f"A new path of the supernet, {geometry} geometry at {size}x{size}, batch {batch}, TRADES-YOPO-5-3"
    columns = ["path", "parameters", "first step, s", "capture, s", "new path in all, s", "later step, s"]
    result = environment(device, threads, paths) | {
        "capture_seconds": captures, "new_path_seconds": prices, "geometry": geometry, "batch": batch,
    }  # fmt: skip
    report(title, columns, rows, result, out)


if __name__ == "__main__":
    main()
