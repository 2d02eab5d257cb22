"""Signs that a network is broken or that its attack is too weak, read from figures alone.

NaN and infinite losses end training (`tamnas.training.loop`); what stands here goes on and is easily
overlooked: `Watch` tells it in the log while a network trains, the reports repeat it. Needs no torch.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence

from scipy.stats import binomtest

log = logging.getLogger(__name__)

Curve = Sequence[Mapping[str, float | int | None]]  # rows of a training curve; accuracies in [0, 1]
DEAD_EPOCHS = 3  # in a row, while training goes on: networks that wake up late are not dead
# Parts of the way from the largest class's share to 1
LEARNT = 0.05  # less is chance: the training did not succeed
ROBUST = 0.1  # less is nothing that could have been faked, or could collapse
NOISE = 0.0025  # share of images that fall or stand by the random starts of attacks
WEAKER = 0.1  # so far behind AutoAttack an attack on the cross-entropy has failed; 2 to 5 points are usual
MASKING = "a sign of gradient masking"


def above_chance(share: float, part: float) -> float:
    """The accuracy `part` of the way up from predicting the largest class, of this `share`, for every image."""
    return share + part * (1 - share)


def curve_signs(curve: Curve, share: float, images: int, finished: bool = False, within: bool = True) -> dict[str, str]:
    """What is wrong after the last epoch of `curve`, by kind.

    `share` is that of the largest class, `images` the number of training images. `within`: whether PGD on validation
    stays within the training radius; beyond it, accuracy may fall without any overfitting.
    """
    attacked = [row for row in curve if row.get("validation_robust") is not None]  # epochs with PGD on validation
    signs = {
        "dead": _dead(curve, 1 if finished else DEAD_EPOCHS),
        "masked": _masked(curve, share, images),
        "overfitted": _overfitted(attacked, share) if within else None,
        "collapsed": _collapsed(attacked, share),
    }
    return {kind: line for kind, line in signs.items() if line}


def _dead(curve: Curve, epochs: int) -> str | None:
    """One class predicted for all validation images or, of a supernet, for all training images of each step."""
    last = curve[-epochs:]
    if len(last) < epochs or any(row.get("validation_classes", row["train_classes"]) > 1 for row in last):
        return None
    return f"predicts one class for all images in epoch {last[-1]['epoch']}: the network is dead."


def _masked(curve: Curve, share: float, images: int) -> str | None:
    # At chance, and on few images, the difference is noise.
    noise = max(0.02, 2 / math.sqrt(images))
    row = curve[-1] if curve else {"train_robust": None}
    if row["train_robust"] is None:  # nothing was attacked
        return None
    if row["train_robust"] <= max(row["train_clean"] + noise, above_chance(share, ROBUST)):
        return None
    return (
        f"accuracy under the training attack ({_percent(row['train_robust'])}) is above clean accuracy "
        f"({_percent(row['train_clean'])}) in epoch {row['epoch']}: a sign of gradient masking or of a training "
        "attack that is too weak."
    )


def _overfitted(attacked: Curve, share: float) -> str | None:
    """Robust to the training attack, often one of a single step, and not to PGD."""
    if not attacked:
        return None
    last = attacked[-1]
    # Accuracy at chance is no robustness that training could have faked.
    if last["train_robust"] <= max(above_chance(share, ROBUST), 4 * last["validation_robust"]):
        return None
    return (
        f"in epoch {last['epoch']} the training attack leaves {_percent(last['train_robust'])} of the training images, "
        f"PGD {_percent(last['validation_robust'])} of the validation images: catastrophic overfitting to the "
        "training attack."
    )


def _collapsed(attacked: Curve, share: float) -> str | None:
    if not attacked:
        return None
    best, last = max(attacked, key=lambda row: row["validation_robust"]), attacked[-1]
    clean_stayed = last["validation_clean"] >= 0.8 * best["validation_clean"]
    fell = last["validation_robust"] < best["validation_robust"] / 2
    if not (fell and clean_stayed and best["validation_robust"] > above_chance(share, ROBUST)):
        return None
    return (
        f"robust accuracy on validation fell from {_percent(best['validation_robust'])} in epoch {best['epoch']} to "
        f"{_percent(last['validation_robust'])} in epoch {last['epoch']} while clean accuracy stayed: the robustness "
        "collapsed."
    )


class Watch:
    """Logs each kind of sign of a growing curve once; `who` opens the line."""

    def __init__(self, who: str, share: float, images: int, within: bool = True):
        self.who, self.share, self.images, self.within = who, share, images, within
        self._told: set[str] = set()

    def __call__(self, curve: Curve) -> None:
        for kind, line in curve_signs(curve, self.share, self.images, within=self.within).items():
            if kind not in self._told:
                self._told.add(kind)
                log.warning("warning: %s: %s", self.who, line)


def trace_signs(trace: Sequence[Mapping[str, float | int]], classes: int = 2) -> dict[str, str]:
    """What the steps of one attack (`tamnas.attacks.trace`) say against it or its network, by kind.

    `classes`: of how many the images are; to predict one for all images of one is no sign.
    """
    if not trace:
        return {}
    first, last = trace[0]["loss"], trace[-1]["loss"]
    if not all(math.isfinite(row["loss"]) for row in trace):
        return {"broken": "the loss under attack is NaN or infinite: the network is broken."}
    if trace[0]["classes"] == 1 < classes:
        return {"dead": "predicts one class for all images: the network is dead."}
    if last <= first + 1e-3 * max(first, 1.0):
        line = (
            f"the loss of the attack does not grow ({first:.4g} at the start, {last:.4g} after {trace[-1]['step']} "
            f"steps): {MASKING}."
        )
        return {"flat": line}
    # A few images that are wrong from the start, with gradients of their own, make the mean loss grow.
    correct, stuck = trace[0]["correct"], trace[0]["stuck"] or 0
    if above(NOISE, stuck, correct):
        return {"stuck": f"the gradient is zero for {stuck:,} of {correct:,} images, which PGD cannot move: {MASKING}."}
    return {}


def above(share: float, count: int, images: int) -> bool:
    """Whether so many of the images, two or more, are a larger share than this: its exact 95% interval lies above."""
    return count > 1 and float(binomtest(count, images).proportion_ci(0.95, "exact").low) > share


def radius_sign(name: str, missed: int | None, images: int) -> str | None:
    """Of an attack that leaves so many images which it fools within a smaller radius (`evaluation.attacked.missed`)."""
    if not above(NOISE, missed or 0, images):
        return None
    return f"{name} leaves {missed:,} of {images:,} images that it fools within a smaller radius: {MASKING}."


def ensemble_signs(rows: Sequence[Mapping], texts: Mapping[str, str]) -> Iterator[str]:
    """What the rows of one attack on one network (`tamnas.evaluation.attacked.attack_rows`) say against it.

    An image that falls to any attack is lost to a perfect one, so what an attack leaves and a weaker one finds is
    counted on the same images; a count is a sign if `NOISE` does not explain it. `texts` names attacks by key.
    """
    name, images = texts[rows[0]["attack"]], rows[0]["images"]
    parts = [row for row in rows if row["role"] == "part"]
    beside = [row for row in rows if row["role"] == "beside"]
    for row in parts:
        if above(NOISE, row["missed"] or 0, images):
            yield (
                f"{row['name']}, which needs no gradients, fools {row['missed']:,} of {images:,} images that no attack "
                f"with gradients does: {MASKING}, or those attacks are too weak."
            )
    if len(parts) < 2:
        return
    for row in beside:
        if above(NOISE, row["missed"] or 0, images):
            yield f"{texts[row['name']]} fools {row['missed']:,} of {images:,} images that {name} leaves: {MASKING}."
    left, strongest = parts[-1], min([*beside, parts[0]], key=lambda row: row["accuracy"])
    found_by_it_alone = strongest["missed"] or 0 if strongest["role"] == "beside" else 0
    alone = round((strongest["accuracy"] - left["accuracy"]) * images) + found_by_it_alone
    if above(WEAKER, alone, images):
        yield (
            f"{texts.get(strongest['name'], strongest['name'])} leaves {_percent(strongest['accuracy'])}, {name} "
            f"{_percent(left['accuracy'])} of the same {images:,} images: {MASKING}; read the latter."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
