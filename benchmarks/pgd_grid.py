"""The PGD grid of one trained network: ours against torchattacks' PGD, cell by cell.

    pip install --no-deps torchattacks==3.5.1     # outside the lock: it pins old packages
    python -m benchmarks.pgd_grid [--row ROW] [--images 1000] [--epochs 5]

Trains one subnet of the row's space, then attacks it with three step counts x four eps on
validation images, or training images where there are too few (never test images). Theirs attacks
every image for every cell; ours passes through the shorter runs' states, attacks with all eps in
the same passes and leaves fallen images alone. The whole grid by either runs in turns in this
process; so does every cell of ours computed alone, whose answer must be the same.
"""

import torch

from benchmarks.harness import Setting, alternate, environment, own_clock, report, setting, some_images, trained
from benchmarks.options import ROUNDS, Numbers, benchmark, click
from tamnas.attacks.survival import Attempt
from tamnas.data.loader import Split
from tamnas.errors import InputError
from tamnas.evaluation.accuracy import share, survivals
from tamnas.seeding import torch_generator

EPS = (2, 4, 6, 8)
ROUNDING = 0.002  # share of images on which passes of different sizes may differ


def require_torchattacks() -> None:
    """Raises InputError where it cannot be imported."""
    try:
        import torchattacks  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name == "torchattacks":
            raise InputError("torchattacks is not installed: pip install --no-deps torchattacks==3.5.1") from None
        raise InputError(f"torchattacks is installed, but {error.name}, which it needs, is not") from None


def theirs(model: torch.nn.Module, split: Split, eps: float, steps: int) -> float:
    """Robust accuracy under torchattacks' PGD, in [0, 1]."""
    import torchattacks

    torch.manual_seed(0)
    attack = torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=steps, random_start=True)
    correct = 0
    for start in range(0, len(split), 512):
        x, y = split.scaled(split.images[start : start + 512]), split.labels[start : start + 512]
        correct += int((model(attack(x, y)).argmax(1) == y).sum())
    return correct / len(split)


class Grids:
    """The grid's robust accuracies by (eps x 255, steps), as each way of computing it finds them."""

    def __init__(self, at: Setting, model: torch.nn.Module, split: Split, steps: list[int]):
        self.device, self.model, self.split, self.steps = at.runtime.device, model, split, tuple(steps)
        self.ours: dict[tuple[int, int], float] = {}
        self.alone: dict[tuple[int, int], float] = {}
        self.theirs: dict[tuple[int, int], float] = {}

    def compute_ours(self) -> None:
        self.ours = self._attacked(EPS, self.steps)

    def compute_alone(self) -> None:
        for eps in EPS:
            for steps in self.steps:
                self.alone |= self._attacked((eps,), (steps,))

    def compute_theirs(self) -> None:
        for eps in EPS:
            for steps in self.steps:
                self.theirs[eps, steps] = theirs(self.model, self.split, eps / 255, steps)

    def _attacked(self, radii: tuple[int, ...], steps: tuple[int, ...]) -> dict[tuple[int, int], float]:
        attempts = [
            Attempt(eps / 255, eps / 255 / 4, steps, generator=torch_generator("benchmark", eps, device=self.device))
            for eps in radii
        ]
        return {
            (eps, count): share(standing)
            for eps, masks in zip(radii, survivals(self.model, self.split, attempts), strict=True)
            for count, standing in zip(steps, masks, strict=True)
        }


@benchmark
@click.option("--images", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=5, show_default=True, help="Epochs that the network is trained for."
)
@click.option("--steps", type=Numbers(), default="10,30,50", show_default=True, help="Step counts of the grid.")
@ROUNDS
def main(row, where, threads, out, images: int, epochs: int, steps: list[int], rounds: int) -> None:
    at = setting(row, where, threads)
    require_torchattacks()
    split, name = some_images(at, images)
    grids = Grids(at, trained(at, 0, epochs), split, sorted(steps))
    theirs(grids.model, split, EPS[0] / 255, 1)  # libraries set themselves up
    runs = {"ours": grids.compute_ours, "torchattacks": grids.compute_theirs, "alone": grids.compute_alone}
    taken = alternate(runs, rounds, at.runtime.device, warm_up=0, clock=own_clock(at.runtime.device))
    apart = max(abs(share - grids.alone[cell]) for cell, share in grids.ours.items())
    if apart > ROUNDING and at.runtime.device.type == "cpu":  # a GPU adds in other orders: there the title tells
        raise SystemExit(f"a cell of the shared run is {100 * apart:.2f} points from the same cell computed alone")
    rows = [[*cell, 100 * share, 100 * grids.theirs[cell]] for cell, share in grids.ours.items()]
    rows.append(["time / ours", "", 1.0, taken["torchattacks"] / taken["ours"]])
    higher = max(share - grids.theirs[cell] for cell, share in grids.ours.items())
    title = f"PGD grid, {len(split)} {name} images; cells computed alone: {100 * apart:.2g} points apart at most"
    result = environment(at.runtime.device, threads, rounds) | {
        "ratio": taken["torchattacks"] / taken["ours"],
        "ratio_alone": taken["torchattacks"] / taken["alone"],
        "seconds": taken,
        "robust_accuracy_higher_by_at_most": higher,
        "images": len(split),
    }
    report(title, ["eps x 255", "steps", "ours, %", "torchattacks, %"], rows, result, out)
    print(f"each cell alone, without the shared run: {result['ratio_alone']:.2f}x")
    print(f"our robust accuracy minus theirs: {100 * higher:+.2f} points at most")


if __name__ == "__main__":
    main()
