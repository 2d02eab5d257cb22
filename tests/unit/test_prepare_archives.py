"""Digits, CIFAR-10 and SVHN prepared, from archives generated in their real formats."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tamnas.config.fields import read_yaml, validated
from tamnas.config.images import DataParams
from tamnas.data.prepare import prepare
from tamnas.errors import InputError
from tests.helpers import archives
from tests.helpers.preparing import SPLITS, pairs, prepared, refused, union

PARAMS = Path(__file__).parents[2] / "params.yaml"
pytestmark = pytest.mark.usefixtures("downloads")


class TestDigits:
    @pytest.fixture
    def data(self) -> DataParams:
        return validated(DataParams, read_yaml(PARAMS)["data"]["digits"], "params.yaml")

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
        assert (card["notes"], card["warnings"]) == ([], [])
        assert card["classes"] == [str(digit) for digit in range(10)]
        assert card["selection_saw_test"] is False
        for split, (x, y) in splits.items():
            assert card["splits"][split]["images"] == len(y)
            assert card["splits"][split]["range"] == [0, 16]
            each = [hashlib.sha256(x[i].tobytes() + int(y[i]).to_bytes(8, "little")).digest() for i in range(len(y))]
            assert card["splits"][split]["sha256"] == hashlib.sha256(b"".join(sorted(each))).hexdigest()

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
    def data(self, folder) -> DataParams:
        return DataParams(source="cifar10", path=str(folder), validation=20)

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

    @pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-batches-py"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_path_names_what_lies_there(self, data, folder, out, monkeypatch, packed, name):
        train, _ = archives.cifar10(folder, monkeypatch, packed)
        _, splits = prepared(data.model_copy(update={"path": str(folder / name)}), out)
        assert union(splits, "train", "validation") == pairs(*train)

    def test_path_names_another_file(self, data, folder, out, monkeypatch, downloads):
        archives.cifar10(folder, monkeypatch)
        other = folder / "cifar10.zip"
        other.write_bytes(b"")
        words = f"data.set.path: {other}: is a file; allowed: the folder of cifar-10-python.tar.gz"
        refused(data.model_copy(update={"path": str(other)}), out, words)
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


class TestSvhn:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return tmp_path / "raw"

    @pytest.fixture
    def data(self, folder) -> DataParams:
        return DataParams(source="svhn", path=str(folder), validation=20)

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

    @pytest.mark.parametrize("name", ["train_32x32.mat", "test_32x32.mat"])
    def test_path_names_what_lies_there(self, data, folder, out, monkeypatch, name):
        train, _ = archives.svhn(folder, monkeypatch)
        _, splits = prepared(data.model_copy(update={"path": str(folder / name)}), out)
        assert union(splits, "train", "validation") == pairs(*train)

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
