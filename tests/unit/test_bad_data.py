"""Bad data: one clear line, exit code 2, at once, and no output touched."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import archives
from tests.helpers.refusals import refused
from tests.helpers.tiny import invoke, tiny_params, write_params


def npz(**changes) -> Callable[[Path], dict]:
    """A dataset of `archives.npz` with arrays changed; a function is called with the array it replaces."""

    def make(folder: Path) -> dict:
        path = folder / "own.npz"
        arrays = archives.npz(path)
        archives.npz(path, **{key: one(arrays[key]) if callable(one) else one for key, one in changes.items()})
        return {"source": "npz", "path": str(path), "size": 8, "classes": 3, "validation": 12}

    return make


def npz_file(change: Callable[[Path], object]) -> Callable[[Path], dict]:
    def make(folder: Path) -> dict:
        data = npz()(folder)
        change(Path(data["path"]))
        return data

    return make


def pictures(change: Callable[[Path], object], classes: tuple[str, ...] = ("a", "b", "c")) -> Callable[[Path], dict]:
    def make(folder: Path) -> dict:
        root = folder / "pictures"
        archives.image_folder(root, 10, classes=classes)
        change(root)
        return {"source": "imagefolder", "path": str(root), "size": 8, "classes": 3, "validation": 6, "test": 9}

    return make


def link_out(root: Path) -> None:
    secret = root.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (root / "a" / "link.png").symlink_to(secret)


def texts_only(root: Path) -> None:
    for path in list(root.rglob("*.png")):
        path.rename(path.with_suffix(".txt"))


def with_pixel(value: float) -> Callable:
    def change(images: np.ndarray) -> np.ndarray:
        floats = (images / 255).astype(np.float32)
        floats[0, 0, 0, 0] = value
        return floats

    return change


DATA = {
    "npz missing": (npz_file(Path.unlink), "FileNotFoundError"),
    "npz a folder": (npz_file(lambda path: (path.unlink(), path.mkdir())), "IsADirectoryError"),
    "npz truncated": (npz_file(lambda path: os.truncate(path, path.stat().st_size // 2)), "cannot be read"),
    "npz altered": (npz_file(archives.damage), "cannot be read"),
    "npz without x_train": (npz(x_train=None), "x_train"),
    "npz with half a test split": (npz(y_test=None), "x_test and y_test"),
    "pickled images": (npz(x_train=np.array([{}], dtype=object)), "without pickle"),
    "NaN": (npz(x_train=with_pixel(np.nan)), "NaN"),
    "infinite": (npz(x_test=with_pixel(np.inf)), "infinite"),
    "floats above 1": (npz(x_train=with_pixel(1.5)), "allowed: 0 to 1"),
    "floats below 0": (npz(x_train=with_pixel(-0.5)), "allowed: 0 to 1"),
    "wrong dtype": (npz(x_train=lambda x: x > 100), "dtype bool"),
    "integers above 255": (npz(x_train=lambda x: x.astype(np.int32) + 1), "int32 values from 1 to 256"),
    "scaled twice": (npz(x_train=lambda x: x // 255), "divided by 255 once too often"),
    "wrong shape": (npz(x_train=lambda x: x.transpose(0, 3, 1, 2)), "shape (60, 3, 8, 8)"),
    "wrong size": (npz(x_train=lambda x: x[:, :7, :7]), "7x7"),
    "label too large": (npz(y_train=lambda y: np.where(y == 2, 7, y)), "labels from 0 to 7"),
    "label negative": (npz(y_test=lambda y: y - 1), "labels from -1"),
    "labels of fractions": (npz(y_train=lambda y: y + 0.5), "dtype float64"),
    "fewer labels than images": (npz(y_train=lambda y: y[:-1]), "labels of shape"),
    "class missing": (npz(y_train=lambda y: np.where(y == 2, 1, y)), "class 2 of 3 has no image"),
    "class missing in test": (npz(y_test=lambda y: np.where(y == 2, 1, y)), "class 2 of 3 has no image"),
    "class missing in a split": (npz(y_train=np.array([2, 2, *[0, 1] * 29])), "class 2 has no image in the validation"),
    "one class only": (npz(y_train=lambda y: 0 * y), "has no image"),
    "other class names": (npz(classes=np.array(["cat", "dog"])), "the source has 2: cat, dog"),
    "split too large": (lambda folder: {**npz()(folder), "validation": 59}, "data.set.validation is 59"),
    "folder missing": (pictures(lambda root: root.rename(root.parent / "other")), "is not a folder"),
    "folder of text files": (pictures(texts_only), ".png"),
    "one class folder only": (pictures(lambda root: None, classes=("a",)), "the source has 1: a"),
    "bomb of an image": (pictures(lambda root: archives.png_header(root / "a" / "b.png", 60_000, 60_000)), "Bomb"),
    "large image": (pictures(lambda root: archives.png_header(root / "a" / "b.png", 8_001, 8_000)), "at most 64"),
    "link out of the folder": (pictures(link_out), "link out of the dataset's folder"),
    "image cut short": (pictures(lambda root: os.truncate(root / "a" / "0000.png", 40)), "not a readable image"),
    "text called png": (pictures(lambda root: (root / "a" / "b.png").write_text("text")), "not a readable image"),
    "digits of another size": (
        lambda folder: {"source": "digits", "size": 32, "classes": 10, "validation": 40, "test": 40},
        "8x8 pixels",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_data(folder, name):
    make, words = DATA[name]
    raw = tiny_params()
    raw["data"] = {"set": make(folder.parent)}
    raw["run"] = {"datasets": ["set"], "rows": {"set-base": {"dataset": "set", "mode": "base"}}}
    write_params(folder, raw)
    assert invoke("plan").exit_code == 0
    refused(folder, words, "prepare", "set")


@pytest.mark.parametrize("source", ["cifar10", "svhn"])
def test_archives_with_a_wrong_checksum(folder, monkeypatch, source):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    getattr(archives, source)(folder.parent / "raw", monkeypatch)
    for path in (folder.parent / "raw").rglob("*"):
        if path.is_file():
            archives.damage(path)
    raw = tiny_params()
    raw["data"] = {"set": {"source": source, "path": str(folder.parent / "raw"), "validation": 20}}
    raw["run"] = {"datasets": ["set"], "rows": {"set-base": {"dataset": "set", "mode": "base"}}}
    write_params(folder, raw)
    assert invoke("plan").exit_code == 0
    refused(folder, f"no intact {source} archive", "prepare", "set")
