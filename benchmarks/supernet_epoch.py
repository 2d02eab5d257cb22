"""Time of a supernet epoch as the library trains it: sampled paths, their change and capture included.

    python -m benchmarks.supernet_epoch [--row ROW] [--geometry paper] [--images 50000] [--batch 512] [--rounds 3]

The library's own training loop over noise images of CIFAR-10's size, TRADES-YOPO-5-3, a new path in
every other epoch: epochs that begin with a new path (weights fetched and brought home, the twin
built and, on CUDA, the step captured as a graph) and epochs that go on with it take turns. The
paper keeps a path for 20 epochs: the mean over such a stretch is what 1,000 epochs are reckoned by.
"""

import itertools
import statistics
import time

from benchmarks.harness import ATTACK, Setting, environment, random_images, report, setting
from benchmarks.options import GEOMETRY, ROUNDS, benchmark, click
from tamnas.config.sections import RecipePlan, ResampleParams, SchedulePlan
from tamnas.data.loader import Split, steps_per_epoch
from tamnas.networks.supernet import Supernet
from tamnas.pipeline.progress import Progress
from tamnas.seeding import torch_generator
from tamnas.space.space import SearchSpace
from tamnas.training.loop import train
from tamnas.training.phases import SampledPaths

PATH_EPOCHS = 20  # the paper's: a new architecture every 20 epochs
EPOCHS = 1000


class Clock(Progress):
    """Notes when each epoch ended. The loop tells after it has read the device: nothing is left running."""

    def __init__(self):
        super().__init__("supernet epoch", 0, show=False)
        self.ends: list[float] = []

    def skip(self, done: int) -> None:
        self.ends = [time.perf_counter()]

    def step(self, **figures) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [end - start for start, end in itertools.pairwise(self.ends)]


def sampled_paths(
    at: Setting, space: SearchSpace, split: Split, batch: int, epochs: int, every: ResampleParams
) -> tuple[SampledPaths, RecipePlan]:
    """A fresh supernet's paths of the block phase, and the recipe to train them by."""
    block = at.plan.supernet.block
    # At a low rate: on noise a high one may diverge, and the time is the same.
    changed = {"epochs": epochs, "batch_size": batch, "lr": 0.01, "schedule": SchedulePlan(kind="milestones")}
    recipe = block.recipe.model_copy(update=changed)
    phase = block.model_copy(update={"recipe": recipe})
    supernet_plan = at.plan.supernet.model_copy(update={"block": phase, "resample_every": every})
    plan = at.plan.model_copy(update={"supernet": supernet_plan})
    supernet = Supernet(space, torch_generator("benchmark", "supernet")).to(at.runtime.device)
    return SampledPaths(supernet, plan, "block", steps_per_epoch(split, batch), ("benchmark",)), recipe


@benchmark
@GEOMETRY
@click.option("--images", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@ROUNDS
def main(row, where, threads, out, geometry: str, images: int, batch: int, rounds: int) -> None:
    at = setting(row, where, threads)
    space, size = at.geometry(geometry)
    split = random_images(images, size, space.num_classes, at.runtime.device)
    paths, recipe = sampled_paths(at, space, split, batch, 2 * (1 + rounds), ResampleParams(epochs=2))
    clock = Clock()
    train(
        paths, split, recipe=recipe, attack=ATTACK, augment=at.plan.data.augment, key=("benchmark", "supernet"),
        runtime=at.runtime, progress=clock,
    )  # fmt: skip
    new, same = (statistics.median(clock.seconds[2 + first :: 2]) for first in (0, 1))  # the first two warm up
    mean = same + (new - same) / PATH_EPOCHS
    seconds = {"begins with a new path": new, "goes on with its path": same, f"mean of {PATH_EPOCHS} on a path": mean}
    rows = [[name, value, images / value, EPOCHS * value / 60] for name, value in seconds.items()]
    title = f"Supernet epoch, {geometry} geometry at {size}x{size}: {images:,} images, batch {batch}, TRADES-YOPO-5-3"
    result = environment(at.runtime.device, threads, rounds) | {
        "seconds": seconds, "epoch_seconds": mean, "images": images, "batch": batch, "geometry": geometry,
    }  # fmt: skip
    report(title, ["epoch", "seconds", "images / s", f"{EPOCHS:,} such epochs, minutes"], rows, result, out)


if __name__ == "__main__":
    main()
