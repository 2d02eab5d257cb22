"""Sources, preparation and the batch loader, on archives generated in their real formats."""

import hashlib
import os
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from PIL import Image

from tamnas.data import Split, batches, chunks, load_split
from tamnas.data.loader import augmented, steps_per_epoch
from tamnas.data.prepare import prepare
from tamnas.errors import InputError
from tamnas.fields import read_yaml, validated
from tamnas.plan import Augment, Data

PARAMS = Path(__file__).parents[1] / "params.yaml"
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def downloads(monkeypatch):
    """No network; the list of addresses that were asked for."""
    asked = []

    def refuse(request, *args, **kwargs):
        asked.append(request if isinstance(request, str) else request.full_url)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out" / "set.npz"


def prepared(data: Data, out: Path) -> tuple[dict, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """(card, split -> (images, labels)) of what `prepare` wrote."""
    card = prepare("set", data, out)
    with np.load(out, allow_pickle=False) as arrays:
        assert sorted(arrays.files) == sorted(
            ["format", "levels", *(f"{axis}_{split}" for split in SPLITS for axis in "xy")]
        )
        assert int(arrays["levels"]) == card["levels"]
        return card, {split: (arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in SPLITS}


def refused(data: Data, out: Path, *words: str) -> None:
    """`prepare` raises one line that holds all `words`, and writes nothing, not even a folder."""
    with pytest.raises(InputError) as caught:
        prepare("set", data, out)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    assert not out.parent.exists()


def pairs(images: np.ndarray, labels: np.ndarray) -> Counter:
    """(image, label) with their counts: equal for equal sets in any order."""
    return Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def union(splits, *names: str) -> Counter:
    return sum((pairs(*splits[name]) for name in names), Counter())


class TestDigits:
    @pytest.fixture
    def data(self) -> Data:
        return validated(Data, read_yaml(PARAMS)["data"]["digits"], "params.yaml")

    def test_default_split(self, data, out):
        card, splits = prepared(data, out)
        assert {split: len(y) for split, (_, y) in splits.items()} == {"train": 1257, "validation": 180, "test": 360}
        assert card["levels"] == 16
        for x, y in splits.values():
            assert x.dtype == np.uint8
            assert x.shape[1:] == (8, 8, 3)
            assert (x == x[..., :1]).all()
            assert y.dtype == np.int64
            assert x.max() == 16

    def test_splits_are_a_partition_of_the_source(self, data, out):
        from sklearn.datasets import load_digits

        _, splits = prepared(data, out)
        source = load_digits()
        images = np.repeat(source.images[..., None], 3, axis=3)
        assert (images == images.astype(np.uint8)).all()
        assert union(splits, *SPLITS) == pairs(images.astype(np.uint8), source.target)

    def test_stratified(self, data, out):
        card, splits = prepared(data, out)
        counts = {split: np.bincount(y, minlength=10) for split, (_, y) in splits.items()}
        total = sum(counts.values())
        for split, count in counts.items():
            assert np.abs(count - total * count.sum() / total.sum()).max() <= 1.5
            assert card["splits"][split]["per_class"] == count.tolist()

    def test_same_seed_same_bytes(self, data, out, tmp_path):
        again = tmp_path / "again" / "set.npz"
        assert prepare("set", data, out) == prepare("set", data, again)
        assert out.read_bytes() == again.read_bytes()
        assert [path.name for path in out.parent.iterdir()] == ["set.npz"]

    def test_other_seed_other_split(self, data, out, tmp_path):
        _, splits = prepared(data, out)
        _, others = prepared(data.model_copy(update={"split_seed": 1}), tmp_path / "other" / "set.npz")
        for split in SPLITS:
            assert union(splits, split) != union(others, split)
        assert union(splits, *SPLITS) == union(others, *SPLITS)

    def test_card(self, data, out):
        card, splits = prepared(data, out)
        assert card["format"] == 1
        assert (card["dataset"], card["source"], card["size"]) == ("set", "digits", 8)
        assert card["classes"] == [str(digit) for digit in range(10)]
        assert card["selection_saw_test"] is False
        for split, (x, y) in splits.items():
            assert card["splits"][split]["images"] == len(y)
            assert card["splits"][split]["sha256"] == hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()

    def test_merged_validation(self, data, out, tmp_path):
        _, splits = prepared(data, out)
        merged = data.model_copy(update={"merge_validation": True})
        card, both = prepared(merged, tmp_path / "merged" / "set.npz")
        assert card["selection_saw_test"] is True
        assert union(both, "train") == union(splits, "train", "validation")
        for split in ("validation", "test"):
            np.testing.assert_array_equal(both[split][0], splits["test"][0])

    def test_fewer_training_images(self, data, out, tmp_path):
        _, splits = prepared(data, out)
        _, fewer = prepared(data.model_copy(update={"train": 200}), tmp_path / "fewer" / "set.npz")
        assert len(fewer["train"][1]) == 200
        assert union(fewer, "train") <= union(splits, "train")
        assert union(fewer, "validation", "test") == union(splits, "validation", "test")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"size": 32}, ("8x8 pixels", "data.set.size is 32")),
            ({"classes": 9}, ("data.set.classes is 9", "the source has 10")),
            ({"test": 1788}, ("data.set.test is 1788", "10 to 1787")),
            ({"validation": 1428}, ("data.set.validation is 1428", "10 to 1427")),
            ({"validation": 9}, ("data.set.validation is 9", "10 to 1427")),
            ({"train": 1258}, ("data.set.train is 1258", "1257 images left")),
        ],
    )
    def test_refused(self, data, out, change, words):
        refused(data.model_copy(update=change), out, *words)

    def test_refusal_leaves_an_earlier_file_alone(self, data, out):
        prepare("set", data, out)
        before = out.read_bytes()
        with pytest.raises(InputError):
            prepare("set", data.model_copy(update={"size": 32}), out)
        assert out.read_bytes() == before
        assert [path.name for path in out.parent.iterdir()] == ["set.npz"]


class TestCifar10:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return tmp_path / "raw"

    @pytest.fixture
    def data(self, folder) -> Data:
        return Data(source="cifar10", path=str(folder), validation=20)

    @pytest.mark.parametrize("packed", [False, True])
    def test_exact(self, data, folder, out, monkeypatch, downloads, packed):
        train, test = archives.cifar10(folder, monkeypatch, packed)
        card, splits = prepared(data, out)
        assert union(splits, "train", "validation") == pairs(*train)
        assert len(splits["validation"][1]) == 20
        np.testing.assert_array_equal(splits["test"][0], test.images)
        np.testing.assert_array_equal(splits["test"][1], test.labels)
        assert card["levels"] == 255
        assert card["classes"] == archives.CIFAR10_NAMES
        assert downloads == []

    def test_half_unpacked_archive_is_not_used(self, data, folder, out, monkeypatch):
        train, _ = archives.cifar10(folder, monkeypatch, packed=True)
        (folder / "cifar-10-batches-py").mkdir()
        (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cut short")
        _, splits = prepared(data, out)
        assert union(splits, "train", "validation") == pairs(*train)

    def test_fewer_test_images_come_from_the_test_split(self, data, folder, out, monkeypatch):
        train, test = archives.cifar10(folder, monkeypatch)
        _, splits = prepared(data.model_copy(update={"test": 30}), out)
        assert union(splits, "test") < pairs(*test)
        assert np.bincount(splits["test"][1]).tolist() == [3] * 10
        assert union(splits, "train", "validation") == pairs(*train)

    def test_missing_without_network(self, data, folder, out, downloads):
        refused(data, out, "data.set", str(folder), "URLError", "cifar-10-python.tar.gz", "put")
        assert downloads

    def test_a_packed_archive_is_left_as_it_is(self, data, folder, out, monkeypatch):
        archives.cifar10(folder, monkeypatch, packed=True)
        before = (folder / "cifar-10-python.tar.gz").read_bytes()
        folder.chmod(0o555)
        prepare("set", data, out)
        assert [path.name for path in folder.iterdir()] == ["cifar-10-python.tar.gz"]
        assert (folder / "cifar-10-python.tar.gz").read_bytes() == before

    @pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
    def test_damaged_batch(self, data, folder, out, monkeypatch, file):
        archives.cifar10(folder, monkeypatch)
        archives.damage(folder / "cifar-10-batches-py" / file)
        refused(data, out, str(folder), "no intact cifar10", "cifar-10-python.tar.gz")

    def test_damaged_archive(self, data, folder, out, monkeypatch):
        archives.cifar10(folder, monkeypatch, packed=True)
        archives.damage(folder / "cifar-10-python.tar.gz")
        refused(data, out, str(folder), "no intact cifar10")
        assert not (folder / "cifar-10-batches-py").exists()

    def test_unverified_pickle_is_never_run(self, data, folder, out, monkeypatch, tmp_path):
        archives.cifar10(folder, monkeypatch)
        trap = tmp_path / "trap"
        (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(f"cos\nmkdir\n(S'{trap}'\ntR.".encode())
        refused(data, out, "no intact cifar10")
        assert not trap.exists()

    def test_wrong_classes(self, data, folder, out, monkeypatch):
        archives.cifar10(folder, monkeypatch)
        refused(data.model_copy(update={"classes": 2}), out, "data.set.classes is 2", "10", "airplane")


class TestSvhn:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return tmp_path / "raw"

    @pytest.fixture
    def data(self, folder) -> Data:
        return Data(source="svhn", path=str(folder), validation=20)

    def test_exact(self, data, folder, out, monkeypatch, downloads):
        train, test = archives.svhn(folder, monkeypatch)
        card, splits = prepared(data, out)
        assert union(splits, "train", "validation") == pairs(*train)
        np.testing.assert_array_equal(splits["test"][0], test.images)
        np.testing.assert_array_equal(splits["test"][1], test.labels)
        assert card["classes"] == [str(digit) for digit in range(10)]
        assert downloads == []

    def test_missing_without_network(self, data, folder, out, downloads):
        refused(data, out, "data.set", str(folder), "URLError", "put train_32x32.mat (", " and test_32x32.mat (")
        assert downloads

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_damaged(self, data, folder, out, monkeypatch, split):
        archives.svhn(folder, monkeypatch)
        archives.damage(folder / f"{split}_32x32.mat")
        refused(data, out, str(folder), "no intact svhn", f"put {split}_32x32.mat (")

    def test_missing_test_file(self, data, folder, out, monkeypatch):
        archives.svhn(folder, monkeypatch)
        (folder / "test_32x32.mat").unlink()
        refused(data, out, "no intact svhn", "test_32x32.mat")

    def test_damaged_in_spite_of_its_checksum(self, data, folder, out, monkeypatch):
        from torchvision.datasets import SVHN

        archives.svhn(folder, monkeypatch)
        file = folder / "train_32x32.mat"
        file.write_bytes(b"not a MATLAB file")
        files = SVHN.split_list | {"train": ["", file.name, archives.md5(file)]}
        monkeypatch.setattr(SVHN, "split_list", files)
        refused(data, out, str(folder), "is damaged")


class TestNpz:
    @pytest.fixture
    def path(self, tmp_path) -> Path:
        return tmp_path / "own.npz"

    @pytest.fixture
    def data(self, path) -> Data:
        return Data(source="npz", path=str(path), size=8, classes=3, validation=12)

    def test_uint8(self, data, path, out):
        arrays = archives.npz(path)
        card, splits = prepared(data, out)
        assert union(splits, "train", "validation") == pairs(arrays["x_train"], arrays["y_train"])
        np.testing.assert_array_equal(splits["test"][0], arrays["x_test"])
        assert card["levels"] == 255
        assert card["classes"] == ["0", "1", "2"]
        assert card["splits"]["validation"]["per_class"] == [4, 4, 4]

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_are_rounded_to_8_bits(self, data, path, out, dtype):
        arrays = archives.npz(path)
        near = arrays["x_test"] + np.random.default_rng(0).uniform(-0.3, 0.3, arrays["x_test"].shape)
        archives.npz(path, x_test=(near.clip(0, 255) / 255).astype(dtype))
        _, splits = prepared(data, out)
        np.testing.assert_array_equal(splits["test"][0], arrays["x_test"])

    @pytest.mark.parametrize("shape", [(60, 8, 8), (60, 8, 8, 1)])
    def test_greyscale(self, data, path, out, shape):
        grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        labels = np.arange(60) % 3
        archives.npz(path, x_train=grey, y_train=labels)
        _, splits = prepared(data, out)
        expected = np.stack([grey.reshape(60, 8, 8)] * 3, axis=3)
        assert union(splits, "train", "validation") == pairs(expected, labels)

    def test_test_split_drawn_from_training_images(self, data, path, out):
        arrays = archives.npz(path, test=False)
        _, splits = prepared(data.model_copy(update={"test": 9}), out)
        assert [len(splits[split][1]) for split in SPLITS] == [39, 12, 9]
        assert union(splits, *SPLITS) == pairs(arrays["x_train"], arrays["y_train"])

    def test_labels_of_any_integer_type(self, data, path, out):
        arrays = archives.npz(path)
        archives.npz(path, y_train=arrays["y_train"].astype(np.uint8), y_test=arrays["y_test"].astype(np.int16))
        _, splits = prepared(data, out)
        assert splits["test"][1].dtype == np.int64
        np.testing.assert_array_equal(splits["test"][1], arrays["y_test"])

    def test_class_names(self, data, path, out):
        archives.npz(path, classes=np.array(["cat", "dog", "eel"]))
        assert prepared(data, out)[0]["classes"] == ["cat", "dog", "eel"]

    def test_pickles_elsewhere_in_the_file_are_not_read(self, data, path, out):
        archives.npz(path, notes=np.array([{"by": "hand"}], dtype=object))
        prepared(data, out)

    def test_missing_file(self, data, path, out):
        refused(data, out, "data.set", str(path), "FileNotFoundError")

    def test_folder_instead_of_file(self, data, path, out):
        path.mkdir()
        refused(data, out, str(path), "IsADirectoryError")

    def test_plain_npy(self, data, path, out):
        with path.open("wb") as file:
            np.save(file, np.zeros((6, 8, 8), np.uint8))
        refused(data, out, str(path), "cannot be read as npz")

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_truncated(self, data, path, out, share):
        archives.npz(path)
        os.truncate(path, int(path.stat().st_size * share))
        refused(data, out, str(path), "cannot be read as npz")

    def test_damaged(self, data, path, out):
        archives.npz(path)
        whole = path.read_bytes()
        start = whole.index(b"x_train.npy") + 40
        for position in range(start, start + 400, 10):
            blob = bytearray(whole)
            blob[position] ^= 0xFF
            path.write_bytes(blob)
            refused(data, out, str(path), "cannot be read as npz")

    @pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test", "classes"])
    def test_pickled_objects(self, data, path, out, key):
        archives.npz(path, **{key: np.array([{"a": 1}, None], dtype=object)})
        refused(data, out, str(path), "without pickle")

    @pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
    def test_missing_array(self, data, path, out, key):
        archives.npz(path, **{key: None})
        refused(data, out, str(path), key)

    def test_no_test_split(self, data, path, out):
        archives.npz(path, test=False)
        refused(data, out, "data.set.test: is missing")

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (np.nan, "NaN"),
            (np.inf, "infinite"),
            (-0.1, "from -0.1 to 1; allowed: 0 to 1"),
            (1.01, "from 0 to 1.01; allowed: 0 to 1"),
            (255.0, "from 0 to 255; allowed: 0 to 1"),
        ],
    )
    @pytest.mark.parametrize("key", ["x_train", "x_test"])
    def test_bad_floats(self, data, path, out, key, value, words):
        images = np.zeros((30, 8, 8, 3), np.float32)
        images[0] = 1
        images[7, 3, 4, 1] = value
        archives.npz(path, **{key: images})
        refused(data, out, f"{path}: {key}", words)

    @pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int8, bool, complex, "U3"])
    def test_bad_dtype(self, data, path, out, dtype):
        archives.npz(path, x_train=np.zeros((60, 8, 8, 3)).astype(dtype))
        refused(data, out, f"{path}: x_train", f"dtype {np.dtype(dtype)}", "allowed: uint8")

    @pytest.mark.parametrize("shape", [(60, 3, 8, 8), (60, 8, 8, 4), (60, 192), (60,), (), (60, 8, 8, 3, 1)])
    def test_bad_shape(self, data, path, out, shape):
        archives.npz(path, x_train=np.zeros(shape, np.uint8))
        refused(data, out, f"{path}: x_train", f"shape {shape}", "allowed: (N, H, W)")

    @pytest.mark.parametrize(("key", "what"), [("x_train", "training images"), ("x_test", "test images")])
    def test_wrong_image_size(self, data, path, out, key, what):
        archives.npz(path, **{key: np.zeros((30, 8, 9, 3), np.uint8)})
        refused(data, out, f"data.set: {what}", "8x9 pixels", "data.set.size is 8")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda y: np.where(y == 2, 3, y), "labels from 0 to 3; allowed: 0 to 2"),
            (lambda y: y - 1, "labels from -1 to 1; allowed: 0 to 2"),
            (lambda y: y.astype(np.float64), "labels of dtype float64"),
            (lambda y: y == 1, "labels of dtype bool"),
            (lambda y: y[:-1], "images but labels of shape"),
            (lambda y: np.eye(3, dtype=np.int64)[y], "images but labels of shape"),
            (lambda y: np.int64(0), "images but labels of shape ()"),
            (lambda y: np.where(y == 2, 1, y), "class 2 of 3 has no image"),
        ],
    )
    @pytest.mark.parametrize(("key", "what"), [("y_train", "training images"), ("y_test", "test images")])
    def test_bad_labels(self, data, path, out, change, words, key, what):
        arrays = archives.npz(path)
        archives.npz(path, **{key: change(arrays[key])})
        refused(data, out, f"data.set: {what}", words)

    def test_no_images(self, data, path, out):
        archives.npz(path, x_train=np.zeros((0, 8, 8, 3), np.uint8), y_train=np.zeros(0, np.int64))
        refused(data, out, "training images", "class 0 of 3 has no image")

    def test_class_too_rare_for_a_split(self, data, path, out):
        labels = np.array([2, 2, *[0, 1] * 29])  # of 2 in 60, a stratified draw of 12 takes none
        archives.npz(path, y_train=labels)
        refused(data, out, "class 2 has no image in the validation split of 12")

    def test_class_with_one_image(self, data, path, out):
        archives.npz(path, y_train=np.array([2, *[0, 1] * 29, 0]))
        refused(data, out, "data.set.validation: class 2 has 1 images left", "needed: 2")

    def test_classes_mismatch(self, data, path, out):
        archives.npz(path)
        refused(data.model_copy(update={"classes": 4}), out, "class 3 of 4 has no image")
        archives.npz(path, classes=np.array(["cat", "dog"]))
        refused(data, out, "data.set.classes is 3; the source has 2: cat, dog")

    @pytest.mark.parametrize("names", [np.array("cat"), np.array([["a", "b", "c"]]), np.array([0.0, 1.0, 2.0])])
    def test_bad_class_names(self, data, path, out, names):
        archives.npz(path, classes=names)
        refused(data, out, f"{path}: classes", f"shape {names.shape}")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"validation": 58}, "data.set.validation is 58; allowed: 3 to 57"),
            ({"validation": 2}, "data.set.validation is 2; allowed: 3 to 57"),
            ({"test": 31}, "data.set.test is 31; allowed: 3 to 27"),
            ({"train": 49}, "data.set.train is 49; allowed: 3 to 45"),
        ],
    )
    def test_counts(self, data, path, out, change, words):
        archives.npz(path)
        refused(data.model_copy(update=change), out, words)

    def test_largest_counts(self, data, path, out):
        archives.npz(path)
        _, splits = prepared(data.model_copy(update={"validation": 57, "test": 27}), out)
        assert [len(splits[split][1]) for split in SPLITS] == [3, 57, 27]


class TestImageFolder:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return tmp_path / "pictures"

    @pytest.fixture
    def data(self, folder) -> Data:
        return Data(source="imagefolder", path=str(folder), size=8, classes=3, validation=6, test=9)

    def test_class_folders(self, data, folder, out):
        source = archives.image_folder(folder, 10)
        card, splits = prepared(data, out)
        assert union(splits, *SPLITS) == pairs(*source)
        assert card["classes"] == ["a", "b", "c"]
        assert card["splits"]["test"]["per_class"] == [3, 3, 3]

    def test_train_and_test_folders(self, data, folder, out):
        train = archives.image_folder(folder / "train", 10)
        archives.image_folder(folder / "test", 4)
        Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "test" / "b" / "0004.png")
        _, splits = prepared(data.model_copy(update={"test": None}), out)
        assert union(splits, "train", "validation") == pairs(*train)
        x, y = splits["test"]
        np.testing.assert_array_equal(y, np.repeat([0, 1, 2], 4))
        assert (x[4] == [1, 2, 3]).all()

    def test_other_files_and_subfolders(self, data, folder, out):
        source = archives.image_folder(folder, 10)
        (folder / "README.txt").write_text("pictures")
        (folder / "a" / "notes.txt").write_text("of a")
        (folder / "a" / "more").mkdir()
        (folder / "a" / "0000.png").rename(folder / "a" / "more" / "0000.PNG")
        _, splits = prepared(data, out)
        assert union(splits, *SPLITS) == pairs(*source)

    def test_centre_square_is_resized(self, data, folder, out):
        archives.image_folder(folder, 10)
        wide = np.zeros((16, 32, 3), np.uint8)
        wide[:, 8:16], wide[:, 16:24] = (10, 200, 90), (240, 30, 60)  # left and right half of the square
        Image.fromarray(wide).save(folder / "a" / "0000.png")
        Image.fromarray(wide.transpose(1, 0, 2)).save(folder / "a" / "0001.png")
        _, splits = prepared(data, out)
        everything = np.concatenate([splits[split][0] for split in SPLITS]).astype(int)
        for images in (everything, everything.transpose(0, 2, 1, 3)):
            # one column blurred by what is cropped off, one by the other half, two between
            left, right = (
                np.abs(images[:, :, place] - colour).max((1, 2)) < 25
                for place, colour in ((1, (10, 200, 90)), (6, (240, 30, 60)))
            )
            assert (left & right).sum() == 1

    def test_modes(self, data, folder, out):
        source = archives.image_folder(folder, 10).images.copy()
        opaque = Image.fromarray(source[0]).convert("RGBA")
        opaque.putalpha(Image.linear_gradient("L").resize((8, 8)))
        opaque.save(folder / "a" / "0000.png")
        grey = source[1][..., 0]
        Image.fromarray(grey).save(folder / "a" / "0001.png")
        source[1] = grey[..., None]
        palette = np.random.default_rng(1).integers(0, 256, (4, 3), dtype=np.uint8)
        indices = np.arange(64, dtype=np.uint8).reshape(8, 8) % 4
        indexed = Image.fromarray(indices).convert("P")
        indexed.putpalette(palette.tobytes())
        indexed.save(folder / "a" / "0002.png")
        source[2] = palette[indices]
        bilevel = indices > 1
        Image.fromarray(bilevel).save(folder / "a" / "0003.png")
        source[3] = 255 * bilevel[..., None]
        modes = [Image.open(folder / "a" / f"000{index}.png").mode for index in range(4)]
        assert modes == ["RGBA", "L", "P", "1"]
        _, splits = prepared(data, out)
        assert union(splits, *SPLITS) == pairs(source, np.repeat([0, 1, 2], 10))

    def test_sixteen_bits(self, data, folder, out):
        archives.image_folder(folder, 10)
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(folder / "b" / "deep.png")
        refused(data, out, str(folder / "b" / "deep.png"), "mode I;16", "allowed: 8 bits")

    def test_missing_folder(self, data, folder, out):
        refused(data, out, "data.set.path", str(folder), "is not a folder")

    def test_empty_folder(self, data, folder, out):
        folder.mkdir()
        refused(data, out, "data.set.path", str(folder), "any class folder")

    def test_text_files_only(self, data, folder, out):
        for name in "abc":
            (folder / name).mkdir(parents=True)
            (folder / name / "image.txt").write_text("no image")
        refused(data, out, "data.set.path", "a, b, c", ".png")

    def test_empty_class(self, data, folder, out):
        archives.image_folder(folder, 10)
        (folder / "dust").mkdir()
        refused(data, out, "data.set.path", "dust", ".png")

    @pytest.mark.parametrize(
        "blob", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(50), b"P6\n8 8\n99999999\n"]
    )
    def test_no_image_inside(self, data, folder, out, blob):
        archives.image_folder(folder, 10)
        path = folder / "b" / "odd.png"
        path.write_bytes(blob)
        refused(data, out, str(path), "is not a readable image")

    def test_truncated_image(self, data, folder, out):
        archives.image_folder(folder, 10)
        path = folder / "b" / "0010.png"
        os.truncate(path, path.stat().st_size - 60)
        refused(data, out, str(path), "is not a readable image")

    @pytest.mark.parametrize(
        ("width", "height", "words"),
        [(8_001, 8_000, "8001x8000 pixels; at most 64,000,000"), (60_000, 60_000, "DecompressionBombError")],
    )
    def test_decompression_bomb(self, data, folder, out, width, height, words):
        archives.image_folder(folder, 10)
        archives.png_header(folder / "c" / "bomb.png", width, height)
        refused(data, out, str(folder / "c" / "bomb.png"), words)

    @pytest.mark.parametrize("kind", ["file", "class"])
    def test_link_out_of_the_folder(self, data, folder, out, tmp_path, kind):
        archives.image_folder(folder, 10)
        outside = tmp_path / "private"
        archives.image_folder(outside, 1)
        if kind == "file":
            link = folder / "a" / "link.png"
            link.symlink_to(outside / "a" / "0000.png")
        else:
            link = folder / "d"
            link.symlink_to(outside / "a", target_is_directory=True)
            data = data.model_copy(update={"classes": 4})
        refused(data, out, str(link), "link out of the folder")

    def test_link_to_another_class(self, data, folder, out):
        archives.image_folder(folder, 10)
        (folder / "a" / "all").symlink_to(folder, target_is_directory=True)
        refused(data, out, str(folder / "a" / "all"), "link out of the folder of its class")

    def test_link_within_a_class(self, data, folder, out):
        archives.image_folder(folder, 10)
        (folder / "a" / "again.png").symlink_to("0000.png")
        card, _ = prepared(data, out)
        assert sum(card["splits"][split]["per_class"][0] for split in SPLITS) == 11

    @pytest.mark.parametrize("kind", ["broken", "loop", "pipe"])
    def test_no_plain_file(self, data, folder, out, kind):
        archives.image_folder(folder, 10)
        path = folder / "a" / "odd.png"
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("nowhere.png" if kind == "broken" else "odd.png")
        refused(data, out, str(path), "no plain file")

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_class_in_one_part_only(self, data, folder, out, part):
        archives.image_folder(folder / "train", 10)
        archives.image_folder(folder / "test", 4)
        archives.image_folder(folder / part, 1, classes=("zebra",))
        refused(data.model_copy(update={"classes": 4}), out, str(folder), "'zebra'", "only one of train/ and test/")

    def test_classes_mismatch(self, data, folder, out):
        archives.image_folder(folder, 10)
        refused(data.model_copy(update={"classes": 2}), out, "data.set.classes is 2; the source has 3: a, b, c")

    def test_train_folder_alone_is_no_dataset(self, data, folder, out):
        archives.image_folder(folder / "train", 10)
        refused(data, out, "data.set.classes is 3; the source has 1: train")


class TestLoadSplit:
    @pytest.fixture
    def path(self, tmp_path, out) -> Path:
        archives.npz(tmp_path / "own.npz")
        data = Data(source="npz", path=str(tmp_path / "own.npz"), size=8, classes=3, validation=12)
        prepare("set", data, out)
        return out

    @pytest.mark.parametrize("name", SPLITS)
    def test_reads_only_its_own_split(self, path, name):
        with np.load(path) as arrays:
            images, labels, levels = arrays[f"x_{name}"], arrays[f"y_{name}"], arrays["levels"]
        np.savez(path, **{f"x_{name}": images, f"y_{name}": labels, "levels": levels, "format": 1})
        split = load_split(path, name)
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        assert split.labels.dtype == torch.int64
        np.testing.assert_array_equal(split.images.numpy(), images.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(split.labels.numpy(), labels)
        assert (len(split), split.size, split.levels) == (len(labels), 8, 255)
        for other in set(SPLITS) - {name}:
            with pytest.raises(InputError, match=f"no prepared {other} split"):
                load_split(path, other)

    @pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "folder", "plain npy", "pickled"])
    def test_unreadable(self, path, kind):
        if kind == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.unlink()
        if kind == "empty":
            path.touch()
        if kind == "folder":
            path.mkdir()
        if kind == "plain npy":
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
        if kind == "pickled":
            np.savez(path, x_train=np.array([None]), y_train=np.zeros(1), levels=255)
        with pytest.raises(InputError) as caught:
            load_split(path, "train")
        text = str(caught.value)
        assert text.startswith(f"{path}: no prepared train split (")
        assert text.endswith("run the prepare stage")
        assert "\n" not in text


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, size: int = 6, levels: int = 255) -> Split:
    """Image i has label i, and random pixels."""
    images = torch.randint(0, levels + 1, (count, 3, size, size), generator=generator(9), dtype=torch.uint8)
    return Split(images, torch.arange(count), levels)


PLAIN = Augment()


class TestBatches:
    @pytest.mark.parametrize(("batch_size", "sizes"), [(10, [10, 10, 10]), (32, [32]), (37, [37]), (1000, [37])])
    def test_each_image_once_and_the_rest_dropped(self, batch_size, sizes):
        split = numbered(37)
        labels = [y for _, y in batches(split, batch_size, PLAIN, generator())]
        assert [len(y) for y in labels] == sizes
        assert len(set(torch.cat(labels).tolist())) == sum(sizes)
        assert steps_per_epoch(split, batch_size) == len(sizes)

    def test_all_images_in_random_order(self):
        order = torch.cat([y for _, y in batches(numbered(200), 20, PLAIN, generator())])
        assert sorted(order.tolist()) == list(range(200))
        assert (order == torch.arange(200)).sum() < 10
        assert (order.diff() == 1).sum() < 10

    @pytest.mark.parametrize("levels", [16, 255])
    def test_values_are_exactly_raw_over_levels(self, levels):
        split = numbered(64, levels=levels)
        before = split.images.clone()
        for x, y in batches(split, 16, PLAIN, generator()):
            assert x.dtype == torch.float32
            expected = split.images[y].numpy().astype(np.float32) / np.float32(levels)
            np.testing.assert_array_equal(x.numpy(), expected)
            assert x.min() == 0
            assert x.max() == 1
        assert torch.equal(split.images, before)

    def test_same_generator_same_batches(self):
        split, augment = numbered(50), Augment(pad=2, flip=True)
        first, second, other = (list(batches(split, 8, augment, generator(seed))) for seed in (4, 4, 5))
        assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(first, second, strict=True))
        assert not any(torch.equal(y, v) for (_, y), (_, v) in zip(first, other, strict=True))

    def test_next_epoch_differs(self):
        split, draws = numbered(50), generator()
        first, second = (torch.cat([y for _, y in batches(split, 10, PLAIN, draws)]) for _ in range(2))
        assert not torch.equal(first, second)

    def test_global_random_state_is_neither_read_nor_moved(self):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        list(batches(numbered(20), 5, Augment(pad=1, flip=True), generator()))
        assert torch.equal(torch.get_rng_state(), before)

    def test_images_keep_their_labels_when_augmented(self):
        images = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(100, 3, 6, 6)
        split = Split(images, torch.arange(100), 255)
        for x, y in batches(split, 25, Augment(pad=2, flip=True), generator()):
            assert x.shape == (25, 3, 6, 6)
            assert torch.equal((x.amax((1, 2, 3)) * 255).round().long(), y)  # the border is 0

    def test_chunks_are_all_images_in_order(self):
        split = numbered(23)
        parts = list(chunks(split, 10))
        assert [len(y) for _, y in parts] == [10, 10, 3]
        x, y = (torch.cat(column) for column in zip(*parts, strict=True))
        assert torch.equal(y, split.labels)
        assert torch.equal(x, split.images.float() / 255)


def slow_augmented(images: np.ndarray, pad: int, rows, columns, flips) -> np.ndarray:
    """Pad, crop and flip image by image; `rows`, `columns`: where each crop starts."""
    results = []
    for image, row, column, flip in zip(images, rows, columns, flips, strict=True):
        channels, height, width = image.shape
        canvas = np.zeros((channels, height + 2 * pad, width + 2 * pad), image.dtype)
        canvas[:, pad : pad + height, pad : pad + width] = image
        crop = canvas[:, row : row + height, column : column + width]
        results.append(crop[:, :, ::-1] if flip else crop)
    return np.stack(results)


class TestAugmented:
    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize("pad", [0, 1, 4])
    def test_against_a_loop(self, pad, flip):
        images = torch.randint(1, 256, (40, 3, 5, 7), generator=generator(1), dtype=torch.uint8)
        before = images.clone()
        result = augmented(images, Augment(pad=pad, flip=flip), generator(2))
        draws = generator(2)
        rows, columns = torch.randint(0, 2 * pad + 1, (2, 40), generator=draws) if pad else torch.zeros(2, 40).long()
        flips = torch.rand(40, generator=draws) < 0.5 if flip else torch.zeros(40).bool()
        expected = slow_augmented(images.numpy(), pad, rows.tolist(), columns.tolist(), flips.tolist())
        np.testing.assert_array_equal(result.numpy(), expected)
        assert result.dtype == torch.uint8
        assert result.is_contiguous()
        assert torch.equal(images, before)

    def test_nothing_to_do(self):
        images = numbered(10).images
        assert torch.equal(augmented(images, PLAIN, generator()), images)

    def test_offsets_cover_the_square_evenly(self):
        pad, count = 2, 5000
        images = torch.zeros((count, 3, 5, 5), dtype=torch.uint8)
        images[:, :, 2, 2] = 200
        result = augmented(images, Augment(pad=pad), generator())
        places = result[:, 0].flatten(1).argmax(1)  # the centre ends in each of the 5x5 places
        counts = torch.bincount(places, minlength=25)
        assert (result.flatten(2).amax(2) == 200).all()
        assert ((counts - count / 25).abs() < 5 * (count / 25) ** 0.5).all()

    def test_half_are_flipped(self):
        images = torch.zeros((4000, 3, 4, 4), dtype=torch.uint8)
        images[..., 0] = 1
        result = augmented(images, Augment(flip=True), generator())
        kept, flipped = ((result[..., column] == 1).all((1, 2)) for column in (0, 3))
        assert (kept ^ flipped).all()
        assert abs(flipped.sum().item() - 2000) < 5 * 1000**0.5
