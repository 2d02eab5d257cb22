"""Checkpoints: safetensors with a JSON header, atomic and checked; nothing pickled.

`save` and `load` handle one file; `tamnas.pipeline.store` decides where checkpoints lie.
"""

import hashlib
import json
import logging
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from tamnas.errors import InputError
from tamnas.files import FORMAT, opened, previous, replacing, require_format, write_bytes

log = logging.getLogger(__name__)


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
    """Write atomically: a reader finds the old file or the new one, whole.

    `meta` must be JSON-able. The previous file is kept beside it as `<name>.previous`.
    """
    blob = to_bytes(tensors, meta)
    with replacing(path, keep=True) as file:
        file.write(blob)


def write_weights(path: Path, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
    """As `save`, for a stage's output: no previous version is kept beside it."""
    write_bytes(path, to_bytes(tensors, meta))


def to_bytes(tensors: Mapping[str, Tensor], meta: Mapping) -> bytes:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    payload = json.dumps(dict(meta))
    header = {"format": FORMAT, "meta": payload, "sha256": _digest(plain, payload)}
    # One key alone: safetensors writes several in an order that changes from run to run.
    return to_safetensors(plain, {"tamnas": json.dumps(header)})


def load(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, meta) of a file that `save` wrote.

    Raises InputError for a missing, truncated, altered or unknown file.
    """
    try:
        with opened(path) as file:
            blob = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__})") from None
    try:
        tensors = parse_safetensors(blob)
        header = json.loads(json.loads(blob[8 : 8 + struct.unpack("<Q", blob[:8])[0]])["__metadata__"]["tamnas"])
        version, payload, digest = header["format"], header["meta"], header["sha256"]
        meta = json.loads(payload)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        raise InputError(f"{path}: is damaged or not a tamnas file") from None
    require_format(path, version, "use the version that wrote it")
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


def require_match(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises InputError naming the first tensor whose name or shape is not the network's."""
    for name in sorted({*tensors, *expected}):
        shapes = [tuple(side[name].shape) if name in side else None for side in (tensors, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{path}: {name} has shape {shapes[0]}; this network's has {shapes[1]}: another space?")


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give `model` the weights and buffers that were read from `path`. Raises InputError as `require_match`."""
    require_match(path, tensors, model.state_dict())
    model.load_state_dict(tensors)


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
