"""A user's own npz prepared: exact pixels, splits, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest

from tamnas.config.images import DataParams
from tests.helpers import archives
from tests.helpers.preparing import SPLITS, pairs, prepared, refused, union


def require_equal(splits, expected) -> None:
    for split, (x, y) in expected.items():
        np.testing.assert_array_equal(splits[split][0], x)
        np.testing.assert_array_equal(splits[split][1], y)


pytestmark = pytest.mark.usefixtures("downloads")


class TestNpz:
    @pytest.fixture
    def path(self, tmp_path) -> Path:
        return tmp_path / "own.npz"

    @pytest.fixture
    def data(self, path) -> DataParams:
        return DataParams(source="npz", path=str(path), size=8, classes=3, validation=12)

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

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda y: y[:, None], "a column"),
            (lambda y: y.astype(np.float32), "whole floats"),
            (lambda y: np.eye(3)[y], "whole floats and one-hot"),
            (lambda y: np.eye(3, dtype=bool)[y], "one-hot"),
            (lambda y: y[:, None].astype(np.uint8), "a column"),
        ],
    )
    @pytest.mark.parametrize("key", ["y_train", "y_test"])
    def test_labels_as_keras_has_them(self, data, path, out, tmp_path, change, said, key):
        arrays = archives.npz(path)
        _, plain = prepared(data, out)
        archives.npz(path, **{key: change(arrays[key])})
        card, splits = prepared(data, tmp_path / "again" / "set.npz")
        require_equal(splits, plain)
        assert card["notes"] == [f"{key}: labels as {said}, taken as class numbers"]

    @pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int32, np.float32, np.float64])
    @pytest.mark.parametrize("key", ["x_train", "x_test"])
    def test_whole_numbers_of_any_type(self, data, path, out, tmp_path, dtype, key):
        arrays = archives.npz(path)
        _, plain = prepared(data, out)
        archives.npz(path, **{key: arrays[key].astype(dtype)})
        card, splits = prepared(data, tmp_path / "again" / "set.npz")
        require_equal(splits, plain)
        assert card["notes"] == [f"{key}: {np.dtype(dtype)} of whole numbers from 0 to 255, taken as 8 bits"]

    @pytest.mark.parametrize(("dtype", "value"), [(np.int64, 256), (np.uint16, 65_535), (np.int16, -1)])
    def test_whole_numbers_out_of_range(self, data, path, out, dtype, value):
        images = archives.npz(path)["x_train"].astype(dtype)
        images[0, 0, 0, 0] = value
        archives.npz(path, x_train=images)
        refused(data, out, f"{path}: x_train: {np.dtype(dtype)} values from", "allowed: whole numbers from 0 to 255")

    @pytest.mark.parametrize("names", [("x_val", "y_val"), ("x_valid", "y_valid"), ("x_validation", "y_validation")])
    @pytest.mark.parametrize("test", [True, False])
    def test_own_validation_split(self, data, path, out, names, test):
        own = archives.random_images(20, 8, 3, seed=9)
        arrays = archives.npz(path, test=test, **dict(zip(names, own, strict=True)))
        data = data.model_copy(update={"validation": None, "test": None if test else 9})
        card, splits = prepared(data, out)
        require_equal(splits, {"validation": own})
        assert card["notes"] == ["the source has a validation split of its own, of 20 images"]
        drawn = ("train",) if test else ("train", "test")
        assert union(splits, *drawn) == pairs(arrays["x_train"], arrays["y_train"])

    def test_own_validation_split_makes_a_number_needless(self, data, path, out):
        own = archives.random_images(20, 8, 3, seed=9)
        arrays = archives.npz(path, x_val=own.images, y_val=own.labels)
        card, splits = prepared(data, out)
        assert union(splits, "validation") < pairs(*own)
        assert union(splits, "train") == pairs(arrays["x_train"], arrays["y_train"])
        assert card["notes"] == [
            "data.set.validation is not needed: the source has a validation split of its own, of 20 images; "
            "12 of them are used"
        ]
        refused(data.model_copy(update={"validation": 500}), out.parent.parent / "no" / "set.npz", "validation is 500")

    def test_no_validation_split(self, data, path, out):
        archives.npz(path)
        refused(data.model_copy(update={"validation": None}), out, "data.set.validation: is missing")

    def test_medmnist(self, data, path, out):
        """As its files are: grey images of 28x28, labels (N, 1) uint8, three splits."""
        source = {}
        for seed, (split, count) in enumerate({"train": 60, "val": 21, "test": 30}.items()):
            images, labels = archives.random_images(count, 28, 3, seed)
            source |= {f"{split}_images": images[..., 0], f"{split}_labels": labels[:, None].astype(np.uint8)}
        np.savez_compressed(path, **source)
        data = data.model_copy(update={"size": 28, "validation": None})
        _, splits = prepared(data, out)
        for split, (x, y) in splits.items():
            short = "val" if split == "validation" else split
            np.testing.assert_array_equal(x, source[f"{short}_images"][..., None].repeat(3, axis=3))
            np.testing.assert_array_equal(y, source[f"{short}_labels"][:, 0])

    def test_other_arrays_are_named(self, data, path, out):
        archives.npz(path, X_val=np.zeros(3), notes=np.array(["by hand"]))
        assert prepared(data, out)[0]["notes"] == ["left out: the arrays X_val, notes"]

    def test_unknown_arrays_alone(self, data, path, out):
        np.savez(path, images=np.zeros((3, 8, 8)), labels=np.zeros(3))
        refused(data, out, "x_train with y_train or train_images with train_labels", "there: images, labels")

    @pytest.mark.parametrize("first", ["x_val", "x_train", "val_images"])
    def test_half_a_pair(self, data, path, out, first):
        arrays = archives.npz(path, y_train=None, y_test=None, x_train=None, x_test=None)
        np.savez(path, **arrays, **{first: np.zeros((9, 8, 8), np.uint8)})
        refused(data, out, f"has only one of {first} and")

    def test_a_split_twice(self, data, path, out):
        x, y = archives.random_images(20, 8, 3, seed=9)
        archives.npz(path, x_val=x, y_val=y, x_validation=x, y_validation=y)
        refused(data, out, "has both x_val and x_validation")

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
            (254.5, "from 0 to 254.5; allowed: 0 to 1, or whole numbers"),
            (256.0, "from 0 to 256; allowed: 0 to 1"),
        ],
    )
    @pytest.mark.parametrize("key", ["x_train", "x_test"])
    def test_bad_floats(self, data, path, out, key, value, words):
        images = np.zeros((30, 8, 8, 3), np.float32)
        images[0] = 1
        images[7, 3, 4, 1] = value
        archives.npz(path, **{key: images})
        refused(data, out, f"{path}: {key}", words)

    @pytest.mark.parametrize("dtype", [bool, complex, "U3", "M8[s]"])
    def test_bad_dtype(self, data, path, out, dtype):
        archives.npz(path, x_train=np.zeros((60, 8, 8, 3), int).astype(dtype))
        refused(data, out, f"{path}: x_train", f"dtype {np.dtype(dtype)}", "allowed: uint8")

    @pytest.mark.parametrize("shape", [(60, 3, 8, 8), (60, 8, 8, 4), (60, 192), (60,), (), (60, 8, 8, 3, 1)])
    def test_bad_shape(self, data, path, out, shape):
        archives.npz(path, x_train=np.zeros(shape, np.uint8))
        refused(data, out, f"{path}: x_train", f"shape {shape}", "allowed: (N, H, W)")

    @pytest.mark.parametrize(("key", "what"), [("x_train", "training images"), ("x_test", "test images")])
    def test_wrong_image_size(self, data, path, out, key, what):
        archives.npz(path, **{key: np.zeros((60 if key == "x_train" else 30, 8, 9, 3), np.uint8)})
        refused(data, out, f"data.set: {what}", "8x9 pixels", "data.set.size is 8", "allowed: square images")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda y: np.where(y == 2, 3, y), "labels from 0 to 3; allowed: 0 to 2"),
            (lambda y: y - 1, "labels from -1 to 1; allowed: 0 to 2"),
            (lambda y: y + 0.5, "labels of dtype float64"),
            (lambda y: np.where(y == 2, np.nan, y), "labels of dtype float64"),
            (lambda y: y == 1, "labels of dtype bool"),
            (lambda y: y.astype(str), "labels of dtype <U"),
            (lambda y: y[:-1], "images but labels of shape"),
            (lambda y: np.int64(0), "images but labels of shape ()"),
            (lambda y: y[:, None, None], "images but labels of shape"),
            (lambda y: np.where(y == 2, 1, y), "class 2 of 3 has no image"),
        ],
    )
    @pytest.mark.parametrize(("key", "what"), [("y_train", "training images"), ("y_test", "test images")])
    def test_bad_labels(self, data, path, out, change, words, key, what):
        arrays = archives.npz(path)
        archives.npz(path, **{key: change(arrays[key])})
        refused(data, out, f"data.set: {what}", words)

    @pytest.mark.parametrize(
        "table",
        [
            np.eye(4, dtype=np.int64)[:3],  # of another number of classes
            np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]]),  # several labels to an image
            np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
            np.array([[1, 0, 0], [0, 1, 0], [0, -1, 2]]),
        ],
    )
    def test_rows_that_are_not_one_hot(self, data, path, out, table):
        arrays = archives.npz(path)
        archives.npz(path, y_train=table[arrays["y_train"]])
        refused(data, out, f"{path}: y_train: labels of shape (60, {table.shape[1]})", "one-hot (N, 3)")

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
