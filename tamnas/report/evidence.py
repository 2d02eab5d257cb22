"""What a test of a claim gives: a verdict with its numbers, and the intervals that decide it. Accuracies are shares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import norm
from scipy.stats import t as student

from tamnas.report.checks import wilson

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"


@dataclass(frozen=True)
class Finding:
    """`verdict`: one of the four words above; `numbers`: what it rests on, for a reader."""

    verdict: str
    numbers: str


@dataclass(frozen=True)
class Interval:
    """A difference, or another quantity, with its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def points(self) -> str:
        """In percentage points, for differences of shares."""
        return f"{self.value * 100:+.2f} ({self.low * 100:+.2f} to {self.high * 100:+.2f})".replace("-", "−")

    def above(self, bar: float = 0.0) -> str:
        """Does the value lie above `bar`? Decided where the whole interval lies on one side."""
        return HOLDS if self.low > bar else FAILS if self.high < bar else UNDECIDED

    def below(self, bar: float = 0.0) -> str:
        return HOLDS if self.high < bar else FAILS if self.low > bar else UNDECIDED


def mean_of(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Student's t interval of a mean; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    half = float(student.ppf((1 + level) / 2, n - 1)) * math.sqrt(_variance(values) / n)
    return Interval(mean, mean - half, mean + half)


def welch(ours: Sequence[float], theirs: Sequence[float], level: float = 0.95) -> Interval | None:
    """Difference of two means (ours - theirs) of independent samples; None for fewer than two values in either."""
    if min(len(ours), len(theirs)) < 2:
        return None
    difference = math.fsum(ours) / len(ours) - math.fsum(theirs) / len(theirs)
    a, b = _variance(ours) / len(ours), _variance(theirs) / len(theirs)
    if a + b == 0:
        return Interval(difference, difference, difference)
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    half = float(student.ppf((1 + level) / 2, freedom)) * math.sqrt(a + b)
    return Interval(difference, difference - half, difference + half)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((one - mean) ** 2 for one in values) / (len(values) - 1)


def newcombe(ours: float, theirs: float, n_ours: int, n_theirs: int) -> Interval:
    """95% interval of the difference of two shares (ours - theirs), each of so many images (Newcombe's method 10).

    The images are the same for both, but which of them each network gets right is not stored: taking the shares as
    independent makes the interval wider than a paired one.
    """
    (low_a, high_a), (low_b, high_b) = wilson(ours, n_ours), wilson(theirs, n_theirs)
    difference = ours - theirs
    return Interval(
        difference,
        difference - math.hypot(ours - low_a, high_b - theirs),
        difference + math.hypot(high_a - ours, theirs - low_b),
    )


def correlation(x: Sequence[float], y: Sequence[float], groups: int) -> Interval | None:
    """Pearson's r of values centred within `groups` groups, 95% by Fisher's z; None where it is not defined."""
    freedom = len(x) - groups - 2
    spread = math.sqrt(math.fsum(a * a for a in x) * math.fsum(b * b for b in y))
    if freedom < 1 or spread < 1e-12:
        return None
    r = math.fsum(a * b for a, b in zip(x, y, strict=True)) / spread
    if abs(r) > 1 - 1e-12:
        return Interval(r, r, r)
    half = norm.ppf(0.975) / math.sqrt(freedom)
    return Interval(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))


def all_of(verdicts: Sequence[str]) -> str:
    """A claim of several parts: it fails with one of them, and holds with all of them."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and set(verdicts) == {HOLDS} else UNDECIDED
