"""The engine `ray` on a cluster of two nodes of this machine: the same bytes, whatever dies, and errors by name."""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tamnas.config.compute import ComputeParams, load_compute
from tamnas.errors import DeadlineError, DivergenceError, InputError, JobError, WorkerError
from tamnas.pipeline import runner
from tamnas.pipeline.deadline import set_deadline
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.lanes import lanes
from tamnas.pipeline.progress import Progress
from tests.helpers.tiny import ROW, contents, copy_of, invoke, run_here, stage, tiny_params, write_params

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def cluster():
    """A head and another node with a CPU each: two raylets, each with its own workers and object store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        yield made
        ray.shutdown()
        made.shutdown()


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
    assert pool.figures() == {"running": 0, "waiting": 0}
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


# -- stages ------------------------------------------------------------------------------------


def on_cluster(address: str | None, **changed) -> dict:
    raw = tiny_params()
    raw["compute"] |= {"engine": "ray", "address": address}
    for key, value in changed.items():
        raw["retrain"]["scratch"][key] = value
    return raw


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["retrain_scratch"], ["supernet_block", "search", "retrain_finetune", "evaluate_scratch"]], ids="-".join
)
def test_stages_on_the_cluster_leave_the_same_bytes(cluster, finished_run, folder, names):
    """As with engine `processes`, and as `inline`."""
    for engine in ("ray", "processes"):
        raw = on_cluster(cluster.address)
        raw["compute"] |= {"engine": engine, "workers": 2}
        place = folder / engine
        place.mkdir()
        write_params(place, raw)
        copy_of(finished_run, place, "data", "runs", "results")
        with contextlib.chdir(place):
            assert runner.run(only=names) == []
        for top in ("runs", "results"):
            assert contents(place, top) == contents(finished_run, top)


def test_the_engine_needs_ray(folder, monkeypatch):
    write_params(folder, on_cluster(None))
    monkeypatch.setattr("tamnas.config.compute.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"^params\.yaml: compute\.engine is 'ray', which is not installed: pip install"
    ):
        load_compute()


def test_ranks_need_the_engine(finished_run, folder):
    raw = tiny_params()
    raw["supernet"]["ranks"] = 2
    write_params(folder, raw)
    copy_of(finished_run, folder, "data")
    run_here(folder, "plan")
    done = invoke("supernet", "block", ROW)
    assert (done.exit_code, done.stderr) == (2, "error: supernet.ranks is 2: compute.engine must be ray, not inline\n")


@pytest.mark.slow
def test_ray_train_trains_a_phase_on_two_ranks(cluster, finished_run, folder):
    """What ranks compute: tests/unit/test_ranks.py. Here that Ray Train places them and that the stage takes over."""
    raw = on_cluster(cluster.address)
    raw["supernet"]["ranks"] = 2
    write_params(folder, raw)
    copy_of(finished_run, folder, "data")
    run_here(folder, "plan", "supernet_block")
    ours, theirs = (
        pd.read_csv(root / "results" / "digits" / "supernet_block" / ROW / "curve.csv")
        for root in (folder, finished_run)
    )
    assert ours.loss.to_numpy() == pytest.approx(theirs.loss.to_numpy(), rel=1e-3)
    assert (folder / "runs" / ROW / "block.safetensors").exists()
    assert not list(folder.rglob("ray-train"))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_of_its_own_ends_with_the_stage(finished_run, folder, how):
    raw = on_cluster(None, epochs=5000)
    write_params(folder, raw)
    copy_of(finished_run, folder, "data", "runs", "results")
    run_here(folder, "plan")
    process = stage(folder, "retrain", "scratch", ROW)
    while not list(folder.glob(".checkpoints/retrain_scratch/*/*/*.state.safetensors")):
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    assert {"raylet", "gcs_server"} <= {member.name() for member in family}
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=30)
    # Two helpers of Ray's look for their raylet only now and then.
    assert {member.name() for member in alive} <= {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted; the next run goes on from the last checkpoint" in said


def meet(spec: tuple[str, Path], context: None) -> str:
    """A job that ends when the other lane's runs, too; the address of the cluster that it is on."""
    own, folder = spec
    (folder / own).touch()
    deadline = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(list(folder.iterdir())) == 2
    return ray.get_runtime_context().gcs_address


def in_lane(name: str, folder: Path) -> str:
    with Jobs(nothing, load_compute()) as jobs:
        ((_, address),) = jobs.run_jobs(meet, [(name, folder)])
    return address


@pytest.mark.slow
def test_lanes_run_side_by_side_on_one_cluster_that_ends_with_them(folder):
    raw = on_cluster(None)
    raw["compute"]["workers"] = 2
    write_params(folder, raw)
    (folder / "met").mkdir()
    ray.shutdown()  # of the tests before
    with lanes(2) as pool:
        started = os.environ["RAY_ADDRESS"]
        rows = [pool.submit(in_lane, name, name, folder / "met") for name in ("one", "other")]
        assert {row.result(timeout=300) for row in rows} == {started}
    assert "RAY_ADDRESS" not in os.environ
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["joined", "own"])
def test_rows_beside_each_other_leave_the_same_bytes(cluster, finished_run, folder, own):
    raw = on_cluster(None if own else cluster.address)
    raw["compute"]["workers"] = 2
    ray.shutdown()  # of the tests before
    raw["baselines"]["names"] = []
    raw["modes"]["other"] = {"supernet": {"lam": 0.5}}
    raw["run"]["rows"]["digits-other"] = {"dataset": "digits", "mode": "other"}
    write_params(folder, raw)
    assert runner.run(until="retrain_scratch", parallel=2) == []
    expected = {path: text for path, text in contents(finished_run, "runs", "results").items() if f"/{ROW}/" in path}
    ours = {path: text for path, text in contents(folder, "runs", "results").items() if f"/{ROW}/" in path}
    assert ours
    assert ours == {path: expected[path] for path in ours}


class Watched(Progress):
    """Of a network's training: notes where it begins at which epoch, and holds it until the doomed node is dead."""

    def skip(self, done: int) -> None:
        super().skip(done)
        self.doomed = Path("doomed").read_text() == ray.get_runtime_context().get_node_id()
        (Path("starts") / f"{time.time_ns()} {self.what.split()[-1]} {self.doomed} {done}").touch()
        while not (self.doomed or Path("dead").exists()):  # so that one of the three goes to the doomed node
            time.sleep(0.05)

    def step(self, units: int = 1, **figures) -> None:
        super().step(units, **figures)
        if self.doomed:  # after the first epoch, whose checkpoint is written
            Path("struck").touch()
            time.sleep(300)


def watched(job, context, show: bool = False):
    """A job: `train_unless_stopped`, watched."""
    from tamnas.training import networks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "Progress", Watched)
        return networks.train_unless_stopped(job, context, show)


@pytest.mark.slow
def test_a_node_that_dies_midway_costs_no_byte(cluster, finished_run, folder, monkeypatch):
    write_params(folder, on_cluster(cluster.address))
    copy_of(finished_run, folder, "data", "runs", "results")
    run_here(folder, "plan")
    ray.shutdown()  # of the tests before, whose folders are theirs
    node = cluster.add_node(num_cpus=1)
    (folder / "doomed").write_text(node.node_id)
    (folder / "starts").mkdir()

    def strike() -> None:
        deadline = time.monotonic() + 120
        while not (folder / "struck").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)
        (folder / "dead").touch()

    thread = threading.Thread(target=strike)
    thread.start()
    with monkeypatch.context() as patch:
        patch.setattr("tamnas.training.networks.train_unless_stopped", watched)
        run_here(folder, "retrain_scratch")
    thread.join()
    starts: dict[str, list] = {}
    for path in sorted((folder / "starts").iterdir()):
        _, network, on_doomed, epoch = path.name.split()
        starts.setdefault(network, []).append((on_doomed, epoch))
    # Two ran through; one began on the node that died, and again elsewhere from the checkpoint of its first epoch.
    assert sorted(starts.values()) == [[("False", "0")], [("False", "0")], [("True", "0"), ("False", "1")]]
    for top in ("runs", "results"):
        assert contents(folder, top) == contents(finished_run, top)
