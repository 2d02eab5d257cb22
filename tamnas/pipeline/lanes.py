"""Stage instances beside each other, each in a process, or one after another in this one: the runner's `--parallel`.

Processes go on from stage to stage, as importing torch takes seconds. Nothing here needs torch.
"""

import io
import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

from tamnas.config.compute import load_compute, share_workers
from tamnas.pipeline.jobs import die_with_driver, kept_workers, starting_processes
from tamnas.pipeline.plugins import load_plugins

ONE = "; `--parallel 1` needs none, and gives the same results"


class Here(Executor):
    """Calls at once, in this process; what ends the process (Ctrl-C) is no result."""

    def submit(self, function: Callable, name: str, *arguments) -> Future:
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


class Beside(ProcessPoolExecutor):
    """Processes that share `compute.workers`; what a call writes stands on lines that begin with its name."""

    def __init__(self, lanes: int):
        super().__init__(lanes, multiprocessing.get_context("spawn"), _initialise, (lanes,))

    def submit(self, function: Callable, name: str, *arguments) -> Future:
        with starting_processes(ONE):
            return super().submit(_named, name, function, *arguments)


@contextmanager
def lanes(number: int) -> Iterator[Executor]:
    """`submit(function, name, ...)` runs so many calls at once. If the block breaks off (Ctrl-C), they are ended."""
    if number == 1:
        with kept_workers():
            yield Here()
        return
    with ExitStack() as around:
        compute = load_compute()
        if compute.engine == "ray" and not compute.address:
            from tamnas.pipeline.ray_jobs import cluster

            around.enter_context(cluster(compute))  # one for all lanes
        with starting_processes(ONE):
            pool = Beside(number)
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _initialise(lanes: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # a stage ends its own workers on the way out
    threading.Thread(target=die_with_driver, daemon=True).start()
    share_workers(lanes)
    load_plugins()


class _Named(io.TextIOBase):
    """Passes lines on when they are whole, behind a name; no terminal, so that progress is in plain lines."""

    def __init__(self, name: str, stream: io.TextIOBase):
        self._name, self._stream, self._rest = name, stream, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self._stream.write("".join(f"{self._name}: {line}\n" for line in lines))
        self._stream.flush()
        return len(text)

    def finish(self) -> None:
        """Not `close`: handlers of libraries that were imported meanwhile keep the stream."""
        if self._rest:
            self.write("\n")


def _named(name: str, function: Callable, *arguments):
    out, err = _Named(name, sys.stdout), _Named(name, sys.stderr)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
            return function(*arguments)
    finally:
        out.finish()
        err.finish()
