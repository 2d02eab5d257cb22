"""Whether one figure predicts the order of networks by another: what a reader of a one-shot search should ask."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tamnas.report.intervals import Interval
from tamnas.report.study import Ranked, RowResults
from tamnas.seeding import numpy_generator

RESAMPLES = 10_000  # of few networks tau has few values, and of few samples its quantiles jump
WHICH = ("clean", "robust")
LEAST = 3  # networks: of two, one order is as good as the other


@dataclass(frozen=True)
class Agreement:
    """Of a prediction with the truth.

    `tau`: Kendall's tau-b, with its 95% percentile interval by bootstrap over the networks; None where all predictions
    or all truths are alike. `overlap`: the share of the `top` best that the prediction puts there. `regret`: the best
    truth minus that of the network which the prediction puts first. Ties are broken by chance: both are expectations
    over it. They have no interval: the best of a resample is never better than the best there is, so that a bootstrap
    of them is biased.
    """

    tau: Interval | None
    overlap: float
    regret: float
    top: int
    networks: int


def agreement(predicted: Sequence[float], truth: Sequence[float], top: int | None = None) -> Agreement:
    """Of two figures of the same networks, more being better; `top` is a third of the networks if not given."""
    pairs, n = np.array([predicted, truth], dtype=float), len(truth)
    top = max(1, n // 3) if top is None else top
    predicted, truth = pairs
    overlap = (chance_of_top(predicted, top) * chance_of_top(truth, top)).sum() / top
    regret = truth.max() - (chance_of_top(predicted, 1) * truth).sum()
    return Agreement(_interval(_tau(pairs, _counts(n))), float(overlap), float(regret), top, n)


@cache
def _counts(n: int) -> np.ndarray:
    """How often each of `n` networks is in each sample: first all of them once, then as drawn."""
    drawn = numpy_generator("agreement", "bootstrap").integers(n, size=(RESAMPLES, n))
    places = drawn + n * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(places.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n)
    return np.vstack([np.ones(n), counts])


def _interval(values: np.ndarray) -> Interval | None:
    """The first value, with where 95% of the others lie that are defined; None where the first is not."""
    if np.isnan(values[0]):
        return None
    return Interval(float(values[0]), *map(float, np.nanpercentile(values[1:], (2.5, 97.5))))


def _tau(pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row of networks, each so many times there; NaN where one side is constant."""
    a, b = np.sign(pairs[:, :, None] - pairs[:, None, :])

    def total(signs: np.ndarray) -> np.ndarray:
        return ((counts @ signs) * counts).sum(1)  # over all pairs of drawn networks

    with np.errstate(invalid="ignore"):
        return total(a * b) / np.sqrt(total(a * a) * total(b * b))


def chance_of_top(values: np.ndarray, top: int) -> np.ndarray:
    """Of each value, to be among the `top` largest when ties are broken by chance."""
    last = np.sort(values)[-top]
    above, tied = values > last, values == last
    return above + tied * (top - above.sum()) / tied.sum()


def agreements(networks: Sequence[Ranked]) -> dict[str, dict[str, Agreement]]:
    """By what predicts (a recalibration of inherited weights, the size, chance), then by clean and robust accuracy."""
    by_prediction = {name: _by_inherited(networks, name) for name in networks[0].inherited}
    for name, predicted in (
        ("parameters", [network.parameters for network in networks]),
        ("chance", [0] * len(networks)),
    ):
        by_prediction[name] = {
            which: agreement(predicted, [network.trained[which] for network in networks]) for which in WHICH
        }
    return by_prediction


def as_searched(row: RowResults) -> dict[str, Agreement]:
    """Of clean and robust accuracy with inherited weights as the row's search has them; empty for too few networks."""
    return _by_inherited(row.ranking, recalibration_of(row)) if len(row.ranking) >= LEAST else {}


def recalibration_of(row: RowResults) -> str:
    """The recalibration that the row's search is based on."""
    return "clean" if row.plan.search.bn_calibration_images else "none"


def _by_inherited(networks: Sequence[Ranked], name: str) -> dict[str, Agreement]:
    return {
        which: agreement(
            [network.inherited[name][which] for network in networks], [network.trained[which] for network in networks]
        )
        for which in WHICH
    }
