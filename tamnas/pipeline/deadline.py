"""A time by which a run must be over: work stops between two units before it, and goes on the next time.

The runner sets it; `tamnas.pipeline.jobs` hands it on to worker processes with every job. Without one nothing stops.
"""

import time
from collections.abc import Mapping

from tamnas.errors import DeadlineError

_deadline: float | None = None  # of this process, in seconds since 1970


def set_deadline(moment: float | None) -> None:
    """Seconds since 1970; None for no deadline."""
    global _deadline
    _deadline = moment


def get_deadline() -> float | None:
    return _deadline


class Pace:
    """Watches units of work (epochs, networks) and says whether one more fits: one as long as the longest so far."""

    def __init__(self):
        self._longest, self._last = 0.0, None

    def require_time(self, what: str) -> None:
        """Call before every unit. Raises DeadlineError when another one would end after the deadline."""
        now = time.monotonic()
        if self._last is not None:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        if _deadline is not None and time.time() + self._longest >= _deadline:
            raise DeadlineError(f"{what}: stopped at the deadline")


def unfinished_marks(finished: int, planned: int) -> dict:
    """Keys that mark a result as part of what was planned; none where everything is there."""
    return {} if finished == planned else {"complete": False, "planned": planned}


def require_complete(result: Mapping, what: str) -> None:
    """Call after writing `result`. Raises DeadlineError if it carries `unfinished_marks`."""
    if not result.get("complete", True):
        text = f"{what}: {len(result['networks'])} of {result['planned']} networks until the deadline"
        raise DeadlineError(text, partial=True)
