"""Image files read: upright, on white, large ones fast, damaged ones named, in parts that are found again."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tamnas.config.compute import ComputeParams
from tamnas.data import pictures
from tamnas.data.pictures import read_picture, read_pictures
from tamnas.errors import InputError
from tests.helpers import archives

INLINE = ComputeParams(engine="inline", workers=1)
# Where the corners of an upright image stand in the stored one: EXIF 2.3, 4.6.4, tag 0x0112.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[::-1],
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: x.transpose(1, 0, 2)[:, ::-1],
}


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray, **options) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    return str(path)


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def said(path: str, size: int = 8) -> list[str]:
    traits = read_picture(path, size)[1]
    return [trait for trait, has in zip(pictures.TRAITS, traits, strict=True) if has]


class TestOrientation:
    @pytest.mark.parametrize("value", STORED)
    @pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
    def test_exact(self, tmp_path, value, suffix):
        upright = smooth(16, 16)
        options = {"exif": oriented(value)} | ({"lossless": True} if suffix == "webp" else {})
        path = save(tmp_path / f"image.{suffix}", STORED[value](upright), **options)
        np.testing.assert_array_equal(read_picture(path, 16)[0], upright)
        assert any("orientation" in line for line in said(path, 16)) == (value != 1)

    @pytest.mark.parametrize("value", STORED)
    @pytest.mark.parametrize("kind", ["JPEG", "MPO"])
    @pytest.mark.parametrize("large", [False, True])
    def test_photos(self, tmp_path, value, kind, large):
        """Also where the JPEG is decoded at a reduced size, and in the two-image form of phones."""
        upright = smooth(*((640, 480) if large else (40, 30)))
        square = upright[80:560] if large else upright[5:35]
        options = {"format": kind, "exif": oriented(value), "quality": 98, "subsampling": 0}
        path = save(tmp_path / "image.jpg", STORED[value](upright), **options)
        expected = np.asarray(Image.fromarray(square).resize((24, 24), Image.Resampling.BICUBIC)).astype(int)
        found = read_picture(path, 24)[0]
        assert np.abs(found - expected).max() <= 12
        assert np.abs(found - expected).mean() < 2
        assert any("several frames" in line for line in said(path)) is False

    @pytest.mark.parametrize("value", [0, 9, 65_535])
    def test_no_orientation(self, tmp_path, value):
        path = save(tmp_path / "image.png", smooth(16, 16), exif=oriented(value))
        np.testing.assert_array_equal(read_picture(path, 16)[0], smooth(16, 16))
        assert said(path, 16) == []

    def test_damaged_metadata_are_said(self, tmp_path):
        exif = oriented(6).tobytes()
        path = save(tmp_path / "image.jpg", smooth(16, 16), exif=exif[:-8], quality=95)
        assert any("damaged metadata" in line for line in said(path, 16))


def transparent(mode: str, alpha: np.ndarray, rgb: np.ndarray) -> Image.Image:
    """An image of a mode in which some of `alpha` (H, W) is 0 and the rest 255."""
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(rgb).convert(mode[:-1])
        image.putalpha(Image.fromarray(alpha))
        return image
    if mode == "PA":
        return Image.fromarray(np.dstack([rgb, alpha])).convert("PA")
    marked = rgb.copy()
    marked[alpha == 0] = (1, 2, 3) if mode == "RGB" else 7
    return Image.fromarray(marked).convert(mode)


class TestTransparency:
    def test_art_in_the_alpha_channel(self, tmp_path):
        """Black ink on nothing: black on white, not all black."""
        alpha = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
        path = save(tmp_path / "image.png", np.dstack([np.zeros((8, 8, 3), np.uint8), alpha]))
        np.testing.assert_allclose(read_picture(path, 8)[0], (255 - alpha.astype(int))[..., None].repeat(3, 2), atol=1)
        assert said(path) == ["with transparency put on white"]

    @pytest.mark.parametrize("name", ["RGBA.png", "LA.png", "RGBA.webp", "RGBA.tif", "LA.tif", "RGBA.avif"])
    def test_alpha_channels(self, tmp_path, name):
        rgb, alpha = np.full((16, 16, 3), 90, np.uint8), np.zeros((16, 16), np.uint8)
        alpha[4:12] = 255
        path = tmp_path / name
        options = {".webp": {"lossless": True, "exact": True}, ".avif": {"quality": 100, "subsampling": "4:4:4"}}
        transparent(path.stem, alpha, rgb).save(path, **options.get(path.suffix, {}))
        expected = np.where(alpha[..., None] > 0, 90, 255).repeat(3, 2)
        np.testing.assert_allclose(read_picture(str(path), 16)[0], expected, atol=3 if path.suffix == ".avif" else 0)
        assert said(str(path), 16) == ["with transparency put on white"]

    @pytest.mark.parametrize("mode", ["RGB", "L", "1"])
    def test_a_transparent_colour(self, tmp_path, mode):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 2, (8, 8), dtype=np.uint8) * 255).convert(mode)
        path = tmp_path / "image.png"
        image.save(path, transparency=(0, 0, 0) if mode == "RGB" else 0)
        assert Image.open(path).mode == mode
        np.testing.assert_array_equal(read_picture(str(path), 8)[0], 255)

    @pytest.mark.parametrize("suffix", ["png", "gif"])
    @pytest.mark.parametrize("several", [False, True])
    def test_palettes(self, tmp_path, suffix, several):
        indices = np.arange(64, dtype=np.uint8).reshape(8, 8) % 4
        palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [90, 90, 90]], np.uint8)
        image = Image.fromarray(indices).convert("P")
        image.putpalette(palette.tobytes())
        path = tmp_path / f"image.{suffix}"
        several = several and suffix == "png"  # a GIF has one transparent colour
        image.save(path, transparency=bytes([255, 0, 255, 0]) if several else 1)
        expected = palette[indices]
        expected[(indices == 1) | (several & (indices == 3))] = 255
        np.testing.assert_array_equal(read_picture(str(path), 8)[0], expected)

    def test_opaque_alpha_changes_nothing(self, tmp_path):
        rgb = smooth(8, 8)
        path = save(tmp_path / "image.png", np.dstack([rgb, np.full((8, 8), 255, np.uint8)]))
        np.testing.assert_array_equal(read_picture(path, 8)[0], rgb)
        assert said(path) == []


class TestWhatIsSaid:
    def test_cropped_and_enlarged(self, tmp_path):
        path = save(tmp_path / "image.png", smooth(6, 10))
        assert said(path) == ["not square, cropped to the centre square", "smaller than the size asked for, enlarged"]

    @pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
    def test_first_frame(self, tmp_path, suffix):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
        options = {"lossless": True} if suffix == "webp" else {}
        path = tmp_path / f"image.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(read_picture(str(path), 8)[0], np.full((8, 8, 3), (250, 0, 0)))
        assert said(str(path)) == ["of several frames, of which the first is used"]

    def test_colour_profiles(self, tmp_path):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        assert said(save(tmp_path / "own.png", smooth(8, 8), icc_profile=profile)) == []
        other = profile.replace(b"sRGB", b"P3  ").replace("sRGB".encode("utf-16-be"), "P3  ".encode("utf-16-be"))
        path = save(tmp_path / "other.png", smooth(8, 8), icc_profile=other)
        assert said(path) == ["with a colour profile other than sRGB, which is not applied"]

    def test_counted(self, tmp_path):
        files = [Path(save(tmp_path / f"{n}.png", smooth(8, 8 + n % 3), exif=oriented(1 + n))) for n in range(6)]
        assert read_pictures(files, 8, "here", INLINE)[1] == [
            "5 of 6 images turned or mirrored as their EXIF orientation says",
            "4 of 6 images not square, cropped to the centre square",
        ]


class TestLarge:
    def test_a_jpeg_is_decoded_at_a_reduced_size(self, tmp_path, monkeypatch):
        """And looks as if it had been read whole: within 2 levels on average."""
        path = save(tmp_path / "image.jpg", smooth(1500, 2000), quality=90)
        decoded = []
        transpose = pictures.ImageOps.exif_transpose
        monkeypatch.setattr(pictures.ImageOps, "exif_transpose", lambda im: decoded.append(im.size) or transpose(im))
        fast = read_picture(path, 32)[0].astype(int)
        assert decoded == [(250, 188)]
        monkeypatch.setattr(Image.Image, "draft", lambda *_: None)
        monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *_: None)
        whole = read_picture(path, 32)[0]
        assert decoded[1] == (2000, 1500)
        assert np.abs(fast - whole).mean() < 2

    def test_small_photos_are_decoded_whole(self, tmp_path):
        image = smooth(64, 64)
        path = save(tmp_path / "image.jpg", image, quality=95)
        expected = Image.open(path).resize((32, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(read_picture(path, 32)[0], np.asarray(expected))

    def test_a_large_photo_cut_short_is_damaged(self, tmp_path):
        path = save(tmp_path / "image.jpg", smooth(1500, 2000), quality=90)
        os.truncate(path, os.path.getsize(path) * 3 // 4)
        with pytest.raises(InputError, match="not a readable image"):
            read_picture(path, 32)


class TestParts:
    @pytest.fixture
    def files(self, tmp_path, monkeypatch) -> list[Path]:
        monkeypatch.setattr(pictures, "PART_FILES", 4)
        return [Path(save(tmp_path / "in" / f"{n:02}.png", smooth(8, 8, n))) for n in range(14)]

    @pytest.fixture
    def reads(self, monkeypatch) -> list[str]:
        """Files that are decoded."""
        found, read = [], pictures.read_picture
        monkeypatch.setattr(pictures, "read_picture", lambda path, size: found.append(path) or read(path, size))
        return found

    def test_order_is_that_of_the_files(self, files):
        pixels, notes = read_pictures(files[::-1], 8, "here", INLINE)
        for n, image in enumerate(pixels[::-1]):
            np.testing.assert_array_equal(image, smooth(8, 8, n))
        assert notes == []

    def test_workers_give_the_same(self, files, tmp_path):
        workers = ComputeParams(engine="processes", workers=2)
        one, two = (read_pictures(files, 8, "here", how)[0] for how in (INLINE, workers))
        np.testing.assert_array_equal(one, two)

    def test_a_run_that_was_cut_off_goes_on(self, files, tmp_path, reads, monkeypatch):
        steps = itertools.count()

        def step(self, units):
            if next(steps) == 2:
                raise KeyboardInterrupt

        kept = tmp_path / "kept"
        with monkeypatch.context() as patch:
            patch.setattr(pictures.Progress, "step", step)
            with pytest.raises(KeyboardInterrupt):
                read_pictures(files, 8, "here", INLINE, kept)
        assert reads == [str(file) for file in files[:12]]
        reads.clear()
        pixels, _ = read_pictures(files, 8, "here", INLINE, kept)
        assert reads == [str(file) for file in files[12:]]
        np.testing.assert_array_equal(pixels, read_pictures(files, 8, "here", INLINE)[0])

    def test_a_file_that_a_worker_does_not_find_is_named(self, files, monkeypatch):
        """As where a node of a cluster lacks the folder."""
        monkeypatch.setattr(pictures, "_parts", lambda files: [(0, [str(file) for file in files])])
        files[3].unlink()
        with pytest.raises(InputError, match=rf"^{files[3]}: cannot be read on .* \(No such file or directory\); on a"):
            read_pictures(files, 8, "here", INLINE)

    def test_a_changed_file_or_size_is_read_again(self, files, tmp_path, reads):
        kept = tmp_path / "kept"
        read_pictures(files, 8, "here", INLINE, kept)
        save(files[5], smooth(8, 8, 99))
        reads.clear()
        pixels, _ = read_pictures(files, 8, "here", INLINE, kept)
        assert reads == [str(file) for file in files[4:8]]
        np.testing.assert_array_equal(pixels[5], smooth(8, 8, 99))
        reads.clear()
        read_pictures(files, 4, "here", INLINE, kept)
        assert len(reads) == 14

    def test_a_damaged_part_is_read_again(self, files, tmp_path, caplog):
        kept = tmp_path / "kept"
        whole = read_pictures(files, 8, "here", INLINE, kept)[0]
        damaged, missing, cut, _ = sorted(kept.iterdir())
        archives.damage(damaged)
        missing.unlink()
        os.truncate(cut, 30)
        np.testing.assert_array_equal(read_pictures(files, 8, "here", INLINE, kept)[0], whole)
        assert caplog.text.count("is damaged") == 2


class TestDamaged:
    @pytest.mark.parametrize("count", [2, 10, 13])
    def test_all_are_named_at_once(self, tmp_path, monkeypatch, count):
        monkeypatch.setattr(pictures, "PART_FILES", 4)
        files = [Path(save(tmp_path / f"{n:02}.png", smooth(8, 8, n))) for n in range(20)]
        for file in files[-count:]:
            file.write_text("text")
        with pytest.raises(InputError) as caught:
            read_pictures(files, 8, "data.set.path", INLINE)
        text = str(caught.value)
        assert text.startswith(
            f"data.set.path: {count} of 20 images cannot be used: {files[-count]}: is not a readable"
        )
        assert [str(file) in text for file in files] == [20 - count <= n < 30 - count for n in range(20)]
        assert text.endswith("; and 3 more") == (count == 13)

    def test_odd_names_stay_on_one_line(self, tmp_path):
        path = tmp_path / "two\nlines.png"
        path.write_text("text")
        with pytest.raises(InputError) as caught:
            read_pictures([path], 8, "data.set.path", INLINE)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_no_other_program_is_started(self, tmp_path, suffix):
        """Pillow hands EPS to Ghostscript, whatever the file is called."""
        eps = io.BytesIO()
        Image.new("RGB", (8, 8)).save(eps, "EPS")
        path = tmp_path / f"image.{suffix}"
        path.write_bytes(eps.getvalue())
        with pytest.raises(InputError, match="not a readable image"):
            read_picture(str(path), 8)

    def test_what_is_inside_counts(self, tmp_path):
        """Pictures from the web often have another name than content."""
        path = save(tmp_path / "image.jpg", smooth(8, 8), format="PNG")
        np.testing.assert_array_equal(read_picture(path, 8)[0], smooth(8, 8))


def test_a_part_with_a_damaged_image_is_not_kept(tmp_path, monkeypatch):
    """Else the next run would take it for whole, with a black image in it."""
    monkeypatch.setattr(pictures, "PART_FILES", 4)
    files = [Path(save(tmp_path / "in" / f"{n:02}.png", smooth(8, 8, n))) for n in range(14)]
    files[5].write_text("text")
    for _ in range(2):
        with pytest.raises(InputError, match=rf"^here: {files[5]}: is not a readable image"):
            read_pictures(files, 8, "here", INLINE, tmp_path / "kept")
