"""Progress with the time left and the figures that matter; plain lines where there is no terminal."""

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)
LINE_SECONDS = 15  # between plain lines


class Progress:
    """Counts `total` units of `what`; use as a context manager and call `step`."""

    def __init__(self, what: str, total: int, show: bool = True):
        self.what, self.total, self.done, self.show = what, total, 0, show
        self._bar = tqdm(total=total, desc=what, disable=not (show and sys.stderr.isatty()))
        self._start, self._first, self._last = time.monotonic(), 0, 0.0
        self._notes: dict[str, int] = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def skip(self, done: int) -> None:
        """`done` units were finished by an earlier run; they do not count for the time left."""
        self.done = self._first = done
        self._bar.update(done)

    def note(self, **figures) -> None:
        """Figures that stand beside those of every step from now on."""
        self._notes = figures
        self._show({}, 0)

    def step(self, units: int = 1, **figures) -> None:
        """So many more units are done; `figures` are shown beside it, floats with four digits."""
        self.done += units
        self._show(figures, units)

    def _show(self, figures: dict, units: int) -> None:
        figures = figures | self._notes
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in figures.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(units)
        now = time.monotonic()
        due = now - self._last >= LINE_SECONDS or (units > 0 and self.done == self.total)
        if due and self.show and self._bar.disable:
            self._last = now
            finished = self.done - self._first
            left = f", {(now - self._start) / finished * (self.total - self.done):.0f} s left" if finished else ""
            text = ", ".join(f"{key} {value}" for key, value in shown.items())
            log.info("%s: %d/%d%s%s", self.what, self.done, self.total, left, f" ({text})" if text else "")
