"""Subnets evaluated per second: ours against extract, recalibrate and attack written out naively.

    python -m benchmarks.search [--row ROW] [--subnets 12] [--workers 1,2] [--rounds 3]

Trains a supernet for a few epochs first (robust enough that an attack has something to do), then
evaluates the same subnets in turns: naively, one after the other in this process, every image
through every PGD step; and as the search does it, in this process and in each number of worker
processes. The accuracies of both are compared.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional as F

from benchmarks.harness import Setting, alternate, environment, report, setting
from benchmarks.options import ROUNDS, Numbers, benchmark, click
from benchmarks.workers import Workers
from tamnas.data.loader import batches, chunks, steps_per_epoch
from tamnas.networks.supernet import Supernet
from tamnas.pipeline import checkpoint
from tamnas.search.fitness import SearchContext, evaluate_subnet, load_context
from tamnas.seeding import torch_generator
from tamnas.space.architecture import Architecture
from tamnas.training.loop import train
from tamnas.training.phases import SampledPaths


def trained_supernet(at: Setting, epochs: int, path: Path) -> None:
    """A supernet after so many epochs of the block phase, written to `path`."""
    phase, train_split = at.plan.supernet.block, at.split("train")
    recipe = phase.recipe.model_copy(update={"epochs": epochs})
    supernet = Supernet(at.space, torch_generator("benchmark", "supernet")).to(at.runtime.device)
    paths = SampledPaths(supernet, at.plan, "block", steps_per_epoch(train_split, recipe.batch_size), ("benchmark",))
    train(
        paths, train_split, recipe=recipe, attack=at.plan.supernet.attack, augment=at.plan.data.augment,
        key=("benchmark", "supernet"), runtime=at.runtime,
    )  # fmt: skip
    checkpoint.write_weights(path, paths.tensors(), {})


def naive(spec: dict, context: SearchContext) -> tuple[float, float]:
    """What a reader of the paper would write: no folding, no early end, no sharing."""
    plan, split, attack = context.plan, context.validation, context.plan.search.attack
    model = context.supernet.extract(Architecture.from_plain(spec))
    generator = torch_generator(plan.seed, "search", plan.row, "recalibration", device=split.images.device)
    size = min(plan.supernet.joint.recipe.batch_size, plan.search.bn_calibration_images)
    calibration = batches(context.train, size, plan.data.augment, generator)
    torch.optim.swa_utils.update_bn(
        (x for x, _ in islice(calibration, plan.search.bn_calibration_images // size)), model
    )
    model.eval()
    eps, step = float(attack.eps), float(attack.step_size)
    clean = robust = 0
    for x, y in chunks(split, 512):
        clean += int((model(x).argmax(1) == y).sum())
        moved = (x + (2 * torch.rand_like(x) - 1) * eps).clamp(0, 1)
        standing = model(moved).argmax(1) == y
        for _ in range(attack.steps):
            moved = moved.detach().requires_grad_(True)
            F.cross_entropy(model(moved), y).backward()
            moved = (x + (moved + step * moved.grad.sign() - x).clamp(-eps, eps)).clamp(0, 1)
            standing &= model(moved).argmax(1) == y
        robust += int(standing.sum())
    return clean / len(split), robust / len(split)


@benchmark
@click.option("--subnets", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--workers", type=Numbers(), default="1,2", show_default=True, help="Numbers of worker processes to try.")
@click.option(
    "--epochs", type=click.IntRange(min=1), default=8, show_default=True, help="Epochs that the supernet trains for."
)
@ROUNDS
def main(row, where, threads, out, subnets: int, workers: list[int], epochs: int, rounds: int) -> None:
    at = setting(row, where, threads)
    specs = [at.architecture(number).plain() for number in range(subnets)]
    answers: dict[str, list] = {}
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "supernet.safetensors"
        trained_supernet(at, epochs, weights)
        load = partial(load_context, at.plan, weights, at.data)
        context = load(at.compute)
        with Workers(partial(load, at.compute), at.compute, max(workers)) as pool:
            ways: dict[str, Callable[[], list]] = {
                "naive, one by one": lambda: [naive(spec, context) for spec in specs],
                "ours, in this process": lambda: [evaluate_subnet(spec, context) for spec in specs],
            }
            for count in workers:
                if count > 1:
                    ways[f"ours, {count} processes"] = partial(pool.run, evaluate_subnet, specs, count)
            runs = {name: lambda name=name, way=way: answers.update({name: way()}) for name, way in ways.items()}
            evaluate_subnet(specs[0], context)  # warms up, here and in the workers
            pool.run(evaluate_subnet, specs[:1] * max(workers), max(workers))
            taken = alternate(runs, rounds, at.runtime.device, warm_up=0)
    base, mine = answers["naive, one by one"], answers["ours, in this process"]
    clean, robust = (max(abs(theirs[i] - ours[i]) for theirs, ours in zip(base, mine, strict=True)) for i in (0, 1))
    naively = taken["naive, one by one"]
    rows = [[name, subnets / value, naively / value] for name, value in taken.items()]
    images = len(context.validation)
    title = f"{subnets} subnets on {images} validation images, {at.plan.search.attack.text}"
    result = environment(at.runtime.device, threads, rounds) | {
        "seconds": taken, "subnets": subnets, "images": images, "attack": at.plan.search.attack.text,
        "clean_differs_by_at_most": clean, "robust_differs_by_at_most": robust,
    }  # fmt: skip
    report(title, ["evaluation", "subnets / s", "rate / naive"], rows, result, out)
    print(f"points apart at most: clean {100 * clean:.2f} (rounding), robust {100 * robust:.2f} (start noise)")


if __name__ == "__main__":
    main()
