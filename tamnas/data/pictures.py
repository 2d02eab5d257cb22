"""Image files as arrays: upright, on white, cropped to the centre square, at the size that is wanted.

Files are read by the workers, in parts that a run which was cut off finds again.
"""

import hashlib
import json
import logging
import os
import platform
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from tamnas.config.compute import ComputeParams
from tamnas.errors import InputError
from tamnas.files import replacing, shown
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.progress import Progress

log = logging.getLogger(__name__)

MAX_PIXELS = 64_000_000  # of one image; a larger one is taken for a decompression bomb
PART_BYTES, PART_FILES = 2**24, 500  # what a worker reads in one go, at most
NAMED = 10  # damaged images at most
# Whatever a file is called, its content must be one of these: Pillow would start other programs for some of the rest.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What is done to an image beside resizing it, or left undone: a column of `traits` each.
TRAITS = (
    "turned or mirrored as their EXIF orientation says",
    "with transparency put on white",
    "not square, cropped to the centre square",
    "smaller than the size asked for, enlarged",
    "of several frames, of which the first is used",
    "with a colour profile other than sRGB, which is not applied",
    "with damaged metadata, used as far as they can be read",
)


def read_pictures(
    files: Sequence[Path], size: int, where: str, compute: ComputeParams, folder: Path | None = None
) -> tuple[np.ndarray, list[str]]:
    """((N, size, size, 3) uint8, a line for each of TRAITS that images have), in the order of `files`.

    Finished parts are kept in `folder` and found there. Raises InputError that begins with `where` and names the images
    that cannot be read.
    """
    pixels = np.empty((len(files), size, size, 3), np.uint8)
    traits = np.zeros((len(files), len(TRAITS)), bool)
    problems: list[tuple[int, str]] = []
    parts = list(_parts(files))
    load = partial(_Reader, size, folder)
    with Progress("images", len(files)) as progress, Jobs(load, compute, progress=progress) as jobs:
        results = jobs.run_jobs(_read_part, [part for _, part in parts], lambda part: f"images from {shown(part[0])}")
        for index, (own_pixels, own_traits, own_problems) in results:
            start, part = parts[index]
            pixels[start : start + len(part)], traits[start : start + len(part)] = own_pixels, own_traits
            problems += [(start + place, problem) for place, problem in own_problems]
            progress.step(len(part))
    if problems:
        named = [problem for _, problem in sorted(problems)]
        more = f"; and {len(named) - NAMED:,} more" if len(named) > NAMED else ""
        count = f"{len(named):,} of {len(files):,} images cannot be used: " if len(named) > 1 else ""
        raise InputError(f"{where}: {count}{'; '.join(named[:NAMED])}{more}")
    counts = zip(traits.sum(axis=0).tolist(), TRAITS, strict=True)
    return pixels, [f"{count:,} of {len(files):,} images {trait}" for count, trait in counts if count]


def _parts(files: Sequence[Path]) -> Iterator[tuple[int, list[str]]]:
    """(index of the first, files) of neighbours that one job reads."""
    start, weight = 0, 0
    for index, file in enumerate(files):
        weight += file.stat().st_size
        if weight >= PART_BYTES or index + 1 - start == PART_FILES or index + 1 == len(files):
            yield start, [str(file) for file in files[start : index + 1]]
            start, weight = index + 1, 0


@dataclass(frozen=True)
class _Reader:
    """What a worker must know."""

    size: int
    folder: Path | None


def _read_part(files: list[str], reader: _Reader) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """(pixels, traits, (index, problem) of each file that cannot be read); a part without problems is kept.

    Raises InputError for a file that the driver has seen and this node has not.
    """
    try:
        seen = [(file, (stat := os.stat(file)).st_size, stat.st_mtime_ns) for file in files]
    except OSError as error:
        where = f"on {platform.node()} ({error.strerror}); on a cluster all nodes must share it"
        raise InputError(f"{shown(error.filename)}: cannot be read {where}") from None
    digest = hashlib.sha256(json.dumps([reader.size, seen]).encode()).hexdigest()
    kept = reader.folder / f"{digest}.npz" if reader.folder else None
    if kept and kept.exists():
        try:
            with np.load(kept, allow_pickle=False) as arrays:
                return arrays["pixels"], arrays["traits"], []
        except Exception as error:  # a damaged zip raises almost anything
            log.warning("%s: is damaged (%s); its images are read again", kept, error.__class__.__name__)
    pixels = np.zeros((len(files), reader.size, reader.size, 3), np.uint8)
    traits, problems = np.zeros((len(files), len(TRAITS)), bool), []
    for index, file in enumerate(files):
        try:
            pixels[index], traits[index] = read_picture(file, reader.size)
        except InputError as error:
            problems.append((index, str(error)))
    if kept and not problems:
        with replacing(kept) as stream:
            np.savez(stream, pixels=pixels, traits=traits)
    return pixels, traits, problems


def read_picture(path: str, size: int) -> tuple[np.ndarray, list[bool]]:
    """((size, size, 3) uint8, which of TRAITS the image has). Raises InputError."""
    try:
        with (
            warnings.catch_warnings(record=True, action="always") as caught,
            Image.open(path, formats=FORMATS) as image,
        ):
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(f"{shown(path)}: {width}x{height} pixels; at most {MAX_PIXELS:,} are read")
            if image.mode.startswith(("I", "F")):  # Pillow would clip these at 255
                raise InputError(f"{shown(path)}: pixels of mode {image.mode}; allowed: 8 bits a channel")
            frames = image.format != "MPO" and getattr(image, "is_animated", False)  # MPO: a phone's depth beside it
            image.draft(None, (2 * size, 2 * size))  # a JPEG is decoded no larger than resizing well needs
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
            upright = ImageOps.exif_transpose(image)
            transparent = upright.has_transparency_data
            if transparent:
                upright = upright.convert("RGBA")
                transparent = upright.getextrema()[3][0] < 255
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            square = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
            profile = not _is_srgb(image.info.get("icc_profile"))
            traits = [turned, transparent, width != height, min(width, height) < size, frames, profile, bool(caught)]
            return np.asarray(square), traits
    except InputError:
        raise
    except Exception as error:  # a damaged image raises almost anything
        raise InputError(f"{shown(path)}: is not a readable image ({error.__class__.__name__})") from None


def _is_srgb(profile: bytes | None) -> bool:
    return not profile or b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile
