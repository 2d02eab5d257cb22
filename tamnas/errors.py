"""Errors that a user can mend, told in one line."""

from collections.abc import Mapping


class InputError(ValueError):
    """A parameter, file or archive is not what it must be (exit code 2, nothing was touched)."""


class WorkerError(RuntimeError):
    """A worker process was killed, out of memory perhaps (exit code 1, the next run goes on)."""


class JobError(RuntimeError):
    """One of many jobs failed, by a `cause` that no other class here names (exit code 1, the next run goes on)."""

    def __init__(self, name: str, cause: Exception):
        super().__init__(name, cause)
        self.name, self.cause = name, cause
        self.__cause__ = cause  # the traceback shows both

    def __str__(self) -> str:
        return f"{self.name}: {self.cause!r}"


class CheckError(RuntimeError):
    """An exported network does not compute what the original does (exit code 1, nothing was written)."""


class DivergenceError(RuntimeError):
    """The loss became NaN or infinite (exit code 1, the last good state is kept).

    `details`, JSON-able: reason, epoch, step, steps, and the network's id where a stage trains several.
    """

    def __init__(self, text: str, details: Mapping[str, str | int] | None = None):
        super().__init__(text)
        self.details = dict(details or {"reason": text})


class DeadlineError(RuntimeError):
    """Work stopped before its deadline; the next run goes on.

    `partial`: the stage wrote valid outputs of what is finished, marked so.
    """

    def __init__(self, text: str, partial: bool = False):
        super().__init__(text)
        self.partial = partial
