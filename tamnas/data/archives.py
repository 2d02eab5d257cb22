"""The archives of CIFAR-10 and SVHN: taken as they are from a folder, else downloaded to it.

No archive is read before its checksum was verified.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from tamnas.errors import InputError
from tamnas.files import located, shown

log = logging.getLogger(__name__)
PATIENCE = 60.0  # seconds that a server may be silent


@dataclass(frozen=True)
class Archive:
    """A file, its official address and its checksum."""

    file: str
    url: str
    md5: str


def home(name: str, data, names: Sequence[str]) -> Path:
    """The folder in which a dataset's archives lie; `path` may also name one of what lies there by `names`.

    Raises InputError if it is another file.
    """
    place = located(data.path or f"data/raw/{name}")
    if place.name in names:
        return place.parent
    if place.is_file():
        raise InputError(
            f"data.{name}.path: {shown(place)}: is a file; allowed: the folder of {' and '.join(names)}, or one of them"
        )
    return place


def require(name: str, data, folder: Path, archives: Sequence[Archive]) -> None:
    """All `archives` are in the folder and intact. Raises InputError that says what to put where."""
    from torchvision.datasets.utils import check_integrity

    missing = [archive for archive in archives if not check_integrity(folder / archive.file, archive.md5)]
    for place, archive in enumerate(missing):
        url = f"{data.url.rstrip('/')}/{archive.file}" if data.url else archive.url
        try:
            with _alone(folder, archive):
                if not check_integrity(folder / archive.file, archive.md5):
                    _download(url, folder, archive)
        # RuntimeError is torchvision's word for a wrong checksum, ValueError urllib's for an odd address
        except (OSError, HTTPException, RuntimeError, ValueError) as error:
            reason = "a wrong checksum" if type(error) is RuntimeError else error_text(error)
            wanted = " and ".join(f"{archive.file} ({archive.url}, md5 {archive.md5})" for archive in missing[place:])
            mirror = "" if data.url else f", or set data.{name}.url to a mirror"
            raise InputError(
                f"data.{name}: {folder} holds no intact {data.source} archive and {url} gave "
                f"{reason}; put {wanted} there yourself{mirror}"
            ) from None


def _download(url: str, folder: Path, archive: Archive) -> None:
    """Under another name until it is whole: what lies in the folder already stays if the download fails."""
    from torchvision.datasets.utils import download_url

    part = folder / f"{archive.file}.part"
    log.info("downloading %s to %s", url, folder)
    try:
        with _patience(PATIENCE):
            download_url(url, folder, part.name, archive.md5)
        os.replace(part, folder / archive.file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path, archive: Archive) -> Iterator[None]:
    """Experiments that run at once download an archive once."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{archive.file}.lock") as lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink()


def error_text(error: Exception) -> str:
    """Kind and message in one line."""
    return " ".join(f"{error.__class__.__name__}: {error}".split())


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Sockets opened inside give up after so many silent seconds; torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
