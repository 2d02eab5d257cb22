"""Reading and writing files so that a kill, a full disk or a power cut leaves the old file or the new one, whole."""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

from tamnas.errors import InputError

FORMAT = 1  # version of every plan, JSON, npz, checkpoint and weights file that tamnas writes


def repository() -> Path:
    """The checkout that experiments belong to: the working directory, but in the workspaces of `dvc exp run --temp` and
    of the queue, which hold what git tracks and nothing else.
    """
    return Path(os.environ.get("DVC_ROOT", "."))


def located(path: str) -> Path:
    """Where a path of params.yaml leads, `~` and `$VARIABLES` filled in.

    A relative one leads into the working directory or, if nothing is there, into the repository.
    """
    expanded = Path(os.path.expandvars(os.path.expanduser(path)))
    return expanded if expanded.exists() else repository() / expanded


def shown(path: Path | str) -> str:
    """A path for a message of one line: quoted where a name holds a line end or another odd character."""
    return str(path) if str(path).isprintable() else repr(str(path))


_held: dict[Path, memoryview] = {}


def hold(contents: Mapping[Path, memoryview]) -> None:
    """From now on `opened` gives these contents, which came with the work, and of all other paths the files."""
    _held.clear()
    _held.update(contents)


def opened(path: Path) -> BinaryIO:
    """To read an input: what is held of it, or the file."""
    return io.BytesIO(_held[path]) if path in _held else path.open("rb")


def previous(path: Path) -> Path:
    """Where the file is kept that was there before."""
    return path.with_name(path.name + ".previous")


@contextmanager
def replacing(path: Path, keep: bool = False) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well; nothing is left of it otherwise.

    `keep` what was there before, as `previous`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{token_hex(4)}.tmp")  # others may write the same file
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a full disk may show only here
        if keep and path.exists():
            os.replace(path, previous(path))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, blob: bytes) -> None:
    with replacing(path) as file:
        file.write(blob)


def write_json(path: Path, plain) -> None:
    """Stable, readable JSON; replaces the file, never appends."""
    write_text(path, json.dumps(plain, indent=1) + "\n")


def csv_text(rows: Sequence[Mapping]) -> str:
    """One line per row, all with the same keys, which are the columns (no rows: no text). None is an empty cell."""
    import pandas as pd  # here: most commands write no CSV

    cells = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    # As objects: an integer stays one beside an empty cell or a fraction.
    return pd.DataFrame(cells, dtype=object).to_csv(index=False, na_rep="nan", lineterminator="\n") if rows else ""


def write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    write_text(path, csv_text(rows))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def read_csv(path: Path, needed: Collection[str]) -> list[dict]:
    """Rows of a file that `write_csv` wrote, with numbers as int or float, empty cells as None.

    Raises InputError if the file is missing or lacks a `needed` column or a cell.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            rows, columns = list(reader), set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__}); `dvc repro` makes it") from None
    for column in sorted({*needed} - columns):
        raise InputError(f"{path}: has no column {column!r}: another version wrote it; `dvc repro` makes it again")
    for number, row in enumerate(rows, 2):
        if "" in row or None in row.values():
            raise InputError(f"{path}: line {number} is cut short or too long; `dvc repro` makes it again")
    return [{key: _value(text) for key, text in row.items()} for row in rows]


def _value(text: str | None) -> str | int | float | None:
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_json(path: Path) -> dict:
    """A file that `write_json` wrote. Raises InputError if it is missing, no JSON or of another format."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__}); `dvc repro` makes it") from None
    require_format(path, plain.get("format") if isinstance(plain, dict) else None, "`dvc repro` makes it again")
    return plain


def require_format(path: Path | str, given: Any, otherwise: str) -> None:
    """Raises InputError unless `given` is the format that this tamnas reads; `otherwise` says what mends it."""
    known = type(given) is int  # and no bool, which is an int to isinstance
    if known and given == FORMAT:
        return
    if known and given > FORMAT:
        raise InputError(
            f"{path}: format {given} is of a newer tamnas, this one reads {FORMAT}: update it, or {otherwise}"
        )
    shown = "no format" if given is None else f"format {given!r:.80}"
    raise InputError(f"{path}: {shown}; this tamnas reads {FORMAT}: {otherwise}")


def remove(path: Path) -> None:
    """A file, a link, or a folder with all that is in it, if it is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """sha256 of a file, or of all files below a folder. Raises InputError if it is missing."""
    if not path.exists():
        raise InputError(f"{path}: is missing; `dvc repro` makes what a stage needs")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
