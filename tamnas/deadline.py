"""A time by which a run must be over: work stops between two units before it, and goes on the next time.

The runner sets it, in an environment variable, so that worker processes have it too. Without one nothing stops.
"""

import os
import time

from tamnas.errors import DeadlineError

VARIABLE = "TAMNAS_DEADLINE"  # seconds since 1970


def set_deadline(moment: float) -> None:
    os.environ[VARIABLE] = repr(moment)


def clear_deadline() -> None:
    os.environ.pop(VARIABLE, None)


def seconds_left() -> float:
    """Infinite without a deadline."""
    return float(os.environ.get(VARIABLE, "inf")) - time.time()


class Pace:
    """Counts units of work (epochs, networks) and says whether one more fits: one as long as the longest so far."""

    def __init__(self):
        self._longest, self._last = 0.0, None

    def require_time(self, what: str) -> None:
        """Call before every unit. Raises DeadlineError when another one would end after the deadline."""
        now = time.monotonic()
        if self._last is not None:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        if seconds_left() <= self._longest:
            raise DeadlineError(f"{what}: stopped at the deadline")
