"""Folders of pictures prepared: which files, which classes, exact pixels, and what is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tamnas.config.images import DataParams
from tamnas.data.folders import read_folder
from tamnas.data.prepare import prepare
from tamnas.data.sources import watch
from tamnas.errors import InputError
from tests.helpers import archives
from tests.helpers.preparing import SPLITS, pairs, prepared, refused, union

pytestmark = pytest.mark.usefixtures("downloads")


class TestImageFolder:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return tmp_path / "pictures"

    @pytest.fixture
    def data(self, folder) -> DataParams:
        return DataParams(source="imagefolder", path=str(folder), size=8, classes=3, validation=6, test=9)

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

    @pytest.mark.parametrize(
        "names", [("train", "val"), ("train", "valid"), ("Training", "validation"), ("TRAIN", "dev")]
    )
    def test_own_validation_folder(self, data, folder, out, names):
        """As many classes as splits: nothing but the names tells them apart."""
        train = archives.image_folder(folder / names[0], 10, classes=("cat", "dog"))
        own = archives.image_folder(folder / names[1], 4, classes=("cat", "dog"), seed=8)
        data = data.model_copy(update={"classes": 2, "validation": None, "test": 6})
        card, splits = prepared(data, out)
        assert card["classes"] == ["cat", "dog"]
        assert card["notes"] == ["the source has a validation split of its own, of 8 images"]
        assert union(splits, "train", "test") == pairs(*train)
        np.testing.assert_array_equal(splits["validation"][0], own.images)
        np.testing.assert_array_equal(splits["validation"][1], own.labels)

    def test_three_folders(self, data, folder, out):
        parts = {split: archives.image_folder(folder / split, 4, seed=n) for n, split in enumerate(SPLITS)}
        _, splits = prepared(data.model_copy(update={"validation": None, "test": None}), out)
        assert {split: pairs(*splits[split]) for split in SPLITS} == {split: pairs(*parts[split]) for split in SPLITS}

    def test_validation_folder_without_test_images(self, data, folder, out):
        archives.image_folder(folder / "train", 10)
        archives.image_folder(folder / "val", 10)
        refused(data.model_copy(update={"test": None, "validation": None}), out, "data.set.test: is missing")

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (("val", "test"), "has val/ and test/ but no train/"),
            (("train", "val", "valid"), "val/ and valid/ are both the validation split"),
        ],
    )
    def test_splits_that_are_not_clear(self, data, folder, out, names, words):
        for name in names:
            archives.image_folder(folder / name, 10)
        refused(data, out, "data.set.path", words)

    def test_what_lies_beside_the_splits_is_named(self, data, folder, out):
        train, test = archives.image_folder(folder / "train", 10), archives.image_folder(folder / "test", 4, seed=8)
        archives.image_folder(folder / "unlabelled", 2)
        (folder / "README.txt").write_text("pictures")
        card, splits = prepared(data.model_copy(update={"test": None}), out)
        assert union(splits, *SPLITS) == pairs(*train) + pairs(*test)
        assert card["notes"] == ["left out: 7 files outside the folders of the classes, such as README.txt"]

    def test_classes_called_like_one_split(self, data, folder, out):
        archives.image_folder(folder, 10, classes=("bus", "car", "train"))
        assert prepared(data, out)[0]["classes"] == ["bus", "car", "train"]

    def test_hidden_files_and_those_of_systems_are_left_out(self, data, folder, out):
        source = archives.image_folder(folder, 10)
        image = (folder / "a" / "0000.png").read_bytes()
        left_out = (
            ".hidden/a.png", "__MACOSX/a/._0000.png", "a/.ipynb_checkpoints/0000-checkpoint.png", "a/._0000.png",
            "a/@eaDir/0000.png/SYNOPHOTO_THUMB_M.png", "b/Thumbs.db", "b/desktop.ini", "c/more/.DS_Store", ".DS_Store",
        )  # fmt: skip
        for name in left_out:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(image)
        card, splits = prepared(data, out)
        assert union(splits, *SPLITS) == pairs(*source)
        assert card["classes"] == ["a", "b", "c"]
        assert card["notes"] == ["left out: 9 files hidden or of the operating system, such as .DS_Store"]

    def test_files_that_are_not_read_are_named(self, data, folder, out):
        source = archives.image_folder(folder, 10)
        for name in ("a/IMG_1.HEIC", "b/IMG_2.heic", "c/notes", "c/film.mp4", "loose.png"):
            (folder / name).write_bytes(b"text")
        card, splits = prepared(data, out)
        assert union(splits, *SPLITS) == pairs(*source)
        assert card["notes"] == [
            "left out: 2 files of suffix .heic, such as a/IMG_1.HEIC",
            "left out: 1 file of suffix .mp4, such as c/film.mp4",
            "left out: 1 file outside the folders of the classes, such as loose.png",
            "left out: 1 file without a suffix, such as c/notes",
        ]

    def test_a_class_without_a_file_that_is_read(self, data, folder, out):
        archives.image_folder(folder, 10)
        (folder / "d").mkdir()
        (folder / "d" / "IMG_1.HEIC").write_bytes(b"text")
        refused(data, out, "no image of d", "1 file of suffix .heic, such as d/IMG_1.HEIC")

    def test_all_damaged_images_are_named(self, data, folder, out):
        archives.image_folder(folder, 10)
        paths = [folder / name for name in ("a/0003.png", "b/0012.png", "c/0025.png")]
        for path in paths:
            path.write_bytes(b"text")
        refused(data, out, "data.set.path: 3 of 30 images cannot be used", *map(str, paths))

    @pytest.mark.parametrize("words", ["0 to 1", "once too often"])
    def test_masks_are_no_images(self, data, folder, out, words):
        archives.image_folder(folder, 10)
        for path in folder.rglob("*.png"):
            Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
        refused(data, out, words)

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
        modes = [Image.open(folder / "a" / f"000{index}.png").mode for index in range(1, 4)]
        assert modes == ["L", "P", "1"]
        card, splits = prepared(data, out)
        assert union(splits, *SPLITS) == pairs(source, np.repeat([0, 1, 2], 10))
        assert card["notes"] == []

    def test_sixteen_bits(self, data, folder, out):
        archives.image_folder(folder, 10)
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(folder / "b" / "deep.png")
        refused(data, out, str(folder / "b" / "deep.png"), "mode I;16", "allowed: 8 bits")

    def test_missing_folder(self, data, folder, out):
        refused(data, out, "data.set.path", str(folder), "is not a folder")

    def test_empty_folder(self, data, folder, out):
        folder.mkdir()
        refused(data, out, "data.set.path", str(folder), "holds no folder of a class")

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
        refused(data, out, str(link), "link out of the dataset's folder")

    def test_link_to_a_folder_above(self, data, folder, out):
        archives.image_folder(folder, 10)
        (folder / "a" / "all").symlink_to(folder, target_is_directory=True)
        refused(data, out, str(folder / "a" / "all"), "is a link to a folder that it lies in")

    def test_links_in_a_circle(self, data, folder, out):
        archives.image_folder(folder, 10)
        (folder / "a" / "b").symlink_to(folder / "b", target_is_directory=True)
        (folder / "b" / "a").symlink_to(folder / "a", target_is_directory=True)
        refused(data, out, "is a link to a folder that it lies in")

    def test_links_within_the_dataset(self, data, folder, out):
        """A class folder and an image elsewhere in the dataset's folder: the originals lie hidden, and one more."""
        source = archives.image_folder(folder, 10)
        (folder / "a").rename(folder / ".a")
        (folder / "a").symlink_to(".a", target_is_directory=True)
        (folder / "b" / "0010.png").rename(folder / ".0010.png")
        (folder / "b" / "0010.png").symlink_to(folder / ".0010.png")
        (folder / ".a" / ".hidden.png").write_bytes(b"")
        card, splits = prepared(data, out)
        assert union(splits, *SPLITS) == pairs(*source)
        left_out, links = card["notes"]
        assert left_out == "left out: 1 file hidden or of the operating system, such as .a/.hidden.png"
        assert links.startswith("folders that are links: 1, such as a; DVC sees what lies there, ")

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

    def test_links_into_the_cache_of_dvc(self, data, folder, out, tmp_path, monkeypatch):
        """As `dvc add` leaves a folder under `cache.type symlink`; without that repository they lead out."""
        from tests.helpers.tiny import dvc

        source = archives.image_folder(folder, 10)
        dvc(tmp_path, "init", "--no-scm", "--quiet")
        dvc(tmp_path, "config", "cache.type", "symlink")
        dvc(tmp_path, "config", "cache.dir", str(tmp_path / "elsewhere"))
        dvc(tmp_path, "add", "--quiet", str(folder))
        assert (folder / "a" / "0000.png").is_symlink()
        monkeypatch.chdir(tmp_path)
        card, splits = prepared(data, out)
        assert union(splits, *SPLITS) == pairs(*source)
        assert card["notes"] == []
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        dvc(tmp_path / "other", "init", "--no-scm", "--quiet")
        refused(data, tmp_path / "no" / "set.npz", str(folder / "a" / "0000.png"), "link out of the dataset's folder")

    def test_splits_linked_to_each_other_are_duplicates(self, data, folder, out):
        archives.image_folder(folder / "train", 10)
        (folder / "test").symlink_to("train", target_is_directory=True)
        (line,) = prepared(data.model_copy(update={"test": None, "validation": 3}), out)[0]["warnings"][:1]
        assert line.startswith("3 of 30 test images") or line.startswith("27 of 30 test images")

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

    def test_floating_point_pixels_are_refused(self, data, folder, out):
        archives.image_folder(folder, 10)
        deep = folder / "b" / "deep.tif"
        Image.fromarray(np.linspace(0, 1000, 64, dtype=np.float32).reshape(8, 8)).save(deep)
        refused(data, out, str(deep), "mode F", "allowed: 8 bits")

    def test_files_are_in_torchvisions_order(self, folder):
        archives.image_folder(folder, 3)
        for name in ("a/0", "a/0-more"):
            (folder / name).mkdir()
            shutil.copy(folder / "a" / "0001.png", folder / name / "x.png")
        paths, labels = read_folder(folder, "here")[0]["train"]
        assert list(zip(map(str, paths), labels.tolist(), strict=True)) == ImageFolder(folder).samples

    def test_what_was_kept_of_images_goes_when_they_are_prepared(self, data, folder, out, tmp_path):
        archives.image_folder(folder, 10)
        kept = tmp_path / "kept"
        with pytest.raises(InputError):
            prepare("set", data.model_copy(update={"classes": 4}), out, folder=kept)
        prepare("set", data, out, folder=kept)
        assert not kept.exists()


def test_a_watched_link_may_come_to_lead_elsewhere(folder):
    for name in ("one", "two"):
        Path(name).mkdir()
    Path("mine").symlink_to("one")
    data, link = DataParams(source="imagefolder", path="mine", validation=6, test=9), Path("source/set/files")
    watch("set", data, link)
    assert link.resolve() == Path("one").resolve()
    Path("mine").unlink()
    Path("mine").symlink_to("two")
    assert link.resolve() == Path("two").resolve()
