"""Checkpoints: safetensors with a JSON header, atomic, checked, keyed; nothing pickled.

`save` and `load` handle one file. A `Store` is the checkpoint folder of one stage instance,
`$DVC_ROOT/.checkpoints/<stage>/<instance>/<key>`: outside the stage's outputs, because DVC
deletes those before a stage runs again. The key hashes what the results depend on, so that a
changed parameter starts fresh and an unchanged one goes on.
"""

import hashlib
import json
import logging
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from tamnas.errors import InputError
from tamnas.fields import FORMAT

log = logging.getLogger(__name__)


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
    """Write atomically: a reader finds the old file or the new one, whole.

    `meta` must be JSON-able. The previous file is kept beside it as `<name>.previous`.
    """
    blob = pack(tensors, meta)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        os.replace(path, previous(path))
    os.replace(temporary, path)


def write_weights(path: Path, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
    """As `save`, for a stage's output: no previous version is kept beside it."""
    save(path, tensors, meta)
    previous(path).unlink(missing_ok=True)


def pack(tensors: Mapping[str, Tensor], meta: Mapping) -> bytes:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    payload = json.dumps(dict(meta), sort_keys=True)
    header = {"format": str(FORMAT), "meta": payload, "sha256": _digest(plain, payload)}
    return to_safetensors(plain, header)


def previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def load(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, meta) of a file that `save` wrote.

    Raises InputError for a missing, truncated, altered or unknown file.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__})") from None
    try:
        tensors = parse_safetensors(blob)
        header = json.loads(blob[8 : 8 + struct.unpack("<Q", blob[:8])[0]])["__metadata__"]
        version, payload, digest = header["format"], header["meta"], header["sha256"]
        meta = json.loads(payload)
    except (SafetensorError, ValueError, KeyError, TypeError, struct.error):
        raise InputError(f"{path}: is damaged or not a tamnas file") from None
    if version != str(FORMAT):
        raise InputError(f"{path}: format {version}; this tamnas reads {FORMAT}: use the version that wrote it")
    if _digest(tensors, payload) != digest:
        raise InputError(f"{path}: is damaged: its checksum does not match")
    return tensors, meta


def load_latest(path: Path) -> tuple[dict[str, Tensor], dict] | None:
    """The last good state of `path`: itself, else its previous version with a warning, else None."""
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        try:
            return load(candidate)
        except InputError as error:
            fallback = previous(path) if candidate == path and previous(path).exists() else "a fresh start"
            log.warning("%s; going on from %s", error, fallback)
    return None


def _digest(tensors: Mapping[str, Tensor], payload: str) -> str:
    digest = hashlib.sha256(payload.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


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


def key_of(parts: Mapping) -> str:
    """A folder name for what results depend on: 16 hex digits of the parts' sha256."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Store:
    """The checkpoint folder of one stage instance under one key; holds its lock while open.

    Opening removes what other keys of the same instance left. Use as a context manager.
    """

    def __init__(self, stage: str, instance: str, key: str, root: Path | None = None):
        root = root or Path(os.environ.get("DVC_ROOT", ".")) / ".checkpoints"
        self.folder = root / stage / instance / key
        self._lock = FileLock(root / stage / f"{instance}.lock")
        self._who = f"{stage} {instance}"

    def __enter__(self) -> "Store":
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            log.warning("%s: another process runs this stage; waiting for it to end", self._who)
            self._lock.acquire()
        for other in self.folder.parent.iterdir():
            if other != self.folder:
                shutil.rmtree(other)
        self.folder.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_):
        self._lock.release()

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def require_match(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises InputError naming the first tensor whose name or shape is not the network's."""
    for name in sorted({*found, *expected}):
        shapes = [tuple(side[name].shape) if name in side else None for side in (found, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{path}: {name} has shape {shapes[0]}; this network's has {shapes[1]}: another space?")
