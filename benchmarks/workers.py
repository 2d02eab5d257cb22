"""Worker processes for the benchmarks: one pool, in which a chosen number of workers is busy.

With one pool for all numbers of workers the numbers can take turns: starting workers anew in every
turn would cost more than what is measured, and a pool for each would hold all their memory at once.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tamnas.config.compute import ComputeParams
from tamnas.pipeline.jobs import Jobs


def _each_of(function: Callable[[Any, Any], Any], specs: Sequence, context: Any) -> list:
    return [function(spec, context) for spec in specs]


def _arrive_at(folder: str, workers: int, context: Any) -> None:
    """A job that ends once so many workers run it: none can take two, and all hold the context then."""
    (Path(folder) / str(os.getpid())).touch()
    while len(os.listdir(folder)) < workers:
        time.sleep(0.01)


class Workers:
    """`workers` processes with a context each; use as a context manager. On entering all are up.

    `load_context` as for `Jobs`.
    """

    def __init__(self, load_context: Callable[[], Any], compute: ComputeParams, workers: int):
        self._workers = workers
        self._jobs = Jobs(load_context, compute.model_copy(update={"engine": "processes", "workers": workers}))

    def __enter__(self) -> "Workers":
        self._jobs.__enter__()
        with tempfile.TemporaryDirectory() as folder:
            list(self._jobs.run_jobs(partial(_arrive_at, folder), [self._workers] * self._workers))
        return self

    def __exit__(self, *error) -> None:
        self._jobs.__exit__(*error)

    def run(self, function: Callable[[Any, Any], Any], specs: Sequence, count: int) -> list:
        """function(spec, context) of each spec, in their order, dealt out to `count` workers beforehand."""
        groups = [specs[first::count] for first in range(min(count, len(specs)))]
        results: list = [None] * len(specs)
        for first, outcomes in self._jobs.run_jobs(partial(_each_of, function), groups):
            results[first::count] = outcomes
        return results
