"""Where images come from: each source gives raw arrays, checked only for being readable.

A source is one function here. A low room: parameters are checked against it, so it imports no parameters.
"""

import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tamnas.data.archives import Archive, home, require, told
from tamnas.errors import InputError
from tamnas.files import located, write_text

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test", "classes")
MAX_PIXELS = 64_000_000  # of one source image; a larger one is taken for a decompression bomb


@dataclass(frozen=True)
class Raw:
    """Images (N, H, W, 3) uint8 in [0, levels] and labels (N,); `test` where the source has one."""

    images: np.ndarray
    labels: np.ndarray
    test: tuple[np.ndarray, np.ndarray] | None
    levels: int
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """`read` gives the raw arrays of the dataset with a name, or raises InputError; the rest says what it needs."""

    read: Callable[[str, Any], Raw]
    needs_path: bool = False
    downloads: bool = False
    may_have_test: bool = True


SOURCES: dict[str, Source] = {}


def source(**needs: bool) -> Callable:
    """Decorator: the function becomes the source of its name, which `data.<name>.source` accepts then."""

    def register(function: Callable[[str, Any], Raw]) -> Callable:
        SOURCES[function.__name__] = Source(function, **needs)
        return function

    return register


def watch(name: str, data: Any, link: Path) -> str:
    """Make `link` lead to the files of a source that a user changes at will, or hold a line of text; says which.

    Raises InputError if there are none.
    """
    link.unlink(missing_ok=True)
    if not SOURCES[data.source].needs_path:
        write_text(link, text := f"{data.source} has no files that change")
        return text
    path = located(data.path)
    if not path.exists():
        raise InputError(f"data.{name}.path: {data.path}: is not there")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path.resolve())
    return f"-> {path}"


@source(may_have_test=False)
def digits(name: str, data: Any) -> Raw:
    """scikit-learn's 1,797 handwritten digits (UCI), 8x8, 17 grey levels, three equal channels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.repeat(bunch.images.astype(np.uint8)[..., None], 3, axis=3)
    return Raw(images, bunch.target.astype(np.int64), None, 16, tuple(map(str, bunch.target_names)))


@source(needs_path=True)
def npz(name: str, data: Any) -> Raw:
    """A file with x_train, y_train and maybe x_test with y_test, and classes (their names).

    x: (N, H, W, 3), (N, H, W, 1) or (N, H, W); uint8, or floats in [0, 1], which are rounded
    to 8 bits.
    """
    path, where = located(data.path), f"data.{name}: {data.path}"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in NPZ_KEYS}
    except Exception as error:  # a damaged zip raises almost anything
        raise InputError(f"{where}: cannot be read as npz without pickle ({error.__class__.__name__})") from None
    for key in ("x_train", "y_train"):
        if key not in arrays:
            raise InputError(
                f"{where}: has no array {key}; needed: x_train, y_train (and x_test, y_test for a test split)"
            )
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise InputError(f"{where}: has only one of x_test and y_test; needed: both or none")
    test = (_as_uint8(arrays["x_test"], f"{where}: x_test"), arrays["y_test"]) if "x_test" in arrays else None
    names = arrays.get("classes", np.arange(data.classes))
    if names.ndim != 1 or names.dtype.kind not in "Uiu":
        raise InputError(
            f"{where}: classes: {names.dtype} of shape {names.shape}; allowed: one text or integer per class"
        )
    return Raw(_as_uint8(arrays["x_train"], f"{where}: x_train"), arrays["y_train"], test, 255, tuple(map(str, names)))


def _as_uint8(x: np.ndarray, where: str) -> np.ndarray:
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        raise InputError(f"{where}: shape {x.shape}; allowed: (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    if np.issubdtype(x.dtype, np.floating):
        if not np.isfinite(x).all():
            raise InputError(f"{where}: holds NaN or infinite values")
        if x.size and (x.min() < 0 or x.max() > 1):
            raise InputError(f"{where}: float values from {x.min():.4g} to {x.max():.4g}; allowed: 0 to 1")
        x = np.rint(x * 255).astype(np.uint8)
    elif x.dtype != np.uint8:
        raise InputError(f"{where}: dtype {x.dtype}; allowed: uint8, or floats in [0, 1]")
    return np.repeat(x, 3, axis=3) if x.shape[3] == 1 else x


@source(needs_path=True)
def imagefolder(name: str, data: Any) -> Raw:
    """A folder of one folder per class, or of `train/` and `test/` with those inside.

    Images are cropped to the centre square and resized to `size` x `size`, as RGB.
    """
    root = located(data.path)
    if not root.is_dir():
        raise InputError(f"data.{name}.path: {data.path}: is not a folder")
    parts = [root / "train", root / "test"]
    if not all(part.is_dir() for part in parts):
        images, labels, classes = _read_folder(root, name, data)
        return Raw(images, labels, None, 255, classes)
    images, labels, classes = _read_folder(parts[0], name, data)
    *test, test_classes = _read_folder(parts[1], name, data)
    if test_classes != classes:
        odd = min(set(classes) ^ set(test_classes))
        raise InputError(f"data.{name}.path: {data.path}: class {odd!r} is in only one of train/ and test/")
    return Raw(images, labels, tuple(test), 255, classes)


def _read_folder(folder: Path, name: str, data: Any):
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    where, home = f"data.{name}.path: {folder}", folder.resolve()
    try:
        classes, indices = find_classes(folder)
        samples = make_dataset(str(folder), indices, extensions=IMG_EXTENSIONS)
    except OSError as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None
    for path, label in samples:
        if not Path(os.path.realpath(path)).is_relative_to(home / classes[label]):
            raise InputError(f"{where}: {path} is a link out of the folder of its class")
        if not os.path.isfile(path):
            raise InputError(f"{where}: {path} is a broken link or no plain file")
    images = np.stack([_read_image(path, data.size) for path, _ in samples])
    return images, np.array([label for _, label in samples], dtype=np.int64), tuple(classes)


def _read_image(path: str, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are read")
            if image.mode.startswith(("I", "F")):  # Pillow would clip these at 255
                raise InputError(f"{path}: pixels of mode {image.mode}; allowed: 8 bits a channel")
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
    except InputError:
        raise
    except Exception as error:  # a damaged image raises almost anything
        raise InputError(f"{path}: is not a readable image ({error.__class__.__name__})") from None


@source(downloads=True)
def cifar10(name: str, data: Any) -> Raw:
    """torchvision's CIFAR-10: batches unpacked in `path`, else the archive there, else a download to it.

    The archive is unpacked into a temporary folder, since `path` may be read-only.
    """
    from torchvision.datasets import CIFAR10

    try:
        return _cifar10_batches(home(name, data), name)
    except RuntimeError:  # torchvision's word for missing or altered files
        archive = Archive(CIFAR10.filename, CIFAR10.url, CIFAR10.tgz_md5)
    packed = require(name, data, [archive]) / archive.file
    with tempfile.TemporaryDirectory() as folder:
        try:
            _unpack_cifar10(packed, Path(folder) / CIFAR10.base_folder)
            return _cifar10_batches(Path(folder), name)
        except (OSError, tarfile.TarError, RuntimeError) as error:
            raise InputError(f"data.{name}: {packed}: cannot be unpacked ({told(error)})") from None


def _unpack_cifar10(packed: Path, folder: Path) -> None:
    """The files that torchvision reads, and no other member of the archive, whatever its name."""
    from torchvision.datasets import CIFAR10

    wanted = {f"{CIFAR10.base_folder}/{file}": file for file, _ in (*CIFAR10.train_list, *CIFAR10.test_list)}
    wanted[f"{CIFAR10.base_folder}/{CIFAR10.meta['filename']}"] = CIFAR10.meta["filename"]
    folder.mkdir()
    with tarfile.open(packed) as tar:
        for member in tar:  # in the archive's order: going back in a gzip file means starting anew
            if member.name in wanted and member.isfile():
                (folder / wanted[member.name]).write_bytes(tar.extractfile(member).read())


def _cifar10_batches(folder: Path, name: str) -> Raw:
    from torchvision.datasets import CIFAR10

    train, test = (_whole(partial(CIFAR10, folder, train=part), folder, name) for part in (True, False))
    return Raw(train.data, np.array(train.targets), (test.data, np.array(test.targets)), 255, tuple(train.classes))


@source(downloads=True)
def svhn(name: str, data: Any) -> Raw:
    """torchvision's SVHN, cropped digits, without `extra`; the digit 0, which the files label 10, is class 0."""
    from torchvision.datasets import SVHN

    files = [SVHN.split_list[part] for part in ("train", "test")]
    folder = require(name, data, [Archive(file, url, md5) for url, file, md5 in files])
    train, test = (_whole(partial(SVHN, folder, split=part), folder, name) for part in ("train", "test"))
    images, test_images = (np.ascontiguousarray(part.data.transpose(0, 2, 3, 1)) for part in (train, test))
    return Raw(images, train.labels, (test_images, test.labels), 255, tuple(map(str, range(10))))


def _whole(make: Callable, folder: Path, name: str):
    """The dataset, or RuntimeError if a file is missing or altered; InputError if one is not what its checksum says."""
    try:
        return make()
    except RuntimeError:
        raise
    except Exception as error:
        raise InputError(f"data.{name}: {folder}: is damaged ({error.__class__.__name__})") from None
