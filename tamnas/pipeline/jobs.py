"""Where independent jobs run: in this process, or in several local ones. Nothing else knows.

A job is a module-level function of a JSON-able spec and a context (data, supernet, ...) that
each worker loads once. Its result must not depend on where or in which order it ran.
"""

import gc
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from tamnas.config.compute import ComputeParams
from tamnas.errors import WorkerError
from tamnas.pipeline.deadline import get_deadline, set_deadline
from tamnas.pipeline.plugins import load_plugins

log = logging.getLogger(__name__)
INLINE = "; `compute.engine: inline` needs none, and gives the same results"
_numbers = itertools.count()
_kept: dict[int, ProcessPoolExecutor] | None = None  # by number of workers, inside `kept_workers`


class Jobs:
    """Runs jobs over one context; use as a context manager. Workers start with the first use.

    `load_context` must be picklable (a module-level function or a `functools.partial` of one).
    """

    def __init__(self, load_context: Callable[[], Any], compute: ComputeParams):
        self._load_context, self._compute, self._number = load_context, compute, next(_numbers)
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
            if _kept is not None:
                _kept.clear()
        elif _kept is not None:
            return
        self._pool.shutdown(cancel_futures=True)

    def run_jobs(self, function: Callable[[Any, Any], Any], specs: Sequence) -> Iterator[tuple[int, Any]]:
        """Yields (index, function(spec, context)) as jobs finish, in any order.

        A job's exception ends the run and is raised here; jobs that finished were yielded.
        """
        if self._pool is None and (self._compute.engine == "inline" or min(len(specs), self._compute.workers) <= 1):
            for index, spec in enumerate(specs):
                yield index, function(spec, self.context)
            return
        how = (self._number, self._load_context, function)
        try:
            pool = self._start()
            futures = {pool.submit(_run, *how, spec, get_deadline()): index for index, spec in enumerate(specs)}
        except OSError as error:  # semaphores need a writable /dev/shm, and some containers have none
            why = f"{error.strerror}; is /dev/shm writable?"
            raise WorkerError(f"no worker process can be started ({why}){INLINE}") from None
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
            raise WorkerError(f"a worker process was killed (out of memory?); run again to go on{INLINE}") from None
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
            release_gpu_memory()
            workers, kept = self._compute.workers, {} if _kept is None else _kept
            if workers not in kept:
                # Fresh interpreters: a fork would inherit torch's thread pools in an unknown state.
                kept[workers] = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _initialise)
            self._pool = kept[workers]
        return self._pool


@contextmanager
def kept_workers() -> Iterator[None]:
    """Inside, idle workers go from one `Jobs` to the next, which loads its own context into them.

    For one process that runs many stages: importing torch anew in every worker of every stage takes longer than
    small stages do.
    """
    global _kept
    _kept = {}
    try:
        yield
    finally:
        pools, _kept = _kept, None
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)


def release_gpu_memory() -> None:
    """Give the GPU memory that this process only keeps for later to the other processes on that GPU."""
    torch = sys.modules.get("torch")  # not imported for this: most stages decide much without it
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _initialise() -> None:
    # Ctrl-C reaches the whole group; the driver ends the workers, quietly.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_driver, daemon=True).start()
    load_plugins()


def die_with_driver() -> None:
    """A driver that is killed outright cannot end its workers: they end themselves."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGKILL)


_worker: tuple[int, Any] | None = None  # number of the Jobs whose context this worker holds, and the context


def _run(number: int, load_context: Callable[[], Any], function, spec, deadline: float | None):
    global _worker
    set_deadline(deadline)
    if _worker is None or _worker[0] != number:
        _worker = None  # the old context's memory first
        release_gpu_memory()
        _worker = number, load_context()
    return function(spec, _worker[1])
