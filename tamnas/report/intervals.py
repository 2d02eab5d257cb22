"""Intervals of accuracies and of their differences; accuracies are shares in [0, 1]."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Self

from scipy.stats import norm, ttest_ind, wilcoxon
from scipy.stats import t as student


@dataclass(frozen=True)
class Interval:
    """A difference, or another quantity, with its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def points(self) -> str:
        """In percentage points, for differences of shares."""
        return f"{self.value * 100:+.2f} ({self.low * 100:+.2f} to {self.high * 100:+.2f})".replace("-", "−")

    def widened(self, margin: float) -> Self:
        """By an independent error of this half-width."""
        low, high = math.hypot(self.value - self.low, margin), math.hypot(self.high - self.value, margin)
        return type(self)(self.value, self.value - low, self.value + high)


@dataclass(frozen=True)
class Paired:
    """Mean of paired differences with its t interval and Wilcoxon's p; None where n is too small."""

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    n: int

    @property
    def points(self) -> str:
        """In percentage points."""
        text = f"{100 * self.mean:+.2f}"
        if self.low is not None:
            p_value = f", p {self.p_value:.2g}" if self.p_value is not None else ""
            text += f" ({100 * self.low:+.2f} to {100 * self.high:+.2f}{p_value})"
        return text.replace("-", "−")


def _z(level: float) -> float:
    return float(norm.ppf((1 + level) / 2))


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of `share` correct among `n` images; a mean over seeds is no count of images."""
    z = _z(level)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Student's t interval of a mean; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    mean, half = fmean(values), float(student.ppf((1 + level) / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def paired(differences: Sequence[float], level: float = 0.95) -> Paired:
    interval, n = mean_interval(differences, level), len(differences)
    if interval is None:
        return Paired(fmean(differences), None, None, None, n)
    return Paired(interval.value, interval.low, interval.high, _signed_rank_p(tuple(differences)), n)


@cache  # ties make it a permutation test of seconds, and tables, page and claims ask about the same pairs
def _signed_rank_p(differences: tuple[float, ...]) -> float | None:
    """Wilcoxon's p; it has no answer where every pair is equal."""
    return float(wilcoxon(differences).pvalue) if any(differences) else None


def welch(ours: Sequence[float], theirs: Sequence[float], level: float = 0.95) -> Interval | None:
    """Difference of two means (ours - theirs) of independent samples; None for fewer than two values in either."""
    if min(len(ours), len(theirs)) < 2:
        return None
    difference = fmean(ours) - fmean(theirs)
    if len(set(ours)) == len(set(theirs)) == 1:
        return Interval(difference, difference, difference)
    return Interval(difference, *map(float, ttest_ind(ours, theirs, equal_var=False).confidence_interval(level)))


def pooled_margin(groups: Sequence[Sequence[float]], count: int, level: float = 0.95) -> float:
    """Half of the interval of a difference of two means of `count` values each, whose variance is that within
    `groups` (Student's t); infinite where no group has two values.
    """
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not groups:
        return math.inf
    variance = math.fsum((value - fmean(group)) ** 2 for group in groups for value in group) / freedom
    return float(student.ppf((1 + level) / 2, freedom)) * math.sqrt(2 * variance / count)


def newcombe(ours: float, theirs: float, n_ours: int, n_theirs: int, level: float = 0.95) -> Interval:
    """Interval of the difference of two shares (ours - theirs), each of so many images (Newcombe's method 10).

    The images are the same for both, but which of them each network gets right is not stored: taking the shares as
    independent makes the interval wider than a paired one.
    """
    (low_a, high_a), (low_b, high_b) = wilson(ours, n_ours, level), wilson(theirs, n_theirs, level)
    difference = ours - theirs
    low, high = math.hypot(ours - low_a, high_b - theirs), math.hypot(high_a - ours, theirs - low_b)
    return Interval(difference, difference - low, difference + high)


def correlation(x: Sequence[float], y: Sequence[float], groups: int) -> Interval | None:
    """Pearson's r of values centred within `groups` groups, 95% by Fisher's z; None where it is not defined."""
    freedom = len(x) - groups - 2
    spread = math.sqrt(math.fsum(a * a for a in x) * math.fsum(b * b for b in y))
    if freedom < 1 or spread < 1e-12:
        return None
    r = math.fsum(a * b for a, b in zip(x, y, strict=True)) / spread
    if abs(r) > 1 - 1e-12:
        return Interval(r, r, r)
    half = _z(0.95) / math.sqrt(freedom)
    return Interval(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))
