"""Jobs of the engine `ray` on a cluster of two nodes of this machine: what fails is named, and the others go on."""

import os
import re
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tamnas.config.compute import ComputeParams
from tamnas.errors import DeadlineError, DivergenceError, InputError, JobError, WorkerError
from tamnas.pipeline.deadline import set_deadline
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.progress import Progress

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.system


@pytest.fixture
def compute(cluster, tmp_path, monkeypatch) -> ComputeParams:
    """For jobs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return ComputeParams(engine="ray", address=cluster.address, device="cpu", max_retries=1)


class Context:
    """What is read from a file that only the driver has, and how often it was read."""

    def __init__(self, path: Path, marks: Path):
        from tamnas.files import opened

        with opened(path) as file:
            self.factor = int(file.read())
        (marks / f"{os.getpid()}-{time.monotonic_ns()}").touch()


def multiply(spec: int, context: Context) -> tuple[int, str, int]:
    time.sleep(0.3)
    return spec * context.factor, ray.get_runtime_context().get_node_id(), os.getpid()


def fail(spec: str, context: None) -> str:
    if spec == "diverges":
        raise DivergenceError("NaN at epoch 3", {"reason": "NaN", "epoch": 3})
    if spec == "has no memory":
        raise RuntimeError("out of memory")
    if spec == "dies":
        os.kill(os.getpid(), 9)
    if spec == "is wrong":
        raise InputError("data/digits.npz: is damaged")
    time.sleep(1)
    return spec


def dies_once(spec: Path, context: None) -> int:
    if not spec.exists():
        spec.touch()
        os.kill(os.getpid(), 9)
    return os.getpid()


def variables(spec: str, context: None) -> dict[str, str | None]:
    wanted = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES", "RAY_USAGE_STATS_ENABLED")
    return {name: os.environ.get(name) for name in wanted} | {"folder": os.getcwd(), "torch": "torch" in sys.modules}


def late(spec: int, context: None) -> None:
    from tamnas.pipeline.deadline import Pace

    Pace().require_time("job")


def nothing() -> None:
    pass


def test_jobs_run_on_both_nodes_and_each_worker_loads_its_context_once_from_the_object_store(compute, tmp_path, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "factor"
    file.write_text("10")
    with Progress("jobs", 8) as progress, Jobs(partial(Context, file, tmp_path), compute, [file], progress) as jobs:
        assert list(jobs.run_jobs(multiply, [])) == []
        results = jobs.run_jobs(multiply, list(range(8)))
        found = [next(results)]
        file.unlink()
        found += results
        again = list(jobs.run_jobs(multiply, [7]))
    assert {index: value for index, (value, *_) in found} == {index: 10 * index for index in range(8)}
    assert [value for _, (value, *_) in again] == [70]
    assert len({node for _, (_, node, _) in found}) == 2
    processes = {process for _, (*_, process) in [*found, *again]}
    assert os.getpid() not in processes
    assert len(list(tmp_path.glob(f"{next(iter(processes))}-*"))) == 1
    assert re.search(r"jobs: \d/8.* \(running \d, waiting \d", caplog.text)


def test_what_fails_is_named_and_the_others_go_on(compute, caplog):
    specs = ["fine", "diverges", "dies", "fine too", "has no memory"]
    found = {}

    def consume(jobs: Jobs) -> None:
        for index, value in jobs.run_jobs(fail, specs, "network {}".format):
            found[index] = value

    with Jobs(nothing, compute) as jobs, pytest.raises(DivergenceError, match="NaN at epoch 3") as caught:
        consume(jobs)
    assert found == {0: "fine", 3: "fine too"}
    assert caught.value.details == {"reason": "NaN", "epoch": 3}
    assert "network diverges failed: NaN at epoch 3; the other jobs go on" in caplog.text
    assert "network dies failed: its worker died, 2 times in a row" in caplog.text
    assert "network has no memory failed: out of memory" in caplog.text


def test_an_exception_of_a_job_names_it(compute):
    with Jobs(nothing, compute) as jobs, pytest.raises(JobError, match=r"^network has no memory: ") as caught:
        list(jobs.run_jobs(fail, ["has no memory"], "network {}".format))
    assert isinstance(caught.value.cause, RuntimeError)
    assert "in fail" in str(caught.value.cause.__cause__)  # the worker's traceback


@pytest.mark.slow
def test_a_worker_that_dies_for_good_is_one_error(compute):
    with (
        Jobs(nothing, compute) as jobs,
        pytest.raises(WorkerError, match=r"^network dies: its worker died, 2 times .*"),
    ):
        list(jobs.run_jobs(fail, ["dies"], "network {}".format))


@pytest.mark.slow
def test_a_worker_that_dies_once_is_replaced(compute, tmp_path):
    with Jobs(nothing, compute) as jobs:
        assert [index for index, _ in jobs.run_jobs(dies_once, [tmp_path / "met"])] == [0]


def test_bad_input_and_deadlines_stop_all(compute):
    with Jobs(nothing, compute) as jobs, pytest.raises(InputError, match=r"^data/digits\.npz: is damaged$"):
        list(jobs.run_jobs(fail, ["is wrong"] * 4))
    set_deadline(time.time() - 1)
    try:
        with Jobs(nothing, compute) as jobs, pytest.raises(DeadlineError, match="job: stopped at the deadline"):
            list(jobs.run_jobs(late, [0, 1]))
    finally:
        set_deadline(None)


def test_jobs_do_not_need_the_board(compute):
    from tamnas.pipeline.ray_jobs import RayPool

    pool = RayPool(compute)
    while not (figures := pool.figures()):  # until the board is up
        time.sleep(0.1)
    assert figures == {"running": 0, "waiting": 0}
    ray.kill(pool._board)
    future = pool.submit(os.getpid)
    assert future.result(timeout=60) != os.getpid()
    assert pool.figures() == {}
    pool.shutdown()


def test_workers_have_the_instructions_before_torch_and_the_folder(compute, tmp_path):
    with Jobs(nothing, compute) as jobs:
        ((_, seen),) = jobs.run_jobs(variables, ["one"])
    assert {name: seen[name] for name in ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA")} == {
        name: os.environ.get(name) for name in ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA")
    }
    assert seen["CUDA_VISIBLE_DEVICES"] == ""  # no share of a GPU was asked for
    assert seen["folder"] == str(tmp_path)


def test_jobs_that_are_broken_off_end(compute, tmp_path):
    def interrupted() -> None:
        with Jobs(nothing, compute) as jobs:
            next(jobs.run_jobs(linger, [tmp_path, None, tmp_path, tmp_path]))
            deadline = time.monotonic() + 60
            while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    before = len(list(tmp_path.iterdir()))
    time.sleep(1)
    assert 0 < len(list(tmp_path.iterdir())) == before


def linger(folder: Path | None, context: None) -> None:
    while folder is not None:
        (folder / str(time.monotonic_ns())).touch()
        time.sleep(0.1)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379"])
def test_a_cluster_that_is_not_there_is_one_line(monkeypatch, address):
    from tamnas.pipeline import ray_jobs

    monkeypatch.setattr(ray_jobs.ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=rf"^compute\.address is '{re.escape(address)}': no cluster answers there \("):
        ray_jobs.connect(ComputeParams(engine="ray", address=address))
    monkeypatch.setenv("RAY_ADDRESS", "localhost:port")  # which no params.yaml may say
    with pytest.raises(InputError, match=r"^\$RAY_ADDRESS is 'localhost:port': no cluster answers there \(invalid"):
        ray_jobs.connect(ComputeParams(engine="ray"))


def test_a_cluster_that_is_refused_is_left(monkeypatch):
    """Else the next stage of the process would find it joined."""
    from tamnas.pipeline import ray_jobs

    def refuse() -> None:
        raise InputError("/code: holds other code on node node-7 of the cluster")

    left = []
    for name, stand_in in {
        "is_initialized": lambda: False,
        "init": lambda **_: None,
        "shutdown": lambda: left.append(1),
    }.items():
        monkeypatch.setattr(ray_jobs.ray, name, stand_in)
    monkeypatch.setattr(ray_jobs, "_require_same_files", refuse)
    for _ in range(2):
        with pytest.raises(InputError, match="other code"):
            ray_jobs.connect(ComputeParams(engine="ray"))
    assert len(left) == 2


def test_a_node_without_the_folder_or_with_other_code_is_one_line(compute):
    from tamnas.pipeline import ray_jobs

    here = {"/code": "abc", "/runs/.seen-1": "there", "torch": "2.11"}

    def refused(**there) -> str:
        ray_jobs.connect(compute)
        with pytest.raises(InputError) as caught:
            ray_jobs._require_same("node-7", here, ray.put(here | there))
        return str(caught.value)

    assert refused(**{"/runs/.seen-1": None}).startswith("/runs: is not on node node-7 of the cluster;")
    assert refused(**{"/code": "abd"}) == "/code: holds other code on node node-7 of the cluster"
    assert refused(torch="2.12") == "node node-7 of the cluster has torch 2.12, this machine 2.11"
    ray_jobs._require_same("node-7", here, ray.put(here))
