"""What `prepare` writes and refuses, for the tests of each source."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tamnas.config.images import DataParams
from tamnas.data.prepare import prepare
from tamnas.errors import InputError

SPLITS = ("train", "validation", "test")


def prepared(data: DataParams, out: Path) -> tuple[dict, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """(card, split -> (images, labels)) of what `prepare` wrote."""
    card = prepare("set", data, out)
    with np.load(out, allow_pickle=False) as arrays:
        assert sorted(arrays.files) == sorted(
            ["format", "levels", *(f"{axis}_{split}" for split in SPLITS for axis in "xy")]
        )
        assert int(arrays["levels"]) == card["levels"]
        return card, {split: (arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in SPLITS}


def refused(data: DataParams, out: Path, *words: str) -> None:
    """`prepare` raises one line that holds all `words`, and writes nothing, not even a folder."""
    with pytest.raises(InputError) as caught:
        prepare("set", data, out)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    assert not out.parent.exists()


def pairs(images: np.ndarray, labels: np.ndarray) -> Counter:
    """(image, label) with their counts: equal for equal sets in any order."""
    return Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def union(splits, *names: str) -> Counter:
    return sum((pairs(*splits[name]) for name in names), Counter())
