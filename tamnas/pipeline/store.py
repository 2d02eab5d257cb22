"""Where checkpoints lie, keyed folders outside a stage's outputs, and which locks keep processes apart.

DVC deletes a stage's outputs before it runs again, so checkpoints have a folder of their own,
`$DVC_ROOT/.checkpoints/<stage>/<instance>/<key>`, or below `$TAMNAS_CHECKPOINTS`. The key hashes
what the results depend on: a changed parameter starts fresh, an unchanged or restored one goes on. Nothing
here needs torch.

$DVC_ROOT is the main checkout in the workspaces of `dvc exp run --temp` and of the queue, too: experiments share
checkpoints. What two processes must not do at once is write one workspace's outputs of a stage, or one key's
checkpoints; each has its lock.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tamnas.files import FORMAT, repository, write_text

log = logging.getLogger(__name__)
VARIABLE = "TAMNAS_CHECKPOINTS"
LOCKS = Path(".locks")  # of the working directory
KEPT = 4
KEPT_BYTES = 2**30


def checkpoints_root() -> Path:
    return Path(os.environ.get(VARIABLE) or repository() / ".checkpoints")


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


def record_path(stage: str, instance: str) -> Path:
    """Where `tamnas.pipeline.progress.recorded` writes, beside the lock that the stage instance holds."""
    return LOCKS / stage / f"{instance}.json"


@contextmanager
def locked(stage: str, instance: str, root: Path = LOCKS, what: str = "this stage") -> Iterator[None]:
    """Only one process at a time runs a stage instance in the working directory; a second one says so and waits.

    The operating system lets go of the lock of a process that was killed.
    """
    path = root / stage / f"{instance}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s %s: another process runs %s; waiting for it to end", stage, instance, what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def checkpoint_folder(stage: str, instance: str, key: str, root: Path | None = None, apart: str = "") -> Iterator[Path]:
    """The checkpoint folder of a stage instance under a key; both are locked.

    Processes that differ in `apart` share the folder at one time: they name their files in it by what these depend on.
    Of the instance's other keys the last `KEPT` stay, or as many of them as take up `KEPT_BYTES`.
    """
    root = root or checkpoints_root()
    same = "the same with the same inputs, in another workspace perhaps"
    with locked(stage, instance), locked(f"{stage}/{instance}", key + apart, root, same):
        folder = root / stage / instance / key
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # the last one used
        _forget_old(folder)
        yield folder


def _forget_old(folder: Path) -> None:
    """Remove checkpoints beside `folder`, the longest unused first, until the rest is as few and as small as it may.

    One process at a time; what another one changes meanwhile is left to the next.
    """
    with suppress(Timeout, FileNotFoundError), FileLock(f"{folder.parent}.lock").acquire(timeout=0):
        others = [other for other in folder.parent.iterdir() if other != folder and other.is_dir()]
        files = bytes_ = 0
        for other in sorted(others, key=lambda other: other.stat().st_mtime, reverse=True):
            files, bytes_ = files + 1, bytes_ + sum(file.stat().st_size for file in other.rglob("*") if file.is_file())
            if files > KEPT or bytes_ > KEPT_BYTES:
                _remove(other)


def _remove(folder: Path) -> None:
    """Unless another process goes on with it."""
    locks = list(folder.parent.glob(f"{folder.name}*.lock"))
    with suppress(Timeout), ExitStack() as held:
        for path in locks:
            held.enter_context(FileLock(path).acquire(timeout=0))
        shutil.rmtree(folder)
        for path in locks:
            path.unlink()  # whoever waits for it finds it gone, and makes a new one
