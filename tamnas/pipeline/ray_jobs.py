"""The engine `ray`: jobs as tasks of a Ray cluster, of this machine or of many. Nothing else starts or joins one.

What a job needs of the run folder it reads and writes there, so every node must see that folder, and the same code,
under the same path (docs/cluster.md): both are checked when the cluster is joined. Ray places the jobs, and runs one
anew whose worker or node died; it then goes on from its checkpoint.
"""

import hashlib
import importlib.metadata
import logging
import math
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Ray reads these when it is imported. The second: what Ray Train repeats where there is no dashboard.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Failed to query Ray Train Controller actor state")

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tamnas.config.compute import ComputeParams
from tamnas.errors import InputError, WorkerError
from tamnas.files import hold
from tamnas.pipeline.code import ROOT
from tamnas.pipeline.instructions import AVX2
from tamnas.pipeline.plugins import load_plugins
from tamnas.pipeline.store import checkpoints_root

log = logging.getLogger(__name__)
ADDRESS = "RAY_ADDRESS"  # Ray's own variable for the cluster to join
ANSWER_SECONDS = 120  # for a node to look at its files
END_SECONDS = 30  # for cancelled jobs to end
BOARD_SECONDS = 10  # for what is only shown
DEATHS = ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError


def connect(compute: ComputeParams) -> None:
    """Join the cluster at `compute.address` or $RAY_ADDRESS; else start one here, which ends with this process.

    Once a process; further calls do nothing. Raises InputError if the cluster does not answer, or if a node lacks the
    run folder or has other code.
    """
    if ray.is_initialized():
        return
    address = compute.address or os.environ.get(ADDRESS) or "local"
    named = f"{'compute.address' if compute.address else f'${ADDRESS}'} is {address!r}"
    if address == "local":
        cpus = math.ceil(compute.workers * compute.cpus_per_job)
        where: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False}
    else:
        _require_answer(address, named)
        where = {}
    try:
        environment = {"env_vars": _variables(compute)}
        ray.init(address=address, runtime_env=environment, logging_level=logging.WARNING, **where)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise InputError(f"{named}: {why}; is RAY_AUTH_MODE that of the cluster?") from None
    try:
        _require_same_files()
    except InputError:
        ray.shutdown()  # else the next stage of this process would find it joined
        raise


@contextmanager
def cluster(compute: ComputeParams) -> Iterator[None]:
    """The cluster, joined or started, for this process and, by $RAY_ADDRESS, for those that it starts."""
    connect(compute)
    before = os.environ.get(ADDRESS)
    os.environ[ADDRESS] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        os.environ.pop(ADDRESS)
        if before is not None:
            os.environ[ADDRESS] = before
        ray.shutdown()


def _require_answer(address: str, named: str) -> None:
    """Ray itself tries for minutes. Raises InputError, which says how the address is `named`."""
    host, _, port = address.rpartition(":")
    try:
        if host:  # "auto" has none
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{named}: no cluster answers there ({error})") from None


def _variables(compute: ComputeParams) -> dict[str, str]:
    """Environment of every worker: this checkout's code, and what torch reads when it is imported."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    found = {"PYTHONPATH": path} | {name: os.environ[name] for name in AVX2 if name in os.environ}
    return found if compute.gpus_per_job else found | {"CUDA_VISIBLE_DEVICES": ""}


def _require_same_files() -> None:
    """Raises InputError unless every node that runs jobs sees the run's folders and the same code and packages."""

    def look(root: str, marks: Sequence[str]) -> dict[str, str | None]:  # sent as it is: the node may lack this module
        files = sorted(path for name in ("tamnas", "plugins") for path in Path(root, name).rglob("*.py"))
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else None
        seen = {mark: "there" if Path(mark).exists() else None for mark in marks}
        return {root: digest, **seen, "torch": importlib.metadata.version("torch")}

    folders = [folder for folder in {Path.cwd(), checkpoints_root().absolute()} if folder.is_dir()]
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    # cloudpickle sends a function that no module holds by value.
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    with ExitStack() as stack:
        marks = [stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-")) for folder in folders]
        asked = str(ROOT), [mark.name for mark in marks]
        here, answers = look(*asked), []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers.append(task.options(scheduling_strategy=there).remote(*asked))
        for node, answer in zip(nodes, answers, strict=True):
            _require_same(node["NodeManagerHostname"], here, answer)


def _require_same(node: str, here: dict[str, str | None], answer: ray.ObjectRef) -> None:
    try:
        there = ray.get(answer, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError as error:
        raise InputError(f"node {node} of the cluster: {str(error).strip().splitlines()[-1]}") from None
    for what, value in here.items():
        if there[what] == value:
            continue
        if there[what] is None:
            folder = what if what == str(ROOT) else str(Path(what).parent)
            raise InputError(
                f"{folder}: is not on node {node} of the cluster; it must be on storage that all nodes share"
            )
        if what == "torch":
            raise InputError(f"node {node} of the cluster has torch {there[what]}, this machine {value}")
        raise InputError(f"{what}: holds other code on node {node} of the cluster")


@dataclass(frozen=True)
class Place:
    """What a worker takes over from the process that sends it jobs: the run's folder, and files by path."""

    folder: str
    files: tuple[tuple[Path, list[ray.ObjectRef]], ...] = ()

    @classmethod
    def here(cls, files: Sequence[Path] = ()) -> "Place":
        """The contents of `files` go into the object store, once for all workers."""
        # In a list, a reference is handed on as it is.
        return cls(
            os.getcwd(), tuple((file, [ray.put(np.fromfile(file, np.uint8))]) for file in files if file.exists())
        )

    def enter(self) -> None:
        """In a worker, before every job. Raises InputError."""
        global _entered
        if _entered == self.key:
            return
        if not Path(self.folder).is_dir():
            node = ray.util.get_node_ip_address()
            raise InputError(f"{self.folder}: is not on node {node} of the cluster; all nodes must share it")
        os.chdir(self.folder)
        load_plugins()
        hold({path: ray.get(reference).data for path, (reference,) in self.files})
        _entered = self.key

    @property
    def key(self) -> tuple:
        return self.folder, *(reference.hex() for _, (reference,) in self.files)


_entered: tuple | None = None  # key of the place that this worker is in


class Board:
    """An actor: how often each job was started. What is started and not finished, runs."""

    def __init__(self):
        self._starts: Counter[int] = Counter()

    def note(self, job: int) -> None:
        self._starts[job] += 1

    def starts(self) -> Counter[int]:
        return self._starts


class RayPool:
    """Sends calls to the cluster as concurrent.futures' executors do. `files`: what they read, in the object store."""

    def __init__(self, compute: ComputeParams, files: Sequence[Path] = ()):
        connect(compute)
        self._place, self._waiting, self._count = Place.here(files), {}, 0
        resources = {"num_cpus": compute.cpus_per_job, "num_gpus": compute.gpus_per_job}
        self._task = ray.remote(_call).options(**resources, max_retries=compute.max_retries)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self._retries = compute.max_retries

    def submit(self, function, *arguments) -> Future:
        """Its future fails with what the function raised, or with a WorkerError if its worker died too often."""
        number, self._count = self._count, self._count + 1
        # By reference: what plugins register must be there before arguments are read.
        reference = self._task.remote(self._place, self._board, number, [ray.put((function, arguments))])
        future: Future = Future()
        self._waiting[number] = reference
        reference.future().add_done_callback(lambda done: self._settle(number, future, done))
        return future

    def _settle(self, number: int, future: Future, done: Future) -> None:
        self._waiting.pop(number, None)
        if not future.set_running_or_notify_cancel():
            return
        match done.exception():
            case None:
                future.set_result(done.result())
            case ray.exceptions.RayTaskError(cause=Exception() as cause) as error:
                cause.__cause__ = error  # with the worker's traceback
                future.set_exception(cause)
            case error:
                died = isinstance(error, DEATHS)
                what = f"its worker died, {self._retries + 1} times in a row" if died else "Ray cannot run it"
                future.set_exception(WorkerError(f"{what} ({str(error).strip().splitlines()[0]})"))

    def figures(self) -> dict[str, int]:
        """How many jobs run and how many wait; how many were started again, if any. Nothing while the board is lost."""
        try:
            starts, unfinished = ray.get(self._board.starts.remote(), timeout=BOARD_SECONDS), list(self._waiting)
        except ray.exceptions.RayError:  # with its node, perhaps; the jobs do not need it
            return {}
        running = sum(number in starts for number in unfinished)
        again = sum(starts.values()) - len(starts)
        return {"running": running, "waiting": len(unfinished) - running, **({"again": again} if again else {})}

    def shutdown(self, cancel_futures: bool = False) -> None:
        """End what still runs; the objects and the board go with this pool."""
        left, until = list(self._waiting.values()), time.monotonic() + END_SECONDS
        while left and time.monotonic() < until:
            for reference in left:  # more than once: a job that begins at that moment misses it
                ray.cancel(reference, force=True)
            _, left = ray.wait(left, num_returns=len(left), timeout=1, fetch_local=False)
        ray.kill(self._board)
        self._place = self._task = None


def _call(place: Place, board, number: int, call: list[ray.ObjectRef]):
    """In a worker."""
    board.note.remote(number)
    place.enter()
    function, arguments = ray.get(call[0])
    return function(*arguments)
