"""The PGD grid of one trained network: ours against torchattacks' PGD, cell by cell.

    pip install --no-deps torchattacks==3.5.1     # outside the lock: it pins old packages
    python benchmarks/pgd_grid.py WEIGHTS ROW [--images 1000]

WEIGHTS is a file of runs/ROW/retrain_scratch, ROW names its plan. Three step counts x the plan's
eps on validation images (a benchmark reads no test image). Theirs attacks every image for every
cell; ours passes through the shorter runs' states and leaves fallen images alone. Both run in
this process, in alternation per eps. Prints a table, writes JSON with --out.
"""

import json
import time
from pathlib import Path

import click
import torch

from tamnas import SearchSpace, device
from tamnas.data import Split, load_split
from tamnas.evaluation import robust_accuracies
from tamnas.plan import load_row
from tamnas.retraining import load_network
from tamnas.seeding import torch_generator
from tamnas.stage import prepared

STEPS = (10, 30, 50)


def theirs(model: torch.nn.Module, split: Split, eps: float, steps: int) -> float:
    import torchattacks

    torch.manual_seed(0)
    attack = torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=steps, random_start=True)
    correct = 0
    for start in range(0, len(split), 512):
        x, y = split.scaled(split.images[start : start + 512]), split.labels[start : start + 512]
        correct += int((model(attack(x, y)).argmax(1) == y).sum())
    return correct / len(split)


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("weights", type=click.Path(exists=True, path_type=Path))
@click.argument("row")
@click.option("--images", default=1000, show_default=True)
@click.option("--device", "where", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(weights: Path, row: str, images: int, where: str, out: Path | None) -> None:
    plan = load_row(row)
    runtime = device.start(plan.numerics, where)
    model, _ = load_network(SearchSpace.from_params(plan), weights, "best", runtime)
    split = load_split(prepared(plan.dataset), "validation", runtime.device)
    split = Split(split.images[:images], split.labels[:images], split.levels)
    rows, seconds = [], {"ours": 0.0, "torchattacks": 0.0}
    for eps in map(float, plan.eval.eps):
        started = time.perf_counter()
        generator = torch_generator("benchmark", eps, device=runtime.device)
        ours = robust_accuracies(model, split, steps=STEPS, eps=eps, step_size=eps / 4, generator=generator)
        middle = time.perf_counter()
        other = [theirs(model, split, eps, steps) for steps in STEPS]
        seconds["ours"] += middle - started
        seconds["torchattacks"] += time.perf_counter() - middle
        rows += [
            {"eps": round(eps * 255), "steps": steps, "ours": 100 * a, "torchattacks": 100 * b}
            for steps, a, b in zip(STEPS, ours, other, strict=True)
        ]
    ratio = seconds["torchattacks"] / seconds["ours"]
    print(f"{weights.name} of {row}, {len(split)} validation images, {runtime.device}")
    print(" eps steps   ours  torchattacks")
    for cell in rows:
        print(f"{cell['eps']:4} {cell['steps']:5} {cell['ours']:6.2f} {cell['torchattacks']:13.2f}")
    print(f"torchattacks took {ratio:.2f}x our time ({seconds['ours']:.1f} s)")
    if out:
        out.write_text(json.dumps({"ratio": ratio, "seconds": seconds, "cells": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
