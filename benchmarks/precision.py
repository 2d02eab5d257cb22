"""bfloat16 against float32: final accuracies of one subnet trained both ways, over several seeds.

    python -m benchmarks.precision [--row ROW] [--epochs 10] [--seeds 3]

Trains one architecture of the row's space from scratch by the row's own recipe and images, with
autocast to bfloat16 and without; with each seed (weights and all noise) once each way, in turns.
Clean and robust accuracy on validation images, in float32 both, under the row's validation attack.
The difference of the means is held against one standard deviation over seeds, the root of the mean
of both ways' variances.
"""

import statistics
import time

import torch

from benchmarks.harness import environment, first_images, report, setting, trained
from benchmarks.options import benchmark, click
from tamnas.evaluation.accuracy import accuracy, fast_copy, pgd_accuracy
from tamnas.pipeline.device import Runtime

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


@benchmark
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True)
@click.option(
    "--images", type=click.IntRange(min=1), default=5000, show_default=True, help="Validation images at most."
)
def main(row, where, threads, out, epochs: int, seeds: int, images: int) -> None:
    at = setting(row, where, threads)
    split, attack = first_images(at.split("validation"), images), at.plan.retrain.validation.attack
    measured: dict[str, dict[str, list[float]]] = {
        what: {precision: [] for precision in PRECISIONS} for what in ("clean", "robust", "seconds")
    }
    for seed in range(seeds):
        for precision, dtype in PRECISIONS.items():
            started = time.perf_counter()
            runtime = Runtime(at.runtime.device, dtype, at.runtime.graphs)
            model = fast_copy(trained(at, 0, epochs, seed=seed, runtime=runtime))
            measured["seconds"][precision].append(time.perf_counter() - started)
            measured["clean"][precision].append(accuracy(model, split))
            measured["robust"][precision].append(pgd_accuracy(model, split, attack, ("benchmark", seed)))
    rows, compared = [], {}
    for what in ("clean", "robust"):
        plain, short = (measured[what][precision] for precision in PRECISIONS)
        apart = statistics.mean(short) - statistics.mean(plain)
        deviation = statistics.mean([statistics.variance(plain), statistics.variance(short)]) ** 0.5
        compared[what] = {"difference": apart, "deviation": deviation, "within": abs(apart) <= deviation}
        verdict = "yes" if compared[what]["within"] else "no"
        rows.append([what, _spread(plain), _spread(short), f"{100 * apart:+.2f}", f"{100 * deviation:.2f}", verdict])
    title = (
        f"{at.plan.row}: one subnet after {epochs} epochs in float32 and in bfloat16, {seeds} seeds; "
        f"{len(split)} validation images, {attack.text}"
    )
    columns = ["accuracy, %", *PRECISIONS, "difference", "standard deviation", "within one"]
    report(
        title, columns, rows, environment(at.runtime.device, threads, seeds) | measured | {"compared": compared}, out
    )


def _spread(shares: list[float]) -> str:
    return f"{100 * statistics.mean(shares):.2f} +- {100 * statistics.stdev(shares):.2f}"


if __name__ == "__main__":
    main()
