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
from tamnas.data.loader import batches, chunks
from tamnas.networks.trained import supernet_tensors
from tamnas.pipeline import checkpoint
from tamnas.search.fitness import SearchContext, evaluate_subnet, load_context
from tamnas.seeding import torch_generator
from tamnas.space.architecture import Architecture
from tamnas.training.loop import Resume
from tamnas.training.phases import train_phase


def trained_supernet(at: Setting, epochs: int, path: Path) -> None:
    """A supernet after so many epochs of the block phase, written to `path`."""
    plan = at.stage("supernet_block")
    plan = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"epochs": epochs})})
    supernet, _ = train_phase(
        plan, "benchmark", at.split("train"), None, at.runtime, Resume(path.with_suffix(".state"))
    )
    checkpoint.write_weights(path, supernet_tensors(supernet), {})


def naive(arch: Architecture, context: SearchContext) -> dict[str, float]:
    """What a reader of the paper would write: no folding, no early end, no sharing."""
    plan, split, attack = context.plan, context.validation, context.plan.search.attack
    model = context.supernet.extract(arch)
    generator = torch_generator(plan.seed, "search", plan.name, "recalibration", device=split.images.device)
    size = min(plan.batch_size, plan.search.bn_calibration_images)
    calibration = batches(context.train, size, plan.augment, generator)
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
    return {"clean": clean / len(split), "robust": robust / len(split)}


@benchmark
@click.option("--subnets", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--workers", type=Numbers(), default="1,2", show_default=True, help="Numbers of worker processes to try.")
@click.option(
    "--epochs", type=click.IntRange(min=1), default=8, show_default=True, help="Epochs that the supernet trains for."
)
@ROUNDS
def main(row, where, threads, out, subnets: int, workers: list[int], epochs: int, rounds: int) -> None:
    at = setting(row, where, threads)
    archs = [at.architecture(number) for number in range(subnets)]
    answers: dict[str, list] = {}
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "supernet.safetensors"
        trained_supernet(at, epochs, weights)
        load = partial(load_context, at.stage("search"), weights, at.data)
        context = load(at.compute)
        with Workers(partial(load, at.compute), at.compute, max(workers)) as pool:
            ways: dict[str, Callable[[], list]] = {
                "naive, one by one": lambda: [naive(arch, context) for arch in archs],
                "ours, in this process": lambda: [evaluate_subnet(arch, context) for arch in archs],
            }
            for count in workers:
                if count > 1:
                    ways[f"ours, {count} processes"] = partial(pool.run, evaluate_subnet, archs, count)
            runs = {name: lambda name=name, way=way: answers.update({name: way()}) for name, way in ways.items()}
            evaluate_subnet(archs[0], context)  # warms up, here and in the workers
            pool.run(evaluate_subnet, archs[:1] * max(workers), max(workers))
            taken = alternate(runs, rounds, at.runtime.device, warm_up=0)
    base, mine = answers["naive, one by one"], answers["ours, in this process"]
    clean, robust = (
        max(abs(theirs[what] - ours[what]) for theirs, ours in zip(base, mine, strict=True))
        for what in ("clean", "robust")
    )
    naively = taken["naive, one by one"]
    rows = [[name, subnets / value, naively / value] for name, value in taken.items()]
    images = len(context.validation)
    title = f"{subnets} subnets on {images} validation images, {at.plan.search.attack.text}"
    result = environment(at.runtime.device, threads, rounds) | {
        "seconds": taken,
        "subnets": subnets,
        "images": images,
        "attack": at.plan.search.attack.text,
        "clean_differs_by_at_most": clean,
        "robust_differs_by_at_most": robust,
    }
    report(title, ["evaluation", "subnets / s", "rate / naive"], rows, result, out)
    print(f"points apart at most: clean {100 * clean:.2f} (rounding), robust {100 * robust:.2f} (start noise)")


if __name__ == "__main__":
    main()
