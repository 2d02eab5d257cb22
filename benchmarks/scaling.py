"""How time grows: an epoch with images, batch and parameters; a search with population and generations.

    python -m benchmarks.scaling [--row ROW] [--images 320,640,1280] [--batches 16,32,64,128]

Each sweep changes one thing. The last column is the time per unit (image, individual) over that of
the sweep's first line: 1 all the way down is a straight line through zero. Sweeps run three times, in turns.
"""

import time
from collections.abc import Callable

import torch

from benchmarks.harness import Setting, alternate, environment, parameters, report, setting
from benchmarks.options import benchmark, click
from tamnas.data import Split
from tamnas.device import MEMORY_FORMAT
from tamnas.evaluation import accuracy, pgd_accuracy
from tamnas.network import Subnet
from tamnas.plan import Schedule
from tamnas.search import Fitness, search
from tamnas.seeding import torch_generator
from tamnas.space import Architecture
from tamnas.training import Single, train


def random_images(at: Setting, count: int) -> Split:
    """So many images of the row's size and classes; their content costs nothing."""
    generator, size = torch_generator("benchmark", count), at.plan.data.size
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, at.space.num_classes, (count,), generator=generator)
    return Split(images.to(at.runtime.device), labels.to(at.runtime.device), 255)


def epoch(at: Setting, ratio: float, images: int, batch: int) -> tuple[Callable[[], object], int]:
    """A function that trains one epoch, and the network's parameters; every layer at `ratio`."""
    scratch, space = at.plan.retrain.scratch, at.space
    arch = Architecture(at.architecture(0).blocks, (ratio,) * len(space.layers))
    model = Subnet(space, arch, torch_generator("benchmark")).to(at.runtime.device, memory_format=MEMORY_FORMAT)
    recipe = scratch.recipe.model_copy(
        update={"epochs": 1, "batch_size": batch, "schedule": Schedule(kind="milestones")}
    )
    trainee, split = Single(model, recipe), random_images(at, images)
    run = lambda: train(  # noqa: E731
        trainee, split, recipe=recipe, attack=scratch.attack, augment=at.plan.data.augment, key=("benchmark",),
        runtime=at.runtime,
    )  # fmt: skip
    return run, parameters(model)


def searched(at: Setting, population: int, generations: int) -> Callable[[], object]:
    """A function that searches with one small evaluation per individual, each done anew."""
    validation = at.split("validation")
    plan = at.plan.search.model_copy(
        update={"population": population, "offspring": population, "generations": generations, "stagnation": None,
                "tournament": min(at.plan.search.tournament, population)}
    )  # fmt: skip
    few = Split(validation.images[:64], validation.labels[:64], validation.levels)

    def evaluate(archs: list[Architecture]) -> list[Fitness]:
        found = []
        for arch in archs:
            model = Subnet(at.space, arch, torch_generator("benchmark")).to(at.runtime.device).eval()
            robust = pgd_accuracy(model, few, plan.attack, ("benchmark",))
            found.append(Fitness(accuracy(model, few), robust, at.space.parameters(arch)))
        return found

    return lambda: search(at.space, plan, evaluate, seed=0)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@benchmark
@click.option("--images", default="320,640,1280,2560", show_default=True)
@click.option("--batches", default="16,32,64,128", show_default=True)
@click.option("--populations", default="8,16,32", show_default=True)
@click.option("--generations", default="2,4,8", show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(row, where, threads, out, images, batches, populations, generations, rounds: int) -> None:
    at = setting(row, where, threads)
    ratios, batch, size = at.space.ratios, at.plan.retrain.scratch.recipe.batch_size, numbers(images)[1]
    middle = ratios[len(ratios) // 2]
    sweeps: dict[str, dict[str, tuple[Callable[[], object], float]]] = {}
    sweeps["epoch, images"] = {f"{n:,}": (epoch(at, middle, n, batch)[0], n) for n in numbers(images)}
    sweeps[f"epoch of {size:,} images, batch"] = {str(b): (epoch(at, middle, size, b)[0], 1) for b in numbers(batches)}
    sizes = [epoch(at, ratio, size, batch) for ratio in ratios[:: max(1, len(ratios) // 4)]]
    sweeps[f"epoch of {size:,} images, parameters"] = {f"{count:,}": (run, 1) for run, count in sizes}
    some = numbers(populations)
    sweeps["search of 2 generations, population"] = {str(p): (searched(at, p, 2), 3 * p) for p in some}
    sweeps[f"search with population {some[0]}, generations"] = {
        str(g): (searched(at, some[0], g), some[0] * (g + 1)) for g in numbers(generations)
    }
    epoch(at, middle, numbers(images)[0], batch)[0]()  # kernels and libraries set themselves up
    started, rows, figures = time.monotonic(), [], {}
    for name, sweep in sweeps.items():
        taken = alternate({value: run for value, (run, _) in sweep.items()}, rounds, at.runtime.device, warm_up=0)
        per_unit = {value: taken[value] / units for value, (_, units) in sweep.items()}
        first = next(iter(per_unit.values()))
        rows += [[name, value, taken[value], per_unit[value] / first] for value in sweep]
        figures[name] = {"seconds": taken, "per_unit_over_first": {v: per_unit[v] / first for v in sweep}}
    title = f"How time grows ({at.plan.row}, batch {batch}; measured in {time.monotonic() - started:.0f} s)"
    result = environment(at.runtime.device, threads) | {"sweeps": figures}
    report(title, ["what", "value", "seconds", "time per unit / first"], rows, result, out)


if __name__ == "__main__":
    main()
