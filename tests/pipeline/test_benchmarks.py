"""The benchmarks on sizes that measure nothing: that they run, what they leave out, what the page makes of them."""

import json
import sys
import types

import pytest
import torch
from click.testing import CliRunner

from benchmarks import all as benchmarks
from benchmarks import harness, page, pgd_grid
from benchmarks.supernet_epoch import Clock
from benchmarks.workers import Workers
from tamnas.attacks.ascent import pgd
from tamnas.config.compute import ComputeParams
from tamnas.pipeline.jobs import kept_workers
from tests.helpers.tiny import ROOT, tiny_params, write_params

NEEDS = "torchattacks is not installed: pip install --no-deps torchattacks==3.5.1"


class StandIn:
    """What the benchmark needs of torchattacks.PGD, without the package."""

    def __init__(self, model, eps: float, alpha: float, steps: int, random_start: bool):
        self.model, self.options = model, {"eps": eps, "step_size": alpha, "steps": steps, "random_start": random_start}

    def __call__(self, x, y):
        return pgd(self.model, x, y, **self.options)


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    raw = tiny_params()
    raw["data"]["digits"].update(train=64, validation=32, test=16)
    raw["search"].update(attack={"steps": 2})
    raw["retrain"]["validation"]["attack"]["steps"] = 2
    write_params(tmp_path, raw)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_benchmark_runs(tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", types.ModuleType("torchattacks"))
    sys.modules["torchattacks"].PGD = StandIn
    sizes = {name: options for name, options in benchmarks.TINY.items() if name != "cluster"}
    with kept_workers():
        assert benchmarks.run_all("cpu", None, sizes, tiny_run / "results" / "cpu") == []
    found = {path.stem: json.loads(path.read_text()) for path in (tiny_run / "results" / "cpu").iterdir()}
    assert set(found) == set(sizes)
    assert set(benchmarks.TINY) == set(benchmarks.MAINS)
    text = page.page(tiny_run / "results")
    for result in found.values():
        assert result["rounds"] >= 1
        assert result["title"] in text
        assert result["table"] in text
    # sizes like these prove nothing of what is asked for other sizes
    judged = {target.text: page.verdict(target, "NVIDIA H200", found)[1] for target in page.TARGETS}
    assert judged["supernet epoch, 50,000 images, batch 512, the paper's space"] == "unproven (not measured)"
    assert judged["a new path of the supernet, its step's capture included"] == "unproven (not measured)"
    assert judged["PGD grid, 10,000 images: over torchattacks"] == "unproven (not measured)"
    assert judged["subnets evaluated per second: over one by one"] in ("met", "missed")


@pytest.mark.slow
def test_the_benchmark_of_the_cluster_runs(tiny_run):
    """What it computes of the study: tests/unit/test_schedule.py."""
    pytest.importorskip("ray")
    assert benchmarks.run_all("cpu", None, {"cluster": benchmarks.TINY["cluster"]}, tiny_run / "results" / "cpu") == []
    found = json.loads((tiny_run / "results" / "cpu" / "cluster.json").read_text())
    assert set(found["engines"]) == {"processes, 2", "ray, 1"}
    assert found["engines"]["ray, 1"]["store_bytes"] >= found["files_bytes"]
    assert found["study"]["64"]["makespan"] >= found["study"]["64"]["ideal"]


def test_the_sizes_are_those_of_benchmarks():
    for sizes in (*benchmarks.SIZES.values(), benchmarks.TINY):
        for name, options in sizes.items():
            command = benchmarks.MAINS[benchmarks.of(name)]
            command.make_context(name, list(options))  # unknown options and bad values raise
    assert set(benchmarks.SIZES["cuda"]) == set(benchmarks.MAINS)


def test_without_torchattacks_the_grid_is_left_out(tiny_run, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    done = CliRunner().invoke(pgd_grid.main, ["--device=cpu"])
    assert (done.exit_code, capfd.readouterr().err + done.stderr) == (2, f"error: {NEEDS}\n")
    ran = []
    monkeypatch.setitem(benchmarks.MAINS, "precision", lambda arguments, standalone_mode: ran.append("precision"))
    done = CliRunner().invoke(benchmarks.main, ["--rehearse", "--only=pgd_grid", "--only=precision"])
    said = capfd.readouterr().err + done.stderr
    assert done.exit_code == 1
    assert said == f"error: {NEEDS}\npgd_grid: left out\n\nleft out: pgd_grid\n"
    assert ran == ["precision"]


def test_a_benchmark_that_breaks_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    ran = []

    def broken(arguments, standalone_mode):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(benchmarks.MAINS, "precision", broken)
    monkeypatch.setitem(benchmarks.MAINS, "search", lambda arguments, standalone_mode: ran.append(arguments[0]))
    assert benchmarks.run_all("cpu", None, {"precision": [], "search": []}, tmp_path) == ["precision"]
    assert ran == ["--device=cpu"]
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["--workers=0"], "allowed: numbers of at least 1"),
        (["--workers=1,two"], "allowed: numbers of at least 1"),
        (["--rounds=0"], "x>=1"),
    ],
)
def test_bad_options_are_told(command, said):
    done = CliRunner().invoke(benchmarks.MAINS["search"], command)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_commit_can_be_named(monkeypatch):
    monkeypatch.setenv("TAMNAS_COMMIT", "abc1234")
    assert harness.environment(torch.device("cpu"), 1, 3)["commit"] == "abc1234"


def test_contenders_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    assert set(harness.alternate(runs, 2, torch.device("cpu"), warm_up=1)) == {"a", "b"}
    assert order == ["a", "b"] * 3


def test_the_clock_has_one_time_per_epoch():
    clock = Clock()
    clock.skip(0)
    for _ in range(3):
        clock.step(loss=1.0)
    assert len(clock.seconds) == 3
    assert min(clock.seconds) >= 0


def test_work_is_dealt_out_in_order():
    with Workers(dict, ComputeParams(), 1) as pool:
        assert pool.run(lambda spec, context: 10 * spec, [1, 2, 3, 4, 5], 2) == [10, 20, 30, 40, 50]


# -- the page ----------------------------------------------------------------------------------

EPOCH = {"images": 50_000, "batch": 512, "geometry": "paper", "epoch_seconds": 1.5}


def judged(text: str, device: str, **results) -> tuple[str, str]:
    (target,) = (target for target in page.TARGETS if target.text.startswith(text) and target.where != "CPU")
    return page.verdict(target, device, results)


def test_targets_are_read_off_the_results():
    assert judged("supernet epoch", "NVIDIA H200", supernet_epoch=EPOCH) == ("1.5 s", "met")
    assert judged("supernet epoch", "NVIDIA H200", supernet_epoch=EPOCH | {"epoch_seconds": 2.5})[1] == "missed"
    assert judged("supernet epoch", "NVIDIA H200", supernet_epoch=EPOCH | {"images": 5000})[0] == ""
    assert judged("supernet epoch", "NVIDIA H100", supernet_epoch=EPOCH) == (
        "1.5 s",
        "unproven (not measured on an H200)",
    )
    assert judged("the paper's 1,000 epochs", "NVIDIA H200", supernet_epoch=EPOCH) == ("25 minutes", "met")
    search = {"images": 5000, "attack": "PGD-10 at 8/255", "subnets": 10, "seconds": {"naive, one by one": 9.0}}
    search["seconds"] |= {"ours, in this process": 4.0, "ours, 4 processes": 2.0}
    assert judged("search of 20", "NVIDIA H200", search=search) == ("3.5 minutes", "met")
    assert judged("subnets evaluated", "NVIDIA H100", search=search) == ("4.5x", "met")
    assert judged("search of 20", "NVIDIA H200", search=search | {"images": 180})[1] == "unproven (not measured)"
    compared = {"clean": {"difference": -0.03, "deviation": 0.02}, "robust": {"difference": 0.0, "deviation": 0.0}}
    assert judged("bfloat16 against float32, clean", "NVIDIA H100", precision={"compared": compared})[1] == "missed"
    assert judged("bfloat16 against float32, robust", "NVIDIA H100", precision={"compared": compared})[1] == "met"


def test_without_a_gpu_its_targets_are_unproven():
    lines = page.targets_table({"CPU, 1 thread(s)": {}}).splitlines()[2:]
    assert len(lines) == len(page.TARGETS)
    for target, line in zip(page.TARGETS, lines, strict=True):
        why = "not measured" if target.where == "CPU" else "no GPU at hand"
        assert line.endswith(f"| unproven ({why}) |")


def test_the_committed_page_is_that_of_the_committed_results():
    assert (ROOT / "docs" / "performance.md").read_text() == page.page(ROOT / "benchmarks" / "results")
