"""Where checkpoints lie: keyed folders outside a stage's outputs, one lock per stage instance.

DVC deletes a stage's outputs before it runs again, so checkpoints have a folder of their own,
`$DVC_ROOT/.checkpoints/<stage>/<instance>/<key>`, or below `$TAMNAS_CHECKPOINTS`. The key hashes
what the results depend on: a changed parameter starts fresh, an unchanged one goes on. Nothing
here needs torch.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tamnas.files import FORMAT, write_text

log = logging.getLogger(__name__)
VARIABLE = "TAMNAS_CHECKPOINTS"


def checkpoints_root() -> Path:
    return Path(os.environ.get(VARIABLE) or Path(os.environ.get("DVC_ROOT", ".")) / ".checkpoints")


def seal(plain) -> str:
    """`plain` (JSON-able) as one line with format and checksum: what a checkpoint keeps beside tensors."""
    text = json.dumps(plain)
    return json.dumps({"format": FORMAT, "sha256": hashlib.sha256(text.encode()).hexdigest(), "plain": text})


def unseal(line: str):
    """The inverse of `seal`. Raises ValueError if the line was cut, altered or is of another format."""
    sealed = json.loads(line)
    if not isinstance(sealed, dict) or sealed.keys() != {"format", "sha256", "plain"}:
        raise ValueError("is no sealed record")
    if sealed["format"] != FORMAT:
        raise ValueError(f"format {sealed['format']!r}; this tamnas reads {FORMAT}")
    if not isinstance(sealed["plain"], str) or hashlib.sha256(sealed["plain"].encode()).hexdigest() != sealed["sha256"]:
        raise ValueError("its checksum does not match")
    return json.loads(sealed["plain"])


def kept(path: Path, compute: Callable[[], Any], what: str) -> Any:
    """What `compute` gives, JSON-able: from the file `path` where an earlier run left it there, else computed and left.

    `what` says in a warning what a damaged file costs.
    """
    if path.exists():
        try:
            return unseal(path.read_bytes().decode())
        except ValueError as error:
            log.warning("%s: is damaged (%s); %s again", path, error, what)
    plain = compute()
    write_text(path, seal(plain))
    return plain


def key_of(parts: Mapping) -> str:
    """A folder name for what results depend on: 16 hex digits of the parts' sha256."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def locked(stage: str, instance: str, root: Path | None = None) -> Iterator[None]:
    """Only one process at a time runs a stage instance; a second one says so and waits.

    The operating system lets go of the lock of a process that was killed.
    """
    folder = (root or checkpoints_root()) / stage
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{instance}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s %s: another process runs this stage; waiting for it to end", stage, instance)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def checkpoint_folder(stage: str, instance: str, key: str, root: Path | None = None) -> Iterator[Path]:
    """The checkpoint folder of a stage instance under a key, locked; what other keys left is removed."""
    with locked(stage, instance, root):
        folder = (root or checkpoints_root()) / stage / instance / key
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other) if other.is_dir() else other.unlink()
        yield folder
