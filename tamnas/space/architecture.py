"""An architecture as a plain value: a block id and a channel ratio per layer."""

from dataclasses import dataclass

import numpy as np

from tamnas.errors import InputError
from tamnas.space.blocks import BLOCKS


@dataclass(frozen=True)
class Architecture:
    """One network of the space: a block id and a channel ratio per choice-block layer."""

    blocks: tuple[int, ...]
    ratios: tuple[float, ...]

    def __post_init__(self):
        object.__setattr__(self, "blocks", tuple(_block_id(block) for block in self.blocks))
        object.__setattr__(self, "ratios", tuple(_ratio(ratio) for ratio in self.ratios))
        if len(self.blocks) != len(self.ratios) or not self.blocks:
            raise InputError(
                f"architecture: {len(self.blocks)} blocks and {len(self.ratios)} ratios; each layer needs one of both"
            )

    def __str__(self) -> str:
        """Compact and unique, `15@1.8 0@0.2 ...`; `Architecture.parse` reads it back."""
        return " ".join(
            f"{block}@{ratio!r}".removesuffix(".0") for block, ratio in zip(self.blocks, self.ratios, strict=True)
        )

    @classmethod
    def parse(cls, text: str) -> "Architecture":
        """The inverse of `str`. Raises InputError."""
        try:
            pairs = [part.split("@") for part in text.split()]
            genes = [(int(block), float(ratio)) for block, ratio in pairs]
        except (ValueError, AttributeError):
            raise InputError(f"architecture: cannot read {text!r:.80}; expected e.g. '15@1.8 0@0.2'") from None
        return cls(tuple(block for block, _ in genes), tuple(ratio for _, ratio in genes))

    def plain(self) -> dict:
        return {"blocks": list(self.blocks), "ratios": list(self.ratios)}

    @classmethod
    def from_plain(cls, plain) -> "Architecture":
        """From `{"blocks": [...], "ratios": [...]}`. Raises InputError."""
        if not isinstance(plain, dict) or set(plain) != {"blocks", "ratios"}:
            raise InputError("architecture: expected an object with exactly 'blocks' and 'ratios'")
        if not all(isinstance(plain[key], (list, tuple)) for key in plain):
            raise InputError("architecture: 'blocks' and 'ratios' must be lists")
        return cls(tuple(plain["blocks"]), tuple(plain["ratios"]))


def _block_id(value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < len(BLOCKS):
        raise InputError(f"architecture: block {value!r:.40}; allowed are 0 to {len(BLOCKS) - 1}")
    return int(value)


def _ratio(value) -> float:
    # The upper bound keeps a hostile file from asking for terabytes of weights.
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 < value <= 8:
        raise InputError(f"architecture: ratio {value!r:.40}; allowed are numbers above 0 and up to 8")
    return float(value)
