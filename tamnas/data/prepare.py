"""From a source to one checked npz with three splits, and a card that says what is in it."""

import hashlib
import textwrap
from pathlib import Path

import numpy as np

from tamnas.config.sections import DataParams
from tamnas.data.sources import SOURCES, Raw
from tamnas.errors import InputError
from tamnas.files import FORMAT, replacing

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def prepare(name: str, data: DataParams, path: Path) -> dict:
    """Write `path` (x_/y_ of train, validation, test, levels and format) and return the data card.

    Raises InputError before anything is written if the source is not what it must be.
    """
    raw = SOURCES[data.source].read(name, data)
    splits = split_up(name, data, raw)
    if data.merge_validation:
        splits["train"] = tuple(map(np.concatenate, zip(splits["train"], splits["validation"], strict=True)))
        # Nothing unseen is left to select on but the test images; card and reports say so.
        splits["validation"] = splits["test"]
    arrays = {
        f"{axis}_{split}": array for split, pair in splits.items() for axis, array in zip("xy", pair, strict=True)
    }
    with replacing(path) as file:
        np.savez(file, format=np.int64(FORMAT), levels=np.int64(raw.levels), **arrays)
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
                "sha256": hashlib.sha256(np.ascontiguousarray(x).tobytes() + y.tobytes()).hexdigest(),
            }
            for split, (x, y) in splits.items()
        },
    }


def split_up(name: str, data: DataParams, raw: Raw) -> Arrays:
    """train, validation, test: stratified draws from `split_seed`.

    Test images come from the source's own test split where it has one, else from its training images.
    """
    images, labels = _checked(name, data, raw, raw.images, raw.labels, "training images")
    if raw.test is not None:
        test = _only(name, "test", *_checked(name, data, raw, *raw.test, "test images"), data.test, data)
    elif data.test is not None:
        images, labels, *test = _take(name, "test", images, labels, data.test, data)
    else:
        raise InputError(f"data.{name}.test: is missing; this source has no test split of its own")
    images, labels, *validation = _take(name, "validation", images, labels, data.validation, data)
    train = _only(name, "train", images, labels, data.train, data)
    splits = {"train": train, "validation": tuple(validation), "test": tuple(test)}
    for split, (_, y) in splits.items():
        missing = np.setdiff1d(np.arange(data.classes), y)
        if len(missing):
            raise InputError(f"data.{name}: class {missing[0]} has no image in the {split} split of {len(y)}")
    return splits


def _take(name: str, split: str, images, labels, count: int, data: DataParams):
    """(rest images, rest labels, taken images, taken labels), `count` of them stratified."""
    most = len(labels) - data.classes
    if not data.classes <= count <= most:
        raise InputError(
            f"data.{name}.{split} is {count}; allowed: {data.classes} to {most} of the {len(labels)} images left, "
            f"so that each of the {data.classes} classes has one in it and one beside it"
        )
    from sklearn.model_selection import train_test_split  # a second to import: bad input is told before

    per_class = np.bincount(labels, minlength=data.classes)
    if per_class.min() < 2:
        raise InputError(
            f"data.{name}.{split}: class {per_class.argmin()} has {per_class.min()} images left to draw from; needed: 2"
        )
    rest, taken = train_test_split(
        np.arange(len(labels)), test_size=count, random_state=data.split_seed, stratify=labels
    )
    rest, taken = np.sort(rest), np.sort(taken)
    return images[rest], labels[rest], images[taken], labels[taken]


def _only(name: str, split: str, images, labels, count: int | None, data: DataParams):
    """(images, labels), `count` of them stratified; all for None."""
    if count is None or count == len(labels):
        return images, labels
    return _take(name, split, images, labels, count, data)[2:]


def _checked(name: str, data: DataParams, raw: Raw, images: np.ndarray, labels: np.ndarray, what: str):
    where = f"data.{name}: {what}"
    labels = np.asarray(labels)
    if images.shape[1:] != (data.size, data.size, 3):
        raise InputError(f"{where}: {images.shape[1]}x{images.shape[2]} pixels; data.{name}.size is {data.size}")
    if labels.shape != images.shape[:1]:
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
    if images.max(initial=0) > raw.levels:
        raise InputError(f"{where}: values up to {images.max()}; allowed: 0 to {raw.levels}")
    return images, labels.astype(np.int64)
