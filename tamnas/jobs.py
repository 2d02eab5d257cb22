"""Where independent jobs run: in this process, or in several local ones. Nothing else knows.

A job is a module-level function of a JSON-able spec and a context (data, supernet, ...) that
each worker loads once. Its result must not depend on where or in which order it ran.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tamnas.compute import Compute
from tamnas.deadline import get_deadline, set_deadline
from tamnas.errors import WorkerError

log = logging.getLogger(__name__)


class Jobs:
    """Runs jobs over one context; use as a context manager. Workers start with the first use.

    `load_context` must be picklable (a module-level function or a `functools.partial` of one).
    """

    def __init__(self, load_context: Callable[[], Any], compute: Compute):
        self._load_context, self._compute = load_context, compute
        self._pool: ProcessPoolExecutor | None = None
        self._context: Any = None

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, kind, *_) -> None:
        if self._pool is None:
            return
        if kind is not None:  # running jobs have checkpoints; the stage's lock must not be let go before they end
            for worker in multiprocessing.active_children():
                worker.kill()
        self._pool.shutdown(cancel_futures=True)

    def run_jobs(self, function: Callable[[Any, Any], Any], specs: Sequence) -> Iterator[tuple[int, Any]]:
        """Yields (index, function(spec, context)) as jobs finish, in any order.

        A job's exception ends the run and is raised here; jobs that finished were yielded.
        """
        if self._pool is None and (self._compute.engine == "inline" or min(len(specs), self._compute.workers) <= 1):
            for index, spec in enumerate(specs):
                yield index, function(spec, self.context)
            return
        futures = {
            self._start().submit(_run, function, spec, get_deadline()): index for index, spec in enumerate(specs)
        }
        waiting = set(futures)
        try:
            for future in as_completed(futures):
                if future.exception() is None:
                    waiting.remove(future)
                    yield futures[future], future.result()
                    continue
                for other in waiting:  # what finished beside the failure is not lost
                    if other.done() and other.exception() is None:
                        yield futures[other], other.result()
                future.result()
        except BrokenProcessPool:
            raise WorkerError("a worker process was killed (out of memory?); run again to go on") from None
        finally:
            for future in futures:
                future.cancel()

    @property
    def context(self):
        """The context in this process, loaded on first use."""
        if self._context is None:
            self._context = self._load_context()
        return self._context

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Fresh interpreters: a fork would inherit torch's thread pools in an unknown state.
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._compute.workers, spawn, _initialise, (self._load_context,))
        return self._pool


_worker_context: Any = None
_start_error: Exception | None = None


def _initialise(load_context: Callable[[], Any]) -> None:
    global _worker_context, _start_error
    # Ctrl-C reaches the whole group; the driver ends the workers, quietly.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_driver, daemon=True).start()
    try:
        _worker_context = load_context()
    except Exception as error:  # told by the first job: an error here would read as a killed worker
        _start_error = error


def _die_with_driver() -> None:
    """A driver that is killed outright cannot end its workers: they end themselves."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGKILL)


def _run(function, spec, deadline: float | None):
    set_deadline(deadline)
    if _start_error is not None:
        raise _start_error
    return function(spec, _worker_context)
