"""How time grows: an epoch with images, batch and parameters; a search with population and generations.

    python -m benchmarks.scaling [--row ROW] [--images 320,640,1280] [--batches 16,32,64,128] [--rounds 3]

Each sweep changes one thing; its values take turns. The last column is the time per unit (image,
parameter, individual) over that of the sweep's first line: 1 all the way down is a straight line
through zero. Parameters grow with the row's geometry: stem, channels and head times each of
`--scales`, so about with the square, and depth and number of operations stay as they are. Images
are noise, but for the search's.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks.harness import (
    Setting,
    alternate,
    environment,
    first_images,
    parameters,
    random_images,
    report,
    setting,
)
from benchmarks.options import ROUNDS, Numbers, benchmark, click
from tamnas.config.sections import SchedulePlan
from tamnas.evaluation.accuracy import accuracy, pgd_accuracy
from tamnas.networks.subnet import Subnet
from tamnas.pipeline.device import MEMORY_FORMAT
from tamnas.search.fitness import Fitness
from tamnas.search.nsga2 import search
from tamnas.seeding import torch_generator
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace
from tamnas.training.loop import Single, train


def epoch(at: Setting, images: int, batch: int, scale: float = 1) -> tuple[Callable[[], object], int]:
    """A function that trains one epoch of one network, and the network's parameters."""
    scratch, space = at.plan.retrain.scratch, scaled(at.space, scale)
    model = Subnet(space, at.architecture(0), torch_generator("benchmark"))
    model.to(at.runtime.device, memory_format=MEMORY_FORMAT)
    recipe = scratch.recipe.model_copy(
        update={"epochs": 1, "batch_size": batch, "schedule": SchedulePlan(kind="milestones")}
    )
    trainee = Single(model, recipe)
    split = random_images(images, at.plan.data.size, space.num_classes, at.runtime.device)
    run = lambda: train(  # noqa: E731
        trainee, split, recipe=recipe, attack=scratch.attack, augment=at.plan.data.augment, key=("benchmark",),
        runtime=at.runtime,
    )  # fmt: skip
    return run, parameters(model)


def scaled(space: SearchSpace, scale: float) -> SearchSpace:
    """The same layers and blocks with all channels times `scale`, rounded to even numbers."""

    def times(channels: int) -> int:
        return 2 * round(channels * scale / 2)

    return replace(
        space,
        stem_channels=times(space.stem_channels),
        channels=tuple(times(channels) for channels in space.channels),
        head=tuple(times(channels) for channels in space.head),
    )


def searched(at: Setting, population: int, generations: int) -> Callable[[], object]:
    """A function that searches with one small evaluation per individual, each done anew."""
    few = first_images(at.split("validation"), 64)
    plan = at.plan.search.model_copy(
        update={"population": population, "offspring": population, "generations": generations, "stagnation": None,
                "tournament": min(at.plan.search.tournament, population)}
    )  # fmt: skip

    def evaluate(archs: list[Architecture]) -> list[Fitness]:
        found = []
        for arch in archs:
            model = Subnet(at.space, arch, torch_generator("benchmark")).to(at.runtime.device).eval()
            robust = pgd_accuracy(model, few, plan.attack, ("benchmark",))
            found.append(Fitness(accuracy(model, few), robust, at.space.parameters(arch)))
        return found

    return lambda: search(at.space, plan, evaluate, seed=0)


# Of each sweep: its value's text -> (what to time, how many units that is).
Sweep = dict[str, tuple[Callable[[], object], float]]


def sweeps(at: Setting, batch: int, base: int, images, batches, scales, populations, generations) -> dict[str, Sweep]:
    """The five sweeps by name; `base` images where images are not what is swept."""
    sized = [epoch(at, base, batch, scale) for scale in scales]
    few = populations[0]
    return {
        "epoch, images": {f"{n:,}": (epoch(at, n, batch)[0], n) for n in images},
        f"epoch of {base:,} images, batch": {str(b): (epoch(at, base, b)[0], 1) for b in batches},
        f"epoch of {base:,} images, parameters": {f"{count:,}": (run, count) for run, count in sized},
        "search of 2 generations, population": {str(p): (searched(at, p, 2), 3 * p) for p in populations},
        f"search with population {few}, generations": {
            str(g): (searched(at, few, g), few * (g + 1)) for g in generations
        },
    }


@benchmark
@click.option("--images", type=Numbers(), default="320,640,1280,2560", show_default=True)
@click.option(
    "--base", type=click.IntRange(min=1), default=640, show_default=True, help="Images where they are not swept."
)
@click.option("--batches", type=Numbers(), default="16,32,64,128", show_default=True)
@click.option("--scales", type=Numbers(float, 0.5), default="0.5,1,1.5,2", show_default=True)
@click.option("--populations", type=Numbers(least=2), default="8,16,32", show_default=True)
@click.option("--generations", type=Numbers(), default="2,4,8", show_default=True)
@ROUNDS
def main(row, where, threads, out, base: int, rounds: int, **swept) -> None:
    at = setting(row, where, threads)
    batch = at.plan.retrain.scratch.recipe.batch_size
    epoch(at, base, batch)[0]()  # kernels and libraries set themselves up
    started, rows, figures = time.monotonic(), [], {}
    for name, sweep in sweeps(at, batch, base, **swept).items():
        taken = alternate({value: run for value, (run, _) in sweep.items()}, rounds, at.runtime.device, warm_up=0)
        per_unit = {value: taken[value] / units for value, (_, units) in sweep.items()}
        first = next(iter(per_unit.values()))
        rows += [[name, value, taken[value], per_unit[value] / first] for value in sweep]
        figures[name] = {"seconds": taken, "per_unit_over_first": {v: per_unit[v] / first for v in sweep}}
    title = f"How time grows ({at.plan.row}, batch {batch}; measured in {time.monotonic() - started:.0f} s)"
    result = environment(at.runtime.device, threads, rounds) | {"sweeps": figures}
    report(title, ["what", "value", "seconds", "time per unit / first"], rows, result, out)


if __name__ == "__main__":
    main()
