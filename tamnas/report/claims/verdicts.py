"""What a test of a claim gives: a verdict with its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from tamnas.report.intervals import Interval

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"


@dataclass(frozen=True)
class Finding:
    """`verdict`: one of the four words above; `numbers`: what it rests on, for a reader."""

    verdict: str
    numbers: str


def at_level(level: float) -> str:
    """In words, for numbers whose intervals are not of 95%."""
    return f"{100 * level:.4g}% intervals"


def above(interval: Interval | None, bar: float = 0.0) -> str:
    """Does the value lie above `bar`? Decided where the whole interval lies on one side."""
    if interval is None:
        return UNDECIDED
    return HOLDS if interval.low > bar else FAILS if interval.high < bar else UNDECIDED


def below(interval: Interval) -> str:
    return HOLDS if interval.high < 0 else FAILS if interval.low > 0 else UNDECIDED


def within(interval: Interval, bar: float) -> str:
    """Is the value closer to 0 than `bar`?"""
    if -bar < interval.low and interval.high < bar:
        return HOLDS
    return FAILS if interval.low > bar or interval.high < -bar else UNDECIDED


def by_sides(greater: float, less: float) -> str:
    """By the one-sided p of both sides."""
    return HOLDS if greater < 0.025 else FAILS if less < 0.025 else UNDECIDED


def all_of(verdicts: Sequence[str]) -> str:
    """A claim of several parts: it fails with one of them, and holds with all of them."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and set(verdicts) == {HOLDS} else UNDECIDED
