"""A folder of images by class: which files belong to which class and split, and which are left out."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from tamnas.errors import InputError
from tamnas.files import shown

# Folders of these names, `train` and another, are splits and no classes.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
# What operating systems and file servers leave, besides names that begin with a dot.
SYSTEM = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information")
HIDDEN, OUTSIDE = "hidden or of the operating system", "outside the folders of the classes"

Files = dict[str, tuple[list[Path], np.ndarray]]


def read_folder(root: Path, where: str, needed: str = "train") -> tuple[Files, tuple[str, ...], list[str]]:
    """(split -> (files, labels), names of the classes, a line for each kind of file left out).

    `root` has a folder for each class, which is the split `needed`, or folders of splits with those inside. Raises
    InputError that begins with `where`, if there is no `needed` split too.
    """
    if not root.is_dir():
        raise InputError(f"{where}: is not a folder")
    listing = _Listing(root, where, needed)
    try:
        folders = listing.splits()
        by_class = {split: listing.classes(folder) for split, folder in folders.items()}
    except OSError as error:
        raise InputError(f"{where}: {shown(error.filename or '')} cannot be read ({error.strerror})") from None
    classes = tuple(by_class[needed])
    for split, own in by_class.items():
        if odd := sorted(set(classes) ^ set(own)):
            pair = f"{folders[needed].name}/ and {folders[split].name}/"
            raise InputError(f"{where}: class {odd[0]!r} is in only one of {pair}")
    splits = {}
    for split, own in by_class.items():
        counts = [len(own[name]) for name in classes]
        files = [file for name in classes for file in own[name]]
        splits[split] = files, np.repeat(np.arange(len(classes)), counts)
    return splits, classes, listing.notes([file for files, _ in splits.values() for file in files])


class _Listing:
    """What lies below a root, sorted, with a record of what is passed over and why."""

    def __init__(self, root: Path, where: str, needed: str):
        self.root, self.where, self.needed = root, where, needed
        self.left_out: dict[Path, str] = {}  # each file, and why
        self.links: list[Path] = []  # that were followed

    def splits(self) -> dict[str, Path]:
        """The folder of each split there is; the root itself as the needed one where its folders are classes."""
        folders = [path for path in self._visible(self.root) if path.is_dir()]
        own = {split: [path for path in folders if path.name.lower() in names] for split, names in SPLITS.items()}
        named = {split: paths for split, paths in own.items() if paths}
        alone = self.needed == "test" and len(folders) == len(named) == 1  # nothing else is asked for
        if len(named) < 2 and not alone:
            return {self.needed: self.root}
        for split, paths in named.items():
            if len(paths) > 1:
                both = " and ".join(f"{path.name}/" for path in paths)
                raise InputError(f"{self.where}: {both} are both the {split} split; needed: one")
        if self.needed not in named:
            there = " and ".join(f"{paths[0].name}/" for paths in named.values())
            raise InputError(f"{self.where}: has {there} but no {self.needed}/")
        for path in self._visible(self.root):
            if [path] not in named.values():
                self._leave_out(path, OUTSIDE)
        return {split: self._inside(paths[0]) for split, paths in named.items()}

    def classes(self, folder: Path) -> dict[str, list[Path]]:
        """The images of each class, in the order of names."""
        entries = self._visible(folder)
        names = [path.name for path in entries if path.is_dir()]
        for path in entries:
            if not path.is_dir():
                self._leave_out(path, OUTSIDE)
        if not names:
            raise InputError(f"{self.where}: {shown(folder)} holds no folder of a class")
        by_class = {name: sorted(self._images(folder / name), key=_order) for name in names}
        if empty := [name for name, images in by_class.items() if not images]:
            raise InputError(
                f"{self.where}: {shown(folder)}: no image of {shown(', '.join(empty))}; read are {', '.join(SUFFIXES)}"
                + "".join(f"; {note}" for note in self.notes())
            )
        return by_class

    def notes(self, used: Sequence[Path] = ()) -> list[str]:
        """What was passed over, but what is among the files `used` through a link; and which folders are links."""
        known = {path.resolve() for path in used} if self.links else set()
        by_reason: dict[str, list[Path]] = {}
        for path, reason in self.left_out.items():
            real = path.resolve() if self.links else path
            if real not in known:
                by_reason.setdefault(reason, []).append(path)
            known.add(real)
        lines = [
            f"left out: {len(paths):,} {'file' if len(paths) == 1 else 'files'} {reason}, "
            f"such as {shown(paths[0].relative_to(self.root))}"
            for reason, paths in sorted(by_reason.items())
        ]
        if folders := [path for path in self.links if path.is_dir()]:
            lines.append(
                f"folders that are links: {len(folders):,}, such as {shown(folders[0].relative_to(self.root))}; DVC "
                "sees what lies there, but not that a link comes to lead elsewhere: `dvc repro --force prepare@NAME`"
            )
        return lines

    def _leave_out(self, path: Path, reason: str) -> None:
        files = [file for file in sorted(path.rglob("*")) if not file.is_dir()] if path.is_dir() else [path]
        self.left_out |= dict.fromkeys(files, reason)

    def _visible(self, folder: Path) -> list[Path]:
        visible = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.name.lower() in SYSTEM:
                self._leave_out(path, HIDDEN)
            else:
                visible.append(path)
        return visible

    def _images(self, folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
        """All below `folder`, also through links."""
        real = self._inside(folder).resolve()
        if real in above:
            raise InputError(f"{self.where}: {shown(folder)} is a link to a folder that it lies in")
        for path in self._visible(folder):
            if path.is_dir():
                yield from self._images(path, (*above, real))
            elif path.suffix.lower() not in SUFFIXES:
                self._leave_out(path, f"of suffix {path.suffix.lower()}" if path.suffix else "without a suffix")
            elif not self._inside(path).is_file():
                raise InputError(f"{self.where}: {shown(path)} is a broken link or no plain file")
            else:
                yield path

    def _inside(self, path: Path) -> Path:
        """`path`, if it is no link, or one within the root or into DVC's cache (`cache.type symlink`)."""
        if path.is_symlink():
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(self._home) and not (self._cache and real.is_relative_to(self._cache)):
                raise InputError(f"{self.where}: {shown(path)} is a link out of the dataset's folder")
            self.links.append(path)
        return path

    @cached_property
    def _home(self) -> Path:
        return self.root.resolve()

    @cached_property
    def _cache(self) -> Path | None:
        """The cache of the DVC repository that this runs in, if it does."""
        try:
            from dvc.repo import Repo

            return Path(Repo().cache.local.path).resolve()
        except Exception:  # no DVC here, no repository, or a broken one: no cache that links may lead into
            return None


def _order(path: Path) -> tuple[str, str]:
    """Folder by folder, as torchvision's ImageFolder has them."""
    return str(path.parent), path.name
