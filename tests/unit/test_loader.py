"""The loader of prepared data: splits, batches, augmentation."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tamnas.config.images import AugmentParams, DataParams
from tamnas.data.loader import Split, augmented, batches, chunks, load_split, steps_per_epoch
from tamnas.data.prepare import prepare
from tamnas.errors import InputError
from tests.helpers import archives
from tests.helpers.preparing import SPLITS


class TestLoadSplit:
    @pytest.fixture
    def path(self, tmp_path, out) -> Path:
        archives.npz(tmp_path / "own.npz")
        data = DataParams(source="npz", path=str(tmp_path / "own.npz"), size=8, classes=3, validation=12)
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


PLAIN = AugmentParams()


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
        split, augment = numbered(50), AugmentParams(pad=2, flip=True)
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
        list(batches(numbered(20), 5, AugmentParams(pad=1, flip=True), generator()))
        assert torch.equal(torch.get_rng_state(), before)

    def test_images_keep_their_labels_when_augmented(self):
        images = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(100, 3, 6, 6)
        split = Split(images, torch.arange(100), 255)
        for x, y in batches(split, 25, AugmentParams(pad=2, flip=True), generator()):
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
        result = augmented(images, AugmentParams(pad=pad, flip=flip), generator(2))
        draws = generator(2)
        rows, columns = torch.randint(0, 2 * pad + 1, (2, 40), generator=draws) if pad else torch.zeros(2, 40).long()
        flips = torch.rand(40, generator=draws) < 0.5 if flip else torch.zeros(40).bool()
        expected = slow_augmented(images.numpy(), pad, rows.tolist(), columns.tolist(), flips.tolist())
        np.testing.assert_array_equal(result.numpy(), expected)
        assert result.dtype == torch.uint8
        assert result.is_contiguous()
        assert torch.equal(images, before)
