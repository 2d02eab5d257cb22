"""Where images come from: each source gives images and labels, checked only for being readable.

A source is one function here. A low room: parameters are checked against it, so it imports no parameters.
"""

import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tamnas.data.archives import Archive, error_text, home, require
from tamnas.data.arrays import read_npz
from tamnas.data.folders import read_folder
from tamnas.errors import InputError
from tamnas.files import located, shown, write_text

# (N, H, W, 3) uint8, or one image file each, which is read at the size that is asked for
Images = np.ndarray | Sequence[Path]


@dataclass(frozen=True)
class Raw:
    """Images with values in [0, levels] and labels (N,); `test` and `validation` where the source has them.

    `notes`: what of the source was left out or changed, a line each.
    """

    images: Images
    labels: np.ndarray
    test: tuple[Images, np.ndarray] | None
    levels: int
    class_names: tuple[str, ...]
    validation: tuple[Images, np.ndarray] | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Source:
    """`read` gives the raw arrays of the dataset with a name, or raises InputError; the rest says what it needs.

    `own_splits` are those beside training images that the source may have; others are drawn from these.
    """

    read: Callable[[str, Any], Raw]
    needs_path: bool = False
    downloads: bool = False
    own_splits: Sequence[str] = ("validation", "test")


SOURCES: dict[str, Source] = {}


def source(**needs: Any) -> Callable:
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


@source(own_splits=())
def digits(name: str, data: Any) -> Raw:
    """scikit-learn's 1,797 handwritten digits (UCI), 8x8, 17 grey levels, three equal channels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.repeat(bunch.images.astype(np.uint8)[..., None], 3, axis=3)
    return Raw(images, bunch.target.astype(np.int64), None, 16, tuple(map(str, bunch.target_names)))


@source(needs_path=True)
def npz(name: str, data: Any) -> Raw:
    """A file with arrays x_train, y_train and maybe x_val, y_val, x_test, y_test, or as MedMNIST calls them
    (`tamnas.data.arrays`), and classes (their names).

    x: (N, H, W, 3), (N, H, W, 1) or (N, H, W); uint8 or other whole numbers from 0 to 255, or floats in [0, 1], which
    are rounded to 8 bits. y: (N,), (N, 1) or one-hot.
    """
    path = located(data.path)
    splits, names, notes = read_npz(path, f"data.{name}: {shown(path)}", data.classes)
    return Raw(*splits["train"], splits.get("test"), 255, names, splits.get("validation"), notes)


@source(needs_path=True)
def imagefolder(name: str, data: Any) -> Raw:
    """A folder of one folder per class, or of `train/` and `val/`, `test/` or both with those inside."""
    root = located(data.path)
    splits, classes, notes = read_folder(root, f"data.{name}.path: {shown(root)}")
    return Raw(*splits["train"], splits.get("test"), 255, classes, splits.get("validation"), notes)


@source(downloads=True, own_splits=["test"])
def cifar10(name: str, data: Any) -> Raw:
    """torchvision's CIFAR-10: batches unpacked in `path`, else the archive there, else a download to it.

    The archive is unpacked into a temporary folder, since `path` may be read-only.
    """
    from torchvision.datasets import CIFAR10

    archive = Archive(CIFAR10.filename, CIFAR10.url, CIFAR10.tgz_md5)
    home_folder = home(name, data, [archive.file, CIFAR10.base_folder])
    try:
        return _cifar10_batches(home_folder, name)
    except RuntimeError:  # torchvision's word for missing or altered files
        require(name, data, home_folder, [archive])
    packed = home_folder / archive.file
    with tempfile.TemporaryDirectory() as folder:
        try:
            _unpack_cifar10(packed, Path(folder) / CIFAR10.base_folder)
            return _cifar10_batches(Path(folder), name)
        except (OSError, tarfile.TarError, RuntimeError) as error:
            raise InputError(f"data.{name}: {packed}: cannot be unpacked ({error_text(error)})") from None


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


@source(downloads=True, own_splits=["test"])
def svhn(name: str, data: Any) -> Raw:
    """torchvision's SVHN, cropped digits, without `extra`; the digit 0, which the files label 10, is class 0."""
    from torchvision.datasets import SVHN

    archives = [Archive(file, url, md5) for url, file, md5 in map(SVHN.split_list.get, ("train", "test"))]
    folder = home(name, data, [archive.file for archive in archives])
    require(name, data, folder, archives)
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
