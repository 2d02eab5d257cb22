"""Jobs in this process and in several: the same results, one context a worker, errors with their type."""

import errno
import os
import pickle
import time
from functools import partial
from pathlib import Path

import pytest

from tamnas.config.compute import ComputeParams, load_compute, share_workers
from tamnas.errors import DeadlineError, DivergenceError, InputError, JobError, WorkerError
from tamnas.pipeline.jobs import Jobs, kept_workers
from tamnas.pipeline.lanes import lanes

INLINE = ComputeParams(engine="inline", workers=2, device="cpu")
PROCESSES = ComputeParams(engine="processes", workers=2, device="cpu")
ENGINES = pytest.mark.parametrize("compute", [INLINE, PROCESSES], ids=lambda compute: compute.engine)


def load(folder: Path, factor: int) -> dict:
    """A context, and a mark in `folder` for every time that one is loaded."""
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return {"factor": factor, "process": os.getpid(), "used": 0}


def multiply(spec: int, context: dict) -> tuple[int, int, int]:
    context["used"] += 1
    return spec * context["factor"], context["process"], os.getpid()


ERRORS = {
    "InputError": InputError,
    "DivergenceError": partial(DivergenceError, details={"epoch": 3}),
    "MemoryError": MemoryError,
    "RuntimeError": RuntimeError,
    "DeadlineError": DeadlineError,
    "full": partial(OSError, errno.ENOSPC),
    "Own": lambda text: OwnError("of a plugin", text),
}


class OwnError(Exception):
    """Cannot be made anew of its `args`."""

    def __init__(self, where: str, what: str):
        super().__init__(f"{where}: {what}")


def fail(spec: dict, context: dict) -> int:
    time.sleep(spec.get("sleep", 0))  # the others finish first
    if "error" in spec:
        raise ERRORS[spec["error"]]("epoch 3, step 2 of 9")
    return spec["value"]


def die(spec: int, context: dict) -> None:
    os.kill(os.getpid(), 9)


def refuse(folder: Path) -> dict:
    raise InputError("data/digits.npz: no prepared train split")


def running(folder: Path, compute: ComputeParams) -> Jobs:
    return Jobs(partial(load, folder, 10), compute)


def test_engines_agree_and_workers_load_their_context_once(tmp_path):
    found = {}
    for compute in (INLINE, PROCESSES):
        folder = tmp_path / compute.engine
        folder.mkdir()
        with running(folder, compute) as jobs:
            first = dict(jobs.run_jobs(multiply, list(range(12))))
            second = dict(jobs.run_jobs(multiply, [7]))
        found[compute.engine] = [{index: value for index, (value, *_) in one.items()} for one in (first, second)]
        users = {process for one in (first, second) for _, _, process in one.values()}
        assert all(loaded == process for one in (first, second) for _, loaded, process in one.values())
        loads = list(folder.iterdir())
        if compute is INLINE:
            assert users == {os.getpid()}
            assert len(loads) == 1
        else:
            assert os.getpid() not in users
            # a worker with nothing to do may be there as well
            assert len(users) <= len(loads) == len({path.name.partition("-")[0] for path in loads}) <= 2
    assert found["inline"] == found["processes"] == [{index: 10 * index for index in range(12)}, {0: 70}]


@pytest.mark.parametrize(
    ("specs", "compute"), [([4], PROCESSES), ([4, 5], PROCESSES.model_copy(update={"workers": 1})), ([], PROCESSES)]
)
def test_no_process_is_started_for_one_job_or_worker(tmp_path, specs, compute):
    with running(tmp_path, compute) as jobs:
        results = dict(jobs.run_jobs(multiply, specs))
    assert all(process == os.getpid() for _, _, process in results.values())
    assert [value for value, *_ in results.values()] == [10 * spec for spec in specs]
    assert len(list(tmp_path.iterdir())) == (1 if specs else 0)


@ENGINES
@pytest.mark.parametrize("kind", [InputError, DivergenceError])
def test_an_exception_is_raised_with_its_type_after_what_was_finished(tmp_path, compute, kind):
    specs = [{"value": 1}, {"value": 2}, {"error": kind.__name__, "sleep": 1}, *({"value": i} for i in range(3, 6))]
    yielded = {}

    def consume(jobs):
        for index, value in jobs.run_jobs(fail, specs):
            yielded[index] = value

    with running(tmp_path, compute) as jobs, pytest.raises(kind, match=r"^epoch 3, step 2 of 9$") as caught:
        consume(jobs)
    if kind is DivergenceError:
        assert caught.value.details == {"epoch": 3}
    assert yielded.items() >= {0: 1, 1: 2}.items()
    assert all(value == specs[index]["value"] for index, value in yielded.items())
    if compute is INLINE:
        assert set(yielded) == {0, 1}


def test_what_the_deadline_stops_lets_others_end(tmp_path, caplog):
    found = []
    with running(tmp_path, PROCESSES) as jobs, pytest.raises(DeadlineError):
        found.extend(jobs.run_jobs(fail, [{"error": "DeadlineError"}, *[{"value": 1, "sleep": 0.5}] * 3]))
    assert sorted(found) == [(1, 1), (2, 1), (3, 1)]
    assert not caplog.records


def test_an_exception_that_cannot_be_sent_is_told_by_its_words(tmp_path):
    text = r"""^one: RuntimeError\('OwnError: of a plugin: epoch 3, step 2 of 9'\)$"""
    with running(tmp_path, PROCESSES) as jobs, pytest.raises(JobError, match=text):
        list(jobs.run_jobs(fail, [{"error": "Own"}, {"value": 1}], "one".format))


def test_a_killed_worker_is_told_from_a_bug(tmp_path):
    with running(tmp_path, PROCESSES) as jobs, pytest.raises(WorkerError, match="a worker process was killed"):
        list(jobs.run_jobs(die, [1, 2]))


def test_so_is_one_that_dies_between_two_calls(tmp_path):
    with kept_workers():

        def die_idle(jobs: Jobs) -> None:
            *_, (_, (_, pid, _)) = jobs.run_jobs(multiply, [1, 2])
            os.kill(pid, 9)
            time.sleep(0.5)  # until the pool has seen it
            list(jobs.run_jobs(multiply, [1, 2]))

        with pytest.raises(WorkerError, match="a worker process was killed"), running(tmp_path, PROCESSES) as jobs:
            die_idle(jobs)
        with running(tmp_path, PROCESSES) as jobs:
            assert {value for _, (value, *_) in jobs.run_jobs(multiply, [1, 2])} == {10, 20}


@ENGINES
def test_bad_input_found_by_the_context_keeps_its_type(tmp_path, compute):
    with Jobs(partial(refuse, tmp_path), compute) as jobs, pytest.raises(InputError, match="no prepared train split"):
        list(jobs.run_jobs(multiply, [1, 2]))


@ENGINES
def test_no_worker_outlives_the_jobs(tmp_path, compute):
    with running(tmp_path, compute) as jobs:
        processes = {process for _, (_, _, process) in jobs.run_jobs(multiply, [1, 2, 3])}
    processes -= {os.getpid()}
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


def test_kept_workers_serve_the_next_jobs_with_its_own_context_and_end_with_the_block(tmp_path):
    with kept_workers():
        with Jobs(partial(load, tmp_path, 10), PROCESSES) as jobs:
            first = dict(jobs.run_jobs(multiply, [1, 2, 3, 4]))
        with Jobs(partial(load, tmp_path, 100), PROCESSES) as jobs:
            second = dict(jobs.run_jobs(multiply, [1, 2, 3, 4]))
        assert [value for value, *_ in second.values()] != [value for value, *_ in first.values()]
        assert {index: value for index, (value, *_) in second.items()} == {0: 100, 1: 200, 2: 300, 3: 400}
        processes = {process for found in (first, second) for _, _, process in found.values()}
        assert len(processes) <= 2
        # A failure takes the workers with it; what comes next starts fresh ones.
        with Jobs(partial(refuse, tmp_path), PROCESSES) as jobs, pytest.raises(InputError):
            list(jobs.run_jobs(multiply, [1, 2]))
        with Jobs(partial(load, tmp_path, 1000), PROCESSES) as jobs:
            third = dict(jobs.run_jobs(multiply, [1, 2]))
        assert {index: value for index, (value, *_) in third.items()} == {0: 1000, 1: 2000}
        processes |= {process for _, _, process in third.values()}
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EROFS, errno.ENOENT], ids=errno.errorcode.get)
def test_without_shared_memory_the_way_out_is_named(tmp_path, monkeypatch, number):
    def semaphore(*args, **kwargs):
        raise OSError(number, os.strerror(number))  # as `_multiprocessing.SemLock` does without a writable /dev/shm

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", semaphore)
    with running(tmp_path, PROCESSES) as jobs, pytest.raises(WorkerError, match=r"`compute\.engine: inline` needs"):
        list(jobs.run_jobs(multiply, [1, 2]))
    with pytest.raises(WorkerError, match=r"is /dev/shm writable.*`--parallel 1` needs none"), lanes(2):
        pass
    with running(tmp_path, INLINE) as jobs:
        assert [result[0] for _, result in jobs.run_jobs(multiply, [1, 2])] == [10, 20]


@ENGINES
@pytest.mark.parametrize("name", ["MemoryError", "RuntimeError"])
def test_a_failure_names_its_job_and_the_others_are_finished(tmp_path, compute, name):
    specs, found = [{"error": name}, *({"value": value} for value in range(1, 5)), {"error": "DivergenceError"}], {}

    def consume(jobs: Jobs) -> None:
        for index, value in jobs.run_jobs(fail, specs, lambda spec: f"network {spec.get('error')}"):
            found[index] = value

    with running(tmp_path, compute) as jobs, pytest.raises(JobError) as caught:
        consume(jobs)
    assert found == ({} if compute is INLINE else {index: index for index in range(1, 5)})
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):  # from lane to runner
        assert str(error) == f"network {name}: {name}('epoch 3, step 2 of 9')"
        assert isinstance(error.__cause__, ERRORS[name])


def test_a_full_disk_ends_all(tmp_path):
    found = []
    with running(tmp_path, PROCESSES) as jobs, pytest.raises(JobError, match=r"^network 0: OSError\(28, "):
        found.extend(jobs.run_jobs(fail, [{"error": "full"}, *[{"value": 1, "sleep": 1}] * 3], "network 0".format))
    assert not found


def test_stages_beside_each_other_share_the_workers(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("compute: {workers: 5}")
    try:
        shares = []
        for stages in (1, 2, 8):
            share_workers(stages)
            shares.append(load_compute(path).workers)
    finally:
        share_workers(1)
    assert shares == [5, 2, 1]
