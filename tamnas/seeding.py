"""Random generators, each derived from what it is for, never from the order of jobs."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # architectures are drawn without torch
    import torch


def derived_seed(*parts) -> int:
    """63 bits of sha256 over the parts' text: e.g. (seed, "search", row, "nsga2")."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(*parts, device: "torch.device | str" = "cpu") -> "torch.Generator":
    import torch

    return torch.Generator(device).manual_seed(derived_seed(*parts))


def numpy_generator(*parts) -> np.random.Generator:
    return np.random.default_rng(derived_seed(*parts))
