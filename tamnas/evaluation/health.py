"""Signs that a network is broken or that its attack is too weak, read from figures alone.

NaN and infinite losses end training (`tamnas.training.loop`); what stands here goes on and is easily
overlooked: `Watch` tells it in the log while a network trains, the reports repeat it. Needs no torch.
"""

import logging
import math
from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

Curve = Sequence[Mapping[str, float | int | None]]  # rows of a training curve; accuracies in [0, 1]
DEAD_EPOCHS = 3  # in a row, while training goes on: networks that wake up late are not dead
# Parts of the way from the largest class's share to 1
LEARNT = 0.05  # less is chance: the training did not succeed
ROBUST = 0.1  # less is nothing that could have been faked, or could collapse


def above_chance(share: float, part: float) -> float:
    """The accuracy `part` of the way up from predicting the largest class, of this `share`, for every image."""
    return share + part * (1 - share)


def curve_signs(curve: Curve, share: float, images: int, finished: bool = False) -> dict[str, str]:
    """What is wrong after the last epoch of `curve`, by kind.

    `share` is that of the largest class, `images` the number of training images.
    """
    attacked = [row for row in curve if row.get("validation_robust") is not None]  # epochs with PGD on validation
    signs = {
        "dead": _dead(curve, 1 if finished else DEAD_EPOCHS),
        "masked": _masked(curve, share, images),
        "overfitted": _overfitted(attacked, share),
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
    if not curve or curve[-1]["train_robust"] <= max(curve[-1]["train_clean"] + noise, above_chance(share, ROBUST)):
        return None
    row = curve[-1]
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

    def __init__(self, who: str, share: float, images: int):
        self.who, self.share, self.images = who, share, images
        self._told: set[str] = set()

    def __call__(self, curve: Curve) -> None:
        for kind, line in curve_signs(curve, self.share, self.images).items():
            if kind not in self._told:
                self._told.add(kind)
                log.warning("warning: %s: %s", self.who, line)


def trace_signs(trace: Sequence[Mapping[str, float | int]]) -> dict[str, str]:
    """What the steps of one attack (`tamnas.attacks.trace`) say against it or its network, by kind."""
    if not trace:
        return {}
    first, last = trace[0]["loss"], trace[-1]["loss"]
    if not all(math.isfinite(row["loss"]) for row in trace):
        return {"broken": "the loss under attack is NaN or infinite: the network is broken."}
    if trace[0]["classes"] == 1:
        return {"dead": "predicts one class for all images: the network is dead."}
    if last <= first + 1e-3 * max(first, 1.0):
        line = (
            f"the loss of the attack does not grow ({first:.4g} at the start, {last:.4g} after {trace[-1]['step']} "
            "steps): a sign of gradient masking."
        )
        return {"flat": line}
    return {}


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
