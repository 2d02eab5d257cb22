"""Images and labels of an npz: the names that are read, and arrays as 8-bit images and whole-number labels."""

from pathlib import Path

import numpy as np

from tamnas.errors import InputError
from tamnas.files import shown

# Of each split: images and labels, as Keras and Colab notebooks call them, and as MedMNIST does.
KEYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "validation": (
        ("x_val", "y_val"),
        ("x_valid", "y_valid"),
        ("x_validation", "y_validation"),
        ("val_images", "val_labels"),
    ),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def read_npz(path: Path, where: str, classes: int) -> tuple[Arrays, tuple[str, ...], list[str]]:
    """(split -> (images (N, H, W, 3) uint8, labels), names of the classes, a line for what was left out or changed).

    Raises InputError that begins with `where`.
    """
    pairs, names, others = load_arrays(path, where)
    notes = [f"left out: the arrays {shown(', '.join(others))}"] if others else []
    splits = {}
    for split, ((image_key, images), (label_key, labels)) in pairs.items():
        images, image_note = as_uint8(images, f"{where}: {image_key}")
        labels, label_note = as_classes(labels, classes, f"{where}: {label_key}")
        notes += [f"{key}: {note}" for key, note in ((image_key, image_note), (label_key, label_note)) if note]
        splits[split] = images, labels
    names = np.arange(classes) if names is None else names
    if names.ndim != 1 or names.dtype.kind not in "Uiu":
        raise InputError(
            f"{where}: classes: {names.dtype} of shape {names.shape}; allowed: one text or integer per class"
        )
    return splits, tuple(map(str, names)), notes


def load_arrays(path: Path, where: str, only: str | None = None):
    """(split -> (key, array) of its images and of its labels, names of the classes, other arrays' keys).

    `only`: the one split to read. Raises InputError that begins with `where`, if that (else training images) is missing
    too.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            used = _used(file.files, where, only or "train")
            read = {split: pair for split, pair in used.items() if only in (None, split)}
            pairs = {split: tuple((key, file[key]) for key in pair) for split, pair in read.items()}
            names = file["classes"] if "classes" in file.files else None
            known = {"classes", *(key for pair in used.values() for key in pair)}
            return pairs, names, [key for key in file.files if key not in known]
    except InputError:
        raise
    except Exception as error:  # a damaged zip raises almost anything
        raise InputError(f"{where}: cannot be read as npz without pickle ({error.__class__.__name__})") from None


def _used(there: list[str], where: str, needed: str) -> dict[str, tuple[str, str]]:
    """The pair of keys of each split that the file has."""
    used: dict[str, tuple[str, str]] = {}
    for split, pairs in KEYS.items():
        for pair in pairs:
            has = [key in there for key in pair]
            if any(has) and not all(has):
                raise InputError(f"{where}: has only one of {' and '.join(pair)}; needed: both or none")
            if all(has) and split in used:
                raise InputError(f"{where}: has both {used[split][0]} and {pair[0]}; needed: one {split} split")
            if all(has):
                used[split] = pair
    if needed not in used:
        wanted = " or ".join(" with ".join(pair) for pair in KEYS[needed])
        raise InputError(f"{where}: needed: {wanted}; the arrays there: {shown(', '.join(there)) or 'none'}")
    return used


def as_uint8(x: np.ndarray, where: str) -> tuple[np.ndarray, str | None]:
    """(N, H, W, 3) uint8 of images in [0, 1] or of whole numbers from 0 to 255, and what to say of that."""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        raise InputError(f"{where}: shape {x.shape}; allowed: (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    if x.dtype.kind not in "fiu":
        raise InputError(f"{where}: dtype {x.dtype}; allowed: uint8, floats in [0, 1], whole numbers from 0 to 255")
    note, kind = None, x.dtype
    if kind != np.uint8:
        if not np.isfinite(x).all():
            raise InputError(f"{where}: holds NaN or infinite values")
        low, high = (x.min(), x.max()) if x.size else (0, 0)
        if kind.kind == "f" and low >= 0 and high <= 1:
            x = np.rint(x * 255).astype(np.uint8)
        elif low >= 0 and high <= 255 and (kind.kind in "iu" or (x == np.rint(x)).all()):
            x, note = x.astype(np.uint8), f"{kind} of whole numbers from 0 to 255, taken as 8 bits"
        else:
            allowed = "0 to 1, or whole numbers from 0 to 255" if kind.kind == "f" else "whole numbers from 0 to 255"
            raise InputError(f"{where}: {kind} values from {low:.8g} to {high:.8g}; allowed: {allowed}")
    return np.repeat(x, 3, axis=3) if x.shape[3] == 1 else x, note


def as_classes(y: np.ndarray, classes: int, where: str) -> tuple[np.ndarray, str | None]:
    """Labels (N,) where `y` says them as a column, one-hot or as floats, and what to say of that; else `y` as it is."""
    how = []
    if y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all():
        y = y.astype(np.int64)
        how.append("whole floats")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
        how.append("a column")
    elif y.ndim == 2 and y.dtype.kind in "biu":
        if y.shape[1] != classes or not ((y == 0) | (y == 1)).all() or not (y.sum(axis=1) == 1).all():
            raise InputError(
                f"{where}: labels of shape {y.shape}; allowed: (N,), (N, 1), or one-hot (N, {classes}) "
                "with one 1 in each row"
            )
        y = y.argmax(axis=1)
        how.append("one-hot")
    return y, f"labels as {' and '.join(how)}, taken as class numbers" if how else None
