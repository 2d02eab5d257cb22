"""Small generated stand-ins for CIFAR-10 and SVHN: for trying the whole study and for tests, not for any claim.

    tamnas synthetic [FOLDER]    # default: data/raw/smoke, where the profile `smoke` looks

Writes cifar10.npz and svhn.npz in the layout of the source `npz`: 8 x 8 colour images in ten classes. A class is
a smooth colour pattern; its images are shifted by up to a pixel, dimmed, and noisy. Small networks leave chance within
twenty steps of training, and perturbations of 8/255 change some answers. The same bytes every time.
"""

from pathlib import Path

import click
import numpy as np

from tamnas.errors import InputError
from tamnas.pipeline.command import help_of, one_line_errors

FOLDER = Path("data/raw/smoke")
SEEDS = {"cifar10": 1, "svhn": 2}
CLASSES, SIZE, TRAIN, TEST = 10, 8, 240, 60
PATTERN, NOISE = 0.35, 0.06  # standard deviations, of a pixel range of 1


def images(seed: int) -> dict[str, np.ndarray]:
    """x_train, y_train, x_test, y_test: (N, 8, 8, 3) uint8 and (N,) int64, classes in equal shares."""
    random = np.random.default_rng(seed)
    patterns = np.stack([_pattern(random) for _ in range(CLASSES)])
    arrays = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        labels = random.permutation(np.arange(count) % CLASSES)
        arrays |= {f"x_{split}": np.stack([_image(patterns[label], random) for label in labels]), f"y_{split}": labels}
    return arrays


def _pattern(random: np.random.Generator) -> np.ndarray:
    """(8, 8, 3) around 0: a 4 x 4 grid of random colours, enlarged and smoothed."""
    coarse = random.normal(size=(SIZE // 2, SIZE // 2, 3)).repeat(2, axis=0).repeat(2, axis=1)
    smooth = sum(np.roll(coarse, shift, axis=(0, 1)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))) / 4
    return PATTERN * smooth / smooth.std()


def _image(pattern: np.ndarray, random: np.random.Generator) -> np.ndarray:
    shifted = np.roll(pattern, random.integers(-1, 2, size=2), axis=(0, 1)) * random.uniform(0.5, 1.0)
    noisy = 0.5 + shifted + random.normal(scale=NOISE, size=shifted.shape)
    return np.rint(255 * noisy.clip(0, 1)).astype(np.uint8)


def write(folder: Path = FOLDER) -> list[Path]:
    """One npz per dataset in `folder`. Raises InputError if that cannot be written."""
    paths = [folder / f"{name}.npz" for name in SEEDS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, seed in zip(paths, SEEDS.values(), strict=True):
            np.savez(path, **images(seed))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return paths


@click.command(help=help_of(__doc__))
@click.argument("folder", type=click.Path(path_type=Path), default=FOLDER)
@one_line_errors
def main(folder: Path) -> None:
    for path in write(folder):
        click.echo(path)
