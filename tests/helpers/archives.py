"""Small archives in the on-disk formats that users have: CIFAR-10, SVHN, npz and image folders.

`cifar10` and `svhn` write the published layouts and tell torchvision the checksums of what they
wrote, and nothing else: reading, verifying and unpacking are the code paths of the real archives.
They return what a correct reader must give, derived from no reader.
"""

import hashlib
import io
import pickle
import struct
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Images(NamedTuple):
    images: np.ndarray  # (N, H, W, 3) uint8
    labels: np.ndarray  # (N,) int64


def random_images(count: int, size: int, classes: int, seed: int) -> Images:
    """Noise, so that every image is unlike the others; classes in turn, shuffled."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Images(images, rng.permutation(np.arange(count) % classes))


def cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool = False) -> tuple[Images, Images]:
    """cifar-10-batches-py/, or with `packed` cifar-10-python.tar.gz alone: 100 + 50 images."""
    from torchvision.datasets import CIFAR10

    train, test = random_images(100, 32, 10, seed=1), random_images(50, 32, 10, seed=2)
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for number in range(1, 6):
        part = slice(20 * (number - 1), 20 * number)
        _cifar10_batch(batches / f"data_batch_{number}", train.images[part], train.labels[part])
    _cifar10_batch(batches / "test_batch", *test)
    meta = {"num_cases_per_batch": 10000, "label_names": CIFAR10_NAMES, "num_vis": 3072}
    (batches / "batches.meta").write_bytes(_python2_pickle(meta))

    def listed(*names: str) -> list[list[str]]:
        return [[name, md5(batches / name)] for name in names]

    monkeypatch.setattr(CIFAR10, "train_list", listed(*(f"data_batch_{number}" for number in range(1, 6))))
    monkeypatch.setattr(CIFAR10, "test_list", listed("test_batch"))
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5(batches / "batches.meta")})
    if packed:
        archive = folder / "cifar-10-python.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(batches, batches.name)
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
        for file in batches.iterdir():
            file.unlink()
        batches.rmdir()
    return train, test


def _cifar10_batch(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)  # all red, all green, all blue
    entry = {
        "batch_label": f"{'testing' if path.name == 'test_batch' else 'training'} batch of {len(images)}",
        "labels": labels.tolist(),
        "data": np.ascontiguousarray(rows),
        "filenames": [f"image_{index}.png" for index in range(len(images))],
    }
    path.write_bytes(_python2_pickle(entry))


class _Python2Pickler(pickle._Pickler):
    """Text and bytes alike as Python 2's `str`, which is how the published batches hold keys, names and pixels."""

    def save_text(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        short = len(raw) < 256
        head = pickle.SHORT_BINSTRING + bytes([len(raw)]) if short else pickle.BINSTRING + struct.pack("<i", len(raw))
        self.write(head + raw)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {str: save_text, bytes: save_text}


def _python2_pickle(value) -> bytes:
    """Protocol 2, with the name that numpy's module had then."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def svhn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Images, Images]:
    """train_32x32.mat and test_32x32.mat, where the digit 0 has the label 10: 80 + 40 images."""
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": random_images(80, 32, 10, seed=3), "test": random_images(40, 32, 10, seed=4)}
    files = {}
    for split, (images, labels) in splits.items():
        path = folder / f"{split}_32x32.mat"
        numbers = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]  # (N, 1)
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": numbers}, do_compression=True)
        files[split] = [f"http://ufldl.stanford.edu/housenumbers/{path.name}", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", SVHN.split_list | files)
    return splits["train"], splits["test"]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def damage(path: Path) -> None:
    """Change one byte in the middle."""
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 0xFF
    path.write_bytes(blob)


def npz(path: Path, test: bool = True, **changes) -> dict[str, np.ndarray]:
    """60 + 30 uint8 images of 8x8 in 3 classes; `changes` replace or (None) remove arrays."""
    train, held = random_images(60, 8, 3, seed=5), random_images(30, 8, 3, seed=6)
    arrays = {"x_train": train.images, "y_train": train.labels}
    if test:
        arrays |= {"x_test": held.images, "y_test": held.labels}
    arrays = {key: array for key, array in (arrays | changes).items() if array is not None}
    np.savez_compressed(path, **arrays)
    return arrays


def image_folder(
    folder: Path, count: int, size: int = 8, classes: tuple[str, ...] = ("a", "b", "c"), seed: int = 7
) -> Images:
    """`count` PNG images for each class, in the order of classes and file names."""
    images = random_images(count * len(classes), size, len(classes), seed).images
    labels = np.repeat(np.arange(len(classes)), count)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / classes[label] / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return Images(images, labels)


def png_header(path: Path, width: int, height: int) -> None:
    """A PNG of that many pixels with next to no bytes, as decompression bombs are."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
