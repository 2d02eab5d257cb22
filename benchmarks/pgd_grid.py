"""The PGD grid of one trained network: ours against torchattacks' PGD, cell by cell.

    pip install --no-deps torchattacks==3.5.1     # outside the lock: it pins old packages
    python -m benchmarks.pgd_grid [--row ROW] [--images 1000] [--epochs 5]

Trains one subnet of the row's space, then attacks it with three step counts x four eps on
validation images, or training images where there are too few (never test images). Theirs attacks
every image for every cell; ours passes through the shorter runs' states, attacks with all eps in
the same passes and leaves fallen images alone. Both run in this process; so does every cell of
ours computed alone, whose answer must be the same.
"""

import torch

from benchmarks.harness import environment, report, seconds, setting, some_images, trained
from benchmarks.options import benchmark, click
from tamnas.attacks import Attempt
from tamnas.data import Split
from tamnas.evaluation import robust_accuracies
from tamnas.seeding import torch_generator

STEPS = (10, 30, 50)
EPS = (2, 4, 6, 8)
ROUNDING = 0.002  # share of images on which passes of different sizes may differ


def theirs(model: torch.nn.Module, split: Split, eps: float, steps: int) -> float:
    import torchattacks

    torch.manual_seed(0)
    attack = torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=steps, random_start=True)
    correct = 0
    for start in range(0, len(split), 512):
        x, y = split.scaled(split.images[start : start + 512]), split.labels[start : start + 512]
        correct += int((model(attack(x, y)).argmax(1) == y).sum())
    return correct / len(split)


@benchmark
@click.option("--images", default=1000, show_default=True)
@click.option("--epochs", default=5, show_default=True, help="Epochs that the network is trained for.")
@click.option("--rounds", default=1, show_default=True)
def main(row, where, threads, out, images: int, epochs: int, rounds: int) -> None:
    at = setting(row, where, threads)
    device = at.runtime.device
    model = trained(at, 0, epochs)
    split, name = some_images(at, images)
    found: dict[str, dict] = {"ours": {}, "alone": {}, "torchattacks": {}}
    taken = dict.fromkeys(found, 0.0)

    def ours(radii: tuple[int, ...], steps: tuple[int, ...], key: str) -> None:
        attempts = [
            Attempt(eps / 255, eps / 255 / 4, steps, generator=torch_generator("benchmark", eps, device=device))
            for eps in radii
        ]
        for eps, shares in zip(radii, robust_accuracies(model, split, attempts), strict=True):
            found[key] |= {(eps, count): share for count, share in zip(steps, shares, strict=True)}

    def other(eps: int, steps: int) -> None:
        found["torchattacks"][eps, steps] = theirs(model, split, eps / 255, steps)

    other(EPS[0], 1)  # imports and warms up
    del found["torchattacks"][EPS[0], 1]
    for _ in range(rounds):
        taken["ours"] += seconds(lambda: ours(EPS, STEPS, "ours"), device)
        for eps in EPS:
            for steps in STEPS:
                taken["torchattacks"] += seconds(lambda eps=eps, steps=steps: other(eps, steps), device)
                taken["alone"] += seconds(lambda eps=eps, steps=steps: ours((eps,), (steps,), "alone"), device)
    apart = max(abs(found["ours"][cell] - found["alone"][cell]) for cell in found["ours"])
    if apart > ROUNDING:
        raise SystemExit(f"a cell of the shared run is {100 * apart:.2f} points from the same cell computed alone")
    rows = [
        [eps, steps, 100 * share, 100 * found["torchattacks"][eps, steps]]
        for (eps, steps), share in found["ours"].items()
    ]
    rows.append(["time / ours", "", 1.0, taken["torchattacks"] / taken["ours"]])
    higher = max(found["ours"][cell] - found["torchattacks"][cell] for cell in found["ours"])
    title = f"PGD grid, {len(split)} {name} images; cells computed alone: {100 * apart:.2g} points apart at most"
    result = environment(device, threads) | {
        "ratio": taken["torchattacks"] / taken["ours"], "ratio_alone": taken["torchattacks"] / taken["alone"],
        "seconds": taken, "robust_accuracy_higher_by_at_most": higher,
    }  # fmt: skip
    report(title, ["eps x 255", "steps", "ours, %", "torchattacks, %"], rows, result, out)
    print(f"each cell alone, without the shared run: {result['ratio_alone']:.2f}x")
    print(f"our robust accuracy minus theirs: {100 * higher:+.2f} points at most")


if __name__ == "__main__":
    main()
