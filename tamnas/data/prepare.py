"""From a source to one checked npz with three splits, and a card that says what is in it and what was done to it."""

import hashlib
import itertools
import logging
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tamnas.config.compute import ComputeParams
from tamnas.config.images import ImagesParams
from tamnas.data.pictures import read_pictures
from tamnas.data.sources import SOURCES, Images, Raw
from tamnas.data.splits import draw
from tamnas.errors import InputError
from tamnas.files import FORMAT, replacing

log = logging.getLogger(__name__)

IN_PROCESS = ComputeParams(engine="inline", workers=1)
CALLED = {"train": "training images", "validation": "validation images", "test": "test images"}
Splits = dict[str, tuple[np.ndarray, np.ndarray]]


def prepare(
    name: str, data: ImagesParams, path: Path, compute: ComputeParams = IN_PROCESS, folder: Path | None = None
) -> dict:
    """Write `path` (x_/y_ of train, validation, test, levels and format) and return the data card.

    Image files that were read are kept in `folder` until `path` is written. Raises InputError before anything is
    written to `path` if the source is not what it must be.
    """
    raw = SOURCES[data.source].read(name, data)
    parts = {"train": (raw.images, raw.labels), "validation": raw.validation, "test": raw.test}
    parts = {part: pair for part, pair in parts.items() if pair is not None}
    labels = {part: _checked_labels(name, data, raw, part, *pair) for part, pair in parts.items()}
    drawn = draw(name, data, labels)  # before images are read: a bad count is told at once
    images, notes = _read({part: images for part, (images, _) in parts.items()}, name, data, compute, folder)
    side = _common_side(name, data, images)
    for part, x in images.items():
        _require_range(f"data.{name}: {CALLED[part]}", x, raw.levels)
    if side != data.size:
        images = {part: averaged(x, data.size) for part, x in images.items()}
        notes.append(f"{side}x{side} pixels averaged to {data.size}x{data.size} (box filter)")
    splits = {split: (images[part][chosen], labels[part][chosen]) for split, (part, chosen) in drawn.items()}
    if data.merge_validation:
        splits["train"] = tuple(map(np.concatenate, zip(splits["train"], splits["validation"], strict=True)))
        # Nothing unseen is left to select on but the test images; card and reports say so.
        splits["validation"] = splits["test"]
    arrays = {
        f"{axis}_{split}": array for split, pair in splits.items() for axis, array in zip("xy", pair, strict=True)
    }
    with replacing(path) as file:
        np.savez(file, format=np.int64(FORMAT), levels=np.int64(raw.levels), **arrays)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    card = _card(name, data, raw, splits, [*raw.notes, *_own_validation(name, data, labels), *notes])
    for line in card["warnings"]:
        log.warning("data.%s: %s", name, line)
    return card


def _card(name: str, data: ImagesParams, raw: Raw, splits: Splits, notes: list[str]) -> dict:
    return {
        "format": FORMAT,
        "dataset": name,
        "source": data.source,
        "size": data.size,
        "levels": raw.levels,
        "classes": list(raw.class_names),
        "selection_saw_test": data.merge_validation,
        "splits": {
            split: {
                "images": len(y),
                "per_class": np.bincount(y, minlength=data.classes).tolist(),
                "range": [int(x.min()), int(x.max())],
                "sha256": images_digest(x, y),
            }
            for split, (x, y) in splits.items()
        },
        "notes": notes,
        "warnings": _one_colour(splits) + _duplicates(splits),
    }


def images_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """sha256 of images (N, S, S, 3) uint8 with their labels (N,), in whichever order they stand."""
    pairs = zip(np.ascontiguousarray(images), labels.astype("<i8"), strict=True)
    each = sorted(hashlib.sha256(image.tobytes() + label.tobytes()).digest() for image, label in pairs)
    return hashlib.sha256(b"".join(each)).hexdigest()


def _own_validation(name: str, data: ImagesParams, labels: Mapping[str, np.ndarray]) -> list[str]:
    if "validation" not in labels:
        return []
    own = f"the source has a validation split of its own, of {len(labels['validation']):,} images"
    if data.validation is None:
        return [own]
    return [f"data.{name}.validation is not needed: {own}; {data.validation:,} of them are used"]


def _duplicates(splits: Splits) -> list[str]:
    """Images that stand in two splits, equal in every byte at the size that is used."""
    digests = {
        split: [hashlib.sha256(image).digest() for image in np.ascontiguousarray(x)] for split, (x, _) in splits.items()
    }
    lines = []
    for first, second in itertools.combinations(splits, 2):
        known = set(digests[first])
        twice = sum(digest in known for digest in digests[second])
        if twice and splits[first] is not splits[second]:  # merged: validation is the test split
            count = f"{twice:,} of {len(digests[second]):,} {CALLED[second]}"
            lines.append(f"{count} are also among the {CALLED[first]}, byte for byte: accuracies on them show memory.")
    return lines


def _one_colour(splits: Splits) -> list[str]:
    total = sum(len(y) for _, y in splits.values())
    plain = sum(int((x == x[:, :1, :1]).all(axis=(1, 2, 3)).sum()) for x, _ in splits.values())
    return [f"{plain:,} of {total:,} images are of one colour throughout."] if plain else []


def _read(
    parts: Mapping[str, Images], name: str, data: ImagesParams, compute: ComputeParams, folder: Path | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The images of each part as arrays; those of files by the workers, in one go."""
    if all(isinstance(images, np.ndarray) for images in parts.values()):
        return dict(parts), []
    files = [file for images in parts.values() for file in images]
    pixels, notes = read_pictures(files, data.size, f"data.{name}.path", compute, folder)
    ends = np.cumsum([len(images) for images in parts.values()])
    return dict(zip(parts, np.split(pixels, ends[:-1]), strict=True)), notes


def _common_side(name: str, data: ImagesParams, parts: Mapping[str, np.ndarray]) -> int:
    """Of the images, which are square and alike: `data.size` or a multiple of it. Raises InputError."""
    for part, images in parts.items():
        height, width = images.shape[1:3]
        if height != width or height % data.size:
            fractions = [str(height // factor) for factor in range(1, height // 4 + 1) if height % factor == 0]
            allowed = ", ".join(fractions) if height == width else "square images"
            raise InputError(
                f"data.{name}: {CALLED[part]}: {height}x{width} pixels; data.{name}.size is {data.size}; "
                f"allowed: {allowed}"
            )
    sides = sorted({len(images[0]) for images in parts.values()})
    if len(sides) > 1:
        raise InputError(f"data.{name}: images of {' and '.join(map(str, sides))} pixels a side; allowed: one size")
    return sides[0]


def averaged(images: np.ndarray, size: int) -> np.ndarray:
    """(N, k * size, k * size, 3) to (N, size, size, 3), uint8: each pixel the mean of k x k, halves rounded up."""
    factor = images.shape[1] // size
    squares = images.reshape(len(images), size, factor, size, factor, 3)
    return ((squares.sum(axis=(2, 4), dtype=np.uint32) + factor**2 // 2) // factor**2).astype(np.uint8)


def _require_range(where: str, images: np.ndarray, levels: int) -> None:
    """Raises InputError for values out of [0, levels], or all so near to each other that they were scaled twice."""
    low, high = int(images.min()), int(images.max())
    if high > levels:
        raise InputError(f"{where}: values up to {high}; allowed: 0 to {levels}")
    if 8 * (high - low) < levels:
        raise InputError(
            f"{where}: values from {low} to {high}, less than an eighth of 0 to {levels}: divided by 255 once too "
            "often? An attack's radius would be larger than what tells the images apart"
        )


def _checked_labels(
    name: str, data: ImagesParams, raw: Raw, part: str, images: Images, labels: np.ndarray
) -> np.ndarray:
    where = f"data.{name}: {CALLED[part]}"
    labels = np.asarray(labels)
    if labels.shape != (len(images),):
        raise InputError(f"{where}: {len(images)} images but labels of shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{where}: labels of dtype {labels.dtype}; allowed: integers")
    if len(raw.class_names) != data.classes:
        listed = textwrap.shorten(", ".join(raw.class_names), 80, placeholder=" ...")
        raise InputError(f"data.{name}.classes is {data.classes}; the source has {len(raw.class_names)}: {listed}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < data.classes):
        raise InputError(f"{where}: labels from {labels.min()} to {labels.max()}; allowed: 0 to {data.classes - 1}")
    absent = np.setdiff1d(np.arange(data.classes), labels)
    if len(absent):
        raise InputError(f"{where}: class {absent[0]} of {data.classes} has no image")
    return labels.astype(np.int64)
