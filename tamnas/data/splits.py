"""Which image goes into which split: stratified draws from `split_seed`."""

from collections.abc import Mapping

import numpy as np

from tamnas.config.images import ImagesParams
from tamnas.errors import InputError


def draw(name: str, data: ImagesParams, labels: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """split -> (part of the source, indices into it), for train, validation and test.

    `labels` (N,) of each part that the source has: `train`, perhaps `validation` and `test`. A split that the source
    lacks is drawn from its training images. Raises InputError.
    """
    drawn, left = {}, np.arange(len(labels["train"]))
    for split in ("test", "validation"):
        count = getattr(data, split)
        if split in labels:
            drawn[split] = split, _only(name, split, labels[split], np.arange(len(labels[split])), count, data)
        elif count is None:
            raise InputError(f"data.{name}.{split}: is missing; this source has no {split} split of its own")
        else:
            left, taken = _take(name, split, labels["train"], left, count, data)
            drawn[split] = "train", taken
    drawn["train"] = "train", _only(name, "train", labels["train"], left, data.train, data)
    for split in ("train", "validation", "test"):
        part, chosen = drawn[split]
        missing = np.setdiff1d(np.arange(data.classes), labels[part][chosen])
        if len(missing):
            raise InputError(f"data.{name}: class {missing[0]} has no image in the {split} split of {len(chosen)}")
    return {split: drawn[split] for split in ("train", "validation", "test")}


def _take(name: str, split: str, labels: np.ndarray, left: np.ndarray, count: int, data: ImagesParams):
    """(rest, taken) of the indices `left`, `count` of them taken, stratified."""
    most = len(left) - data.classes
    if not data.classes <= count <= most:
        raise InputError(
            f"data.{name}.{split} is {count}; allowed: {data.classes} to {most} of the {len(left)} images left, "
            f"so that each of the {data.classes} classes has one in it and one beside it"
        )
    from sklearn.model_selection import train_test_split  # a second to import: bad input is told before

    per_class = np.bincount(labels[left], minlength=data.classes)
    if per_class.min() < 2:
        raise InputError(
            f"data.{name}.{split}: class {per_class.argmin()} has {per_class.min()} images left to draw from; needed: 2"
        )
    rest, taken = train_test_split(left, test_size=count, random_state=data.split_seed, stratify=labels[left])
    return np.sort(rest), np.sort(taken)


def _only(name: str, split: str, labels: np.ndarray, left: np.ndarray, count: int | None, data: ImagesParams):
    """`count` of the indices `left`, stratified; all for None."""
    return left if count in (None, len(left)) else _take(name, split, labels, left, count, data)[1]
