"""Whatever the source: ranges, sizes, copies across splits and what the card says of them, by the example of an npz."""

from pathlib import Path

import numpy as np
import pytest

from tamnas.config.images import DataParams
from tamnas.data.prepare import averaged
from tests.helpers import archives
from tests.helpers.preparing import prepared, refused


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "own.npz"


@pytest.fixture
def data(path) -> DataParams:
    return DataParams(source="npz", path=str(path), size=8, classes=3, validation=12)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x // 255,  # uint8 after division by 255
        lambda x: (x / 255).astype(np.uint8),
        lambda x: (x / 255 / 255).astype(np.float32),
        lambda x: x.astype(int) // 255,
        lambda x: 100 + x // 9,  # 100 to 128
    ],
)
@pytest.mark.parametrize(("key", "what"), [("x_train", "training images"), ("x_test", "test images")])
def test_scaled_twice(data, path, out, change, key, what):
    archives.npz(path, **{key: change(archives.npz(path)[key])})
    refused(data, out, f"data.set: {what}: values from", "less than an eighth of 0 to 255", "once too often")


def test_an_eighth_of_the_range_is_enough(data, path, out):
    arrays = archives.npz(path)
    archives.npz(path, x_train=arrays["x_train"] // 7)  # 0 to 36
    card, _ = prepared(data, out)
    assert card["splits"]["train"]["range"] == [0, 36]
    assert card["splits"]["test"]["range"] == [0, 255]


@pytest.mark.parametrize(("side", "size"), [(32, 16), (28, 14), (12, 4)])
def test_a_smaller_size_is_the_mean_of_squares(data, path, out, side, size):
    arrays = {}
    for split, count in (("train", 60), ("test", 30)):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = archives.random_images(count, side, 3, seed=count)
    np.savez(path, **arrays)
    card, splits = prepared(data.model_copy(update={"size": size}), out)
    assert card["notes"] == [f"{side}x{side} pixels averaged to {size}x{size} (box filter)"]
    factor = side // size
    for image, expected in zip(splits["test"][0], arrays["x_test"], strict=True):
        for row, column in np.ndindex(size, size):
            square = expected[factor * row : factor * (row + 1), factor * column : factor * (column + 1)]
            mean = square.reshape(-1, 3).astype(float).mean(axis=0)
            np.testing.assert_array_equal(image[row, column], np.floor(mean + 0.5))


def test_means_are_rounded_half_up():
    images = np.array([[0, 1, 255, 255], [1, 0, 255, 254]], dtype=np.uint8)[None, :, :, None].repeat(3, axis=3)
    images = np.concatenate([images, images], axis=1)
    assert averaged(images, 2)[0, 0].tolist() == [[1, 1, 1], [255, 255, 255]]


@pytest.mark.parametrize(("side", "allowed"), [(12, "12, 6, 4"), (9, "9"), (7, "7")])
def test_no_whole_factor(data, path, out, side, allowed):
    archives.npz(path, x_train=np.zeros((60, side, side), np.uint8))
    refused(data, out, f"{side}x{side} pixels; data.set.size is 8; allowed: {allowed}")


def test_splits_of_different_sizes(data, path, out):
    archives.npz(path, x_train=archives.random_images(60, 16, 3, seed=1).images)
    refused(data, out, "images of 8 and 16 pixels a side")


def test_duplicates_across_splits_are_counted(data, path, out, caplog):
    arrays = archives.npz(path)
    own = archives.random_images(20, 8, 3, seed=9)
    x_val = own.images.copy()
    x_val[:3] = arrays["x_test"][:3]  # also with another label
    arrays["x_train"][:7] = arrays["x_test"][10:17]
    archives.npz(path, x_train=arrays["x_train"], x_val=x_val, y_val=own.labels)
    card, _ = prepared(data.model_copy(update={"validation": None}), out)
    assert card["warnings"] == [
        "7 of 30 test images are also among the training images, byte for byte: accuracies on them show memory.",
        "3 of 30 test images are also among the validation images, byte for byte: accuracies on them show memory.",
    ]
    for line in card["warnings"]:
        assert f"data.set: {line}" in caplog.text


def test_no_duplicates_within_a_split_nor_of_merged_ones(data, path, out):
    arrays = archives.npz(path)
    arrays["x_test"][1] = arrays["x_test"][0]
    archives.npz(path, x_test=arrays["x_test"])
    assert prepared(data.model_copy(update={"merge_validation": True}), out)[0]["warnings"] == []


def test_images_of_one_colour_are_counted(data, path, out):
    arrays = archives.npz(path)
    arrays["x_test"][0], arrays["x_train"][:2] = 0, (10, 20, 30)
    archives.npz(path, x_test=arrays["x_test"], x_train=arrays["x_train"])
    (line,) = [line for line in prepared(data, out)[0]["warnings"] if "colour" in line]
    assert line == "3 of 90 images are of one colour throughout."
