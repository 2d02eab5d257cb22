"""What makes a small network robust: one change of its training at a time, on CIFAR-10 at 16x16.

    python -m benchmarks.recipe --cifar10 CIFAR10.npz --out FOLDER [--table]

One network, block 0 everywhere at ratio 1 in the geometry of params.yaml (133,911 parameters), is trained from
scratch on 20,000 images, 12 epochs at batch 128: first by the base recipe (TRADES, two attack steps, 1/lam = 6, weight
decay 5e-4), then with one thing changed. All start from the same weights and see the same batches. Base recipe and the
best two (by robust accuracy, then clean) are repeated with more seeds. Accuracies are of 5,000 validation images after
the last epoch, clean and under PGD-20 at 8/255; their standard error is 0.7 points.

Plan: an epoch takes 15 s on a fast core, 1.4 times that with five attack steps, 1.7 times with weight perturbation, and
1.9 times with strides 1, 2, 2, which therefore gets 6 epochs: 1 hour for all 13 recipes and 6 repeats, 3 on a slow
core. FOLDER gets one JSON file per training as it ends. What is there is not trained again, what was cut off goes on;
--table prints what there is.
"""

import statistics
from pathlib import Path

import click

from benchmarks.cifar import options, plans, prepared, trained
from benchmarks.harness import report
from tamnas.files import read_json
from tamnas.pipeline.command import help_of, one_line_errors
from tamnas.pipeline.store import locked
from tamnas.space.architecture import Architecture


def recipe(**changes) -> dict:
    return {"retrain": {"scratch": changes}}


def attack(m: int = 2, lam: float = 1 / 6) -> dict:
    return recipe(attack={"eps": "8/255", "yopo": {"m": m, "n": 1}, "lam": lam})


TRAIN, EPOCHS, SEEDS, BEST = 20_000, 12, 3, 2
BASE = attack()
BASE["retrain"]["scratch"] |= {"epochs": EPOCHS, "batch_size": 128, "lr": 0.2}
RECIPES = {
    "base": {},
    "lam-1": attack(lam=1.0),
    "m-1": attack(m=1),
    "m-5": attack(m=5),
    "m-1-lam-1": attack(m=1, lam=1.0),
    "m-5-lam-1": attack(m=5, lam=1.0),
    "weight-decay-5e-3": recipe(weight_decay=5e-3),
    "ema": recipe(ema=0.995),
    "awp": recipe(awp=0.005),
    "label-smoothing": recipe(label_smoothing=0.1),
    "silu": {"network": {"activation": "silu"}},
    "pgd-at": recipe(attack={"eps": "8/255", "yopo": {"m": 2, "n": 1}, "loss": "pgd_at", "lam": None}),
    "strides-1-2-2": {"network": {"strides": [1, 2, 2]}} | recipe(epochs=6),
}


def file_name(name: str, seed: int) -> str:
    return f"{name}-seed-{seed}"


@click.command(help=help_of(__doc__))
@options
@one_line_errors
def main(cifar10: Path, out: Path, table: bool) -> None:
    if not table:
        with locked("recipe", "all", out):
            train_all(cifar10, out)
    print_table(out)


def train_all(cifar10: Path, out: Path) -> None:
    rows = plans(cifar10, BASE, RECIPES, TRAIN)
    data = prepared(cifar10, rows["base"])
    depth = sum(rows["base"].network.repeats)
    arch = Architecture((0,) * depth, (1.0,) * depth)

    def train(name: str, seed: int) -> dict:
        return trained(rows[name], arch, file_name(name, seed), seed, data, out)

    results = {name: train(name, 0) for name in RECIPES}
    best = sorted(results, key=lambda name: (results[name]["robust"], results[name]["clean"]), reverse=True)[:BEST]
    for seed in range(1, SEEDS):
        for name in dict.fromkeys((*best, "base")):
            train(name, seed)


def print_table(out: Path) -> None:
    rows, results = [], []
    for name in RECIPES:
        paths = [out / f"{file_name(name, seed)}.json" for seed in range(SEEDS)]
        trainings = [read_json(path) for path in paths if path.exists()]
        if trainings:
            epochs = trainings[0]["training"]["recipe"]["epochs"]
            seconds = [training["cpu_seconds"] / epochs for training in trainings if training.get("cpu_seconds")]
            accuracies = [percent([training[what] for training in trainings]) for what in ("clean", "robust")]
            rows.append([name, len(trainings), *accuracies, epochs, min(seconds, default="")])
            results += trainings
    columns = ["recipe", "seeds", "clean, %", "PGD-20 at 8/255, %", "epochs", "CPU seconds / epochs"]
    title = f"CIFAR-10 at 16x16, one network, {TRAIN:,} training and 5,000 validation images"
    report(title, columns, rows, {"trainings": results}, out / "table.json")


def percent(shares: list[float]) -> str:
    spread = f" +- {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{spread}"


if __name__ == "__main__":
    main()
