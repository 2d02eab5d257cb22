"""Test images for the evaluation of a model that was not trained here."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tamnas.config.images import DataParams
from tamnas.data.arrays import as_classes, as_uint8, load_arrays
from tamnas.data.folders import read_folder
from tamnas.data.pictures import read_pictures
from tamnas.data.prepare import IN_PROCESS
from tamnas.data.sources import SOURCES
from tamnas.errors import InputError
from tamnas.files import require_format
from tamnas.pipeline.paths import prepared

# Images (N, C, H, W) float32 in [0, 1], labels (N,), a line for each thing that was left out or changed
TestImages = tuple[np.ndarray, np.ndarray, list[str]]


def read_images(place: str, known: Sequence[str] = ()) -> TestImages:
    """Test images of an npz, a folder with a folder for each class, a prepared dataset of params.yaml, cifar10 or svhn.

    `known`: the classes of the model, if they have names; folders of these names are these. Raises InputError.
    """
    path = Path(place).expanduser()
    ours = prepared(place) if path.name == place and prepared(place).is_file() else None
    if ours and path.exists():
        raise InputError(f"data {place}: is {place} here and {ours}, too; give ./{place} or {ours}")
    if path.is_file() or ours:
        return _of_npz(ours or path, known)
    if path.is_dir():
        return _of_folder(path, known)
    if place in SOURCES and SOURCES[place].downloads:
        raw = SOURCES[place].read(place, DataParams(source=place, validation=1))  # which is not read
        return _scaled(raw.test[0], raw.levels), raw.test[1], list(raw.notes)
    able = ", ".join(name for name, source in SOURCES.items() if source.downloads)
    raise InputError(f"data {place}: allowed: an npz, a folder, a prepared dataset (data/NAME.npz), {able}")


def _scaled(images: np.ndarray, levels: int) -> np.ndarray:
    """(N, H, W, C) to (N, C, H, W)."""
    return (images.astype(np.float32) / np.float32(levels)).transpose(0, 3, 1, 2)


def _of_npz(path: Path, known: Sequence[str]) -> TestImages:
    where = f"data {path}"
    pairs, names, others = load_arrays(path, where, "test")
    (image_key, images), (label_key, labels) = pairs["test"]
    if {"format", "levels"} <= set(others):  # a prepared file
        with np.load(path, allow_pickle=False) as file:
            require_format(path, int(file["format"]), "run the prepare stage again")
            return _scaled(images, int(file["levels"])), labels, []
    notes = []
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
        notes.append(f"{image_key}: taken as (N, C, H, W).")
    grey = images.ndim == 3 or images.shape[-1:] == (1,)
    checked, note = as_uint8(images, f"{where}: {image_key}")
    if images.dtype.kind == "f" and note is None:  # floats in [0, 1] stay what they are
        checked, levels = images if images.ndim == 4 else images[..., None], 1
    else:
        checked, levels = checked[..., :1] if grey else checked, 255
    labels, label_note = as_classes(labels, labels.shape[-1] if labels.ndim else 0, f"{where}: {label_key}")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{where}: {label_key}: {labels.dtype} of shape {labels.shape}; allowed: one integer for each of "
            f"{len(images)} images"
        )
    if names is not None and names.ndim == 1:
        labels = _as_known(labels, tuple(map(str, names)), known, where)
    notes += [f"{key}: {text}." for key, text in ((image_key, note), (label_key, label_note)) if text]
    return _scaled(checked, levels), labels, notes


def _of_folder(root: Path, known: Sequence[str]) -> TestImages:
    where = f"data {root}"
    splits, classes, notes = read_folder(root, where, "test")
    files, labels = splits["test"]
    size = _side(files, where)
    pixels, more = read_pictures(files, size, where, IN_PROCESS)
    read = f"{len(files):,} images of {len(classes)} classes at {size}x{size} pixels, the size of the first."
    return _scaled(pixels, 255), _as_known(labels, classes, known, where), [read, *notes, *more]


def _as_known(labels: np.ndarray, classes: Sequence[str], known: Sequence[str], where: str) -> np.ndarray:
    """Labels of images' own `classes` as those of the model's, where they have its names; by number if none is."""
    if set(classes) <= set(known) and len(labels) and labels.min() >= 0 and labels.max() < len(classes):
        return np.array([known.index(name) for name in classes])[labels]
    shared = set(classes) & set(known)
    if known and (len(classes) != len(known) or 0 < len(shared) < len(classes)):
        raise InputError(f"{where}: has the classes {', '.join(classes)}; the model tells apart {', '.join(known)}")
    return labels


def _side(files: Sequence[Path], where: str) -> int:
    try:
        with Image.open(files[0]) as image:
            return min(image.size)
    except Exception as error:  # a damaged image raises almost anything
        raise InputError(f"{where}: {files[0].name}: cannot be read ({type(error).__name__})") from None
