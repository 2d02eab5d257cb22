"""Progress with the time left and the figures that matter; plain lines where there is no terminal.

What a stage instance is at stands in a small file while it runs, for `tamnas watch` (`tamnas.pipeline.live` reads it);
so does, beside its checkpoint, what a network in training is at, in whatever process.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from tamnas.files import FORMAT

log = logging.getLogger(__name__)
LINE_SECONDS = 15  # between plain lines
RECORD_SECONDS = 1  # between two states of the file
NETWORK = ".progress"  # ends the name of the file of a network in training


class _Record:
    """The file of what runs in this process, and the counters that are open, the outer one first."""

    def __init__(self, path: Path, checkpoints: Path | None):
        self.path, self.counters, self._last = path, [], 0.0
        self._head = {
            "format": FORMAT,
            "started": time.time(),
            "checkpoints": checkpoints and str(checkpoints.resolve()),
        }

    def write(self, now: bool = False) -> None:
        """At most once in `RECORD_SECONDS`, unless it must be `now`. A reader finds the old file or the new one."""
        if not now and time.monotonic() - self._last < RECORD_SECONDS:
            return
        self._last = time.monotonic()
        text = json.dumps({**self._head, "progress": [counter.state() for counter in self.counters]})
        temporary = self.path.with_name(self.path.name + ".tmp")
        # A full disk must not end a stage for this; not synced either, as nothing depends on it.
        with suppress(OSError):
            temporary.write_text(text)
            os.replace(temporary, self.path)


_record: _Record | None = None


@contextmanager
def recorded(path: Path, checkpoints: Path | None = None) -> Iterator[None]:
    """While the block runs, `path` says what it is at and where its `checkpoints` are. A killed process leaves it."""
    global _record
    outer, _record = _record, _Record(path, checkpoints)
    _record.write(now=True)
    try:
        yield
    finally:
        _record = outer
        path.unlink(missing_ok=True)


class Progress:
    """Counts `total` units of `what`; use as a context manager and call `step`."""

    def __init__(self, what: str, total: int, show: bool = True):
        self.what, self.total, self.done, self.show = what, total, 0, show
        self._bar = tqdm(total=total, desc=what, disable=not (show and sys.stderr.isatty()))
        self._start, self._first, self._last = time.monotonic(), 0, 0.0
        self._figures: dict = {}
        self._notes: dict[str, int] = {}

    def __enter__(self) -> "Progress":
        if _record is not None:
            _record.counters.append(self)
            _record.write(now=True)
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
        if _record is not None:
            _record.counters.remove(self)

    def state(self) -> dict:
        """JSON-able; `seconds_left` None before the first unit is done."""
        return {
            "what": self.what,
            "done": self.done,
            "total": self.total,
            "seconds_left": self.seconds_left(),
            "figures": self._figures,
            "notes": self._notes,
        }

    def seconds_left(self) -> float | None:
        """At the pace so far, units of earlier runs apart."""
        mine = self.done - self._first
        return (time.monotonic() - self._start) / mine * (self.total - self.done) if mine else None

    def skip(self, done: int) -> None:
        """`done` units were finished by an earlier run; they do not count for the time left."""
        self.done = self._first = done
        self._bar.update(done)

    def note(self, **figures) -> None:
        """Figures that stand beside those of every step from now on."""
        self._notes = figures
        if _record is not None:
            _record.write()
        self._print(self._figures, 0)

    def step(self, units: int = 1, **figures) -> None:
        """So many more units are done; `figures` are shown beside it, floats with four digits."""
        self.done += units
        self._figures = figures
        if _record is not None:
            _record.write()
        self._print(figures, units)

    def _print(self, figures: dict, units: int) -> None:
        figures = figures | self._notes
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in figures.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(units)
        now = time.monotonic()
        due = now - self._last >= LINE_SECONDS or (units > 0 and self.done == self.total)
        if due and self.show and self._bar.disable:
            self._last = now
            left = self.seconds_left()
            text = ", ".join(f"{key} {value}" for key, value in shown.items())
            told = "" if left is None else f", {left:.0f} s left"
            log.info("%s: %d/%d%s%s", self.what, self.done, self.total, told, f" ({text})" if text else "")
