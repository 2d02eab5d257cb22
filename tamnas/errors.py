"""Errors that a user can mend, told in one line.

`InputError` means: what you gave is wrong (exit code 2, nothing was touched).
`DivergenceError` means: training broke (exit code 1, the last good state is kept).
`DeadlineError` means: the time given is over (exit code 3, the next run goes on from here).
`WorkerError` means: the machine took a worker away (exit code 1, the next run goes on).
"""

from collections.abc import Mapping


class InputError(ValueError):
    """A parameter, file or archive is not what it must be; the text is one line."""


class WorkerError(RuntimeError):
    """A worker process was killed, out of memory perhaps; the next run goes on."""


class DivergenceError(RuntimeError):
    """The loss became NaN or infinite; the text names epoch and step.

    `details` (JSON-able) are the same as values, without paths: reason, epoch, step, steps, and the network's id where
    a stage trains several.
    """

    def __init__(self, text: str, details: Mapping[str, str | int] | None = None):
        super().__init__(text)
        self.details = dict(details or {"reason": text})


class DeadlineError(RuntimeError):
    """Work stopped before its deadline. `partial`: the stage wrote valid outputs of what is finished, marked so."""

    def __init__(self, text: str, partial: bool = False):
        super().__init__(text)
        self.partial = partial
