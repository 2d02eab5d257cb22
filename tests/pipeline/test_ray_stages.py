"""Stages on a cluster of two nodes of this machine: the same bytes as without one, whatever dies."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tamnas.config.compute import load_compute
from tamnas.errors import InputError
from tamnas.pipeline import runner
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.lanes import lanes
from tamnas.pipeline.progress import Progress
from tests.helpers.tiny import ROW, contents, copy_of, invoke, run_here, stage, tiny_params, write_params

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.system


def on_cluster(address: str | None, **changed) -> dict:
    raw = tiny_params()
    raw["compute"] |= {"engine": "ray", "address": address}
    for key, value in changed.items():
        raw["retrain"]["scratch"][key] = value
    return raw


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
            assert runner.run(only=names).unfinished == []
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


def nothing() -> None:
    """Context of the jobs below."""


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
    assert runner.run(until="retrain_scratch", parallel=2).unfinished == []
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
