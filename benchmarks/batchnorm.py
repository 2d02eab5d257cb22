"""BatchNorm in training, forward and backward: ours against torch's, by channels and map.

    python -m benchmarks.batchnorm [--rounds 20]

Channels-last maps of the batches that training has. The last column says which of the two a network uses; where it is
torch's, the first columns say what ours would cost.
"""

from unittest.mock import patch

import torch
from torch import nn

from benchmarks.harness import alternate, environment, own_clock, report, setting
from benchmarks.options import benchmark, click
from tamnas.errors import InputError
from tamnas.networks import batchnorm

NAMES = ("ours", "torch's")
SHAPES = [
    *((128, c, 32, 32) for c in (3, 12)),
    *((128, c, 16, 16) for c in (6, 12, 20, 24, 36, 48, 60)),
    *((64, c, 8, 8) for c in (6, 12, 24, 36, 60, 92)),
    *((64, c, 4, 4) for c in (12, 24, 36)),
]


def passes(norm: nn.BatchNorm2d, x: torch.Tensor, gradient: torch.Tensor, narrow: bool):
    """A training pass and its gradients, by our way or torch's."""

    def run() -> None:
        with patch.object(batchnorm, "is_narrow", lambda x: narrow):
            torch.autograd.backward(norm(x), gradient)

    return run


@benchmark
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
def main(row, where, threads, out, rounds: int) -> None:
    if where not in ("auto", "cpu"):
        raise InputError(f"--device {where}: our BatchNorm is for the CPU; allowed: auto, cpu")
    device = setting(row, "cpu", threads).runtime.device
    rows = []
    for shape in SHAPES:
        x, gradient = (torch.randn(shape).to(memory_format=torch.channels_last) for _ in range(2))
        x.requires_grad_(True)
        ways = {name: passes(batchnorm.BatchNorm2d(shape[1]).train(), x, gradient, name == "ours") for name in NAMES}
        taken = alternate(ways, rounds, device, 3, own_clock(device))
        used = "ours" if batchnorm.is_narrow(x) else "torch's"
        rows.append(
            ["x".join(map(str, shape)), *(1e3 * taken[name] for name in NAMES), taken["torch's"] / taken["ours"], used]
        )
    columns = ["map", *(f"{name}, ms" for name in NAMES), "torch's / ours", "used"]
    report("BatchNorm in training", columns, rows, environment(device, threads, rounds), out)


if __name__ == "__main__":
    main()
