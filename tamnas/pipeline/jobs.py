"""Where independent jobs run: in this process, in several local ones, or on a Ray cluster. Nothing else knows.

A job is a module-level function of a picklable spec and a context (data, supernet, ...) that
each worker loads once. Its result must not depend on where or in which order it ran.
"""

import copy
import gc
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamnas.config.compute import ComputeParams
from tamnas.errors import DeadlineError, DivergenceError, InputError, JobError, WorkerError
from tamnas.pipeline.command import OUT_OF_SPACE
from tamnas.pipeline.deadline import get_deadline, set_deadline
from tamnas.pipeline.plugins import load_plugins
from tamnas.pipeline.progress import Progress

if TYPE_CHECKING:
    from tamnas.pipeline.ray_jobs import RayPool

log = logging.getLogger(__name__)
INLINE = "; `compute.engine: inline` needs none, and gives the same results"
FIGURES_SECONDS = 5.0  # between looks at how many jobs run and wait
_numbers = itertools.count()
_kept: dict[int, ProcessPoolExecutor] | None = None  # by number of workers, inside `kept_workers`


class Jobs:
    """Runs jobs over one context; use as a context manager. Workers start with the first use.

    `load_context` must be picklable: a module-level function, a `functools.partial` of one, or a method. `files` is
    what it reads, which a cluster gets once. `progress` shows how many jobs run and wait there.
    """

    def __init__(
        self,
        load_context: Callable[[], Any],
        compute: ComputeParams,
        files: Sequence[Path] = (),
        progress: Progress | None = None,
    ):
        self._load_context, self._compute, self._number = load_context, compute, next(_numbers)
        self._files, self._progress = files, progress
        self._pool: ProcessPoolExecutor | RayPool | None = None
        self._context: Any = None

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, kind, *_) -> None:
        if self._pool is None:
            return
        local = self._compute.engine != "ray"
        if local and kind is not None:  # running jobs have checkpoints; the stage's lock must not go before they end
            for worker in multiprocessing.active_children():
                worker.kill()
            if _kept is not None:
                _kept.clear()
        elif local and _kept is not None:
            return
        self._pool.shutdown(cancel_futures=True)

    def run_jobs(
        self, function: Callable[[Any, Any], Any], specs: Sequence, name: Callable[[Any], str] = str
    ) -> Iterator[tuple[int, Any]]:
        """Yields (index, function(spec, context)) as jobs finish, in any order: each is counted and kept as it ends.

        Callers put results in the order of `specs` by their index, so that files do not tell which job was faster.
        A job that fails is told by `name`; the others are finished and yielded, then the first failure by index is
        raised, which names the job. At once is raised what is everyone's: bad input, a full disk; and in
        this process, where jobs run one after another, any failure. Raises InputError, DeadlineError and
        DivergenceError as they are, WorkerError with the job's name, and JobError for other exceptions of a job.
        """
        if self._pool is None and self._needs_no_workers(len(specs)):
            for index, spec in enumerate(specs):
                try:
                    result = function(spec, self.context)
                except Exception as error:
                    raise _named(name(spec), error)  # noqa: B904 - a JobError has its cause
                yield index, result
            return
        how, cluster = (self._number, self._load_context, function), self._compute.engine == "ray"
        try:
            with nullcontext() if cluster else starting_processes(INLINE):
                pool = self._start()
                futures = {pool.submit(_run, *how, spec, get_deadline()): index for index, spec in enumerate(specs)}
            waiting, failed = set(futures), {}
            while waiting:
                done, waiting = wait(waiting, timeout=FIGURES_SECONDS if cluster else None, return_when=FIRST_COMPLETED)
                if cluster and self._progress is not None:
                    self._progress.note(**pool.figures())
                for future in sorted(done, key=lambda future: future.exception() is not None):
                    index, error = futures[future], future.exception()
                    if error is None:
                        yield index, future.result()
                        continue
                    failed[index] = _named(name(specs[index]), error)
                    if _is_everyones(error):
                        raise failed[index]
                    if not isinstance(error, DeadlineError):  # which each job meets at its own time
                        what = str(error) or repr(error)
                        log.warning("%s failed: %s; the other jobs go on", name(specs[index]), what)
            if failed:
                raise failed[min(failed)]
        except BrokenProcessPool:
            raise WorkerError(f"a worker process was killed (out of memory?); run again to go on{INLINE}") from None

    def _needs_no_workers(self, jobs: int) -> bool:
        match self._compute.engine:
            case "inline":
                return True
            case "processes":
                return min(jobs, self._compute.workers) <= 1
        return jobs == 0

    @property
    def context(self):
        """The context in this process, loaded on first use."""
        if self._context is None:
            self._context = self._load_context()
        return self._context

    def _start(self) -> "ProcessPoolExecutor | RayPool":
        if self._pool is None and self._compute.engine == "ray":
            from tamnas.pipeline.ray_jobs import RayPool  # here: Ray is an extra

            self._pool = RayPool(self._compute, self._files)
        if self._pool is None:
            release_gpu_memory()
            workers, kept = self._compute.workers, {} if _kept is None else _kept
            if workers not in kept:
                # Fresh interpreters: a fork would inherit torch's thread pools in an unknown state.
                kept[workers] = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _initialise)
            self._pool = kept[workers]
        return self._pool


@contextmanager
def starting_processes(instead: str) -> Iterator[None]:
    """Workers that start inside never see Ctrl-C, which reaches the whole group: the driver ends them, quietly.

    Raises WorkerError, with what can be done `instead`, where no process can share anything.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited; not lost for this process
    try:
        yield
    except OSError as error:  # semaphores need a writable /dev/shm, and some containers have none
        why = f"{error.strerror}; is /dev/shm writable?"
        raise WorkerError(f"no worker process can be started ({why}){instead}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_everyones(error: BaseException) -> bool:
    """Whether it would meet the other jobs, too."""
    everyones = InputError, BrokenProcessPool
    return isinstance(error, everyones) or (isinstance(error, OSError) and error.errno in OUT_OF_SPACE)


def _named(name: str, error: BaseException) -> BaseException:
    """A job's failure, with the job's name where its class does not bring one."""
    match error:
        case InputError() | DeadlineError() | DivergenceError() | BrokenProcessPool():
            return error
        case WorkerError():
            return WorkerError(f"{name}: {error}; run again to go on")
    return JobError(name, error)


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
    try:
        return function(spec, _worker[1])
    except Exception as error:
        # One that cannot be made anew of its arguments, a plugin's perhaps, would end the pool: its words are sent.
        try:
            copy.copy(error)
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise
