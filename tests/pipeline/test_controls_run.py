"""A whole tiny run with every control, and the reports of it."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tamnas.config.plan import LegonetStagePlan
from tamnas.controls import RUN
from tamnas.evaluation import grid
from tamnas.pipeline import checkpoint, runner
from tamnas.records import Job, NetworkSpec
from tamnas.report.collect import collect
from tamnas.report.tables.controls import controls_table
from tamnas.report.tables.table import to_csv
from tamnas.space.architecture import Architecture
from tamnas.training.networks import TrainingTask, train_network
from tests.helpers.small_results import leave_unwritten
from tests.helpers.tiny import CONTROLS_ON, ROW, pool, tiny_params, write_params

pytestmark = pytest.mark.system


def everything(folder: Path) -> dict:
    raw = pool(tiny_params())
    raw["data"]["digits"].update(train=100, validation=30, test=30)
    raw["retrain"]["max_subnets"] = 2
    raw["supernet"]["block"]["epochs"], raw["supernet"]["joint"]["epochs"] = 1, 2
    raw["retrain"]["scratch"]["epochs"] = 2
    for recipe in (raw["retrain"]["finetune"], raw["baselines"]["training"]):
        recipe["epochs"], recipe["schedule"]["warmup"] = 1, 0
    raw["search"]["attack"]["steps"] = raw["retrain"]["validation"]["attack"]["steps"] = 2
    raw["eval"].update(eps=["8/255"], steps=[2], final=[])
    raw["eval"]["checks"].update(attack={"eps": "8/255", "steps": 2}, restarts=2)
    raw["seeds"], raw["controls"] = [1], {**CONTROLS_ON, "legonet": {"reversed": True, "uniform": True, "random": 1}}
    write_params(folder, raw)
    return raw


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run without controls, then again with all of them; `before` holds the first one's results and table."""
    folder = tmp_path_factory.mktemp("run")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    leave_unwritten(monkeypatch)
    raw = everything(folder)
    write_params(folder, raw | {"seeds": [], "controls": {}})
    runner.run(until="evaluate_controls_pooled")
    shutil.copytree("results", "before")
    Path("before/controls.json").write_text(json.dumps(controls_lines()))
    write_params(folder, raw)
    runner.run()
    yield folder
    monkeypatch.undo()


def controls_lines() -> list[dict]:
    """The report's table, of the working directory."""
    (dataset,) = collect()
    return list(csv.DictReader(to_csv(controls_table(dataset)).splitlines()))


def read(folder: Path, *parts: str):
    path = folder.joinpath("results", "digits", *parts)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return list(csv.DictReader(path.read_text().splitlines()))


def test_controls_change_no_result_that_they_stand_beside(finished):
    ours = ("controls", "controls_pooled", "evaluate_controls", "evaluate_controls_pooled", "random_search", "ranking")
    before = finished / "before" / "digits"
    files = [path.relative_to(before) for path in before.rglob("*") if path.is_file()]
    files = [path for path in files if path.parts[0] not in ours]
    assert len(files) > 20
    for path in files:
        assert (before / path).read_bytes() == (finished / "results" / "digits" / path).read_bytes(), path
    for stage in ("controls", "evaluate_controls"):
        assert not list((before / stage).rglob("seed-*"))
    assert json.loads((before / "random_search" / ROW / "random_search.json").read_text())["run"] is False


def test_all_controls_are_trained_and_tested(finished):
    told = read(finished, "controls", ROW, "controls.json")["controls"]
    assert set(told.values()) == {RUN}
    by_seed = {seed: read(finished, "controls", ROW, f"seed-{seed}", "validation.json")["networks"] for seed in (0, 1)}
    assert len(by_seed[0]) == 2 + 1 + 1 + 1 + 2 + 2 + 3
    assert {one["control"] for one in by_seed[1]} == {"seeds"}
    own = {one["id"]: one for one in read(finished, "retrain_scratch", ROW, "seed-0", "validation.json")["networks"]}
    for one in by_seed[0]:
        if one["control"] == "random_networks":
            assert abs(one["parameters"] - own[one["of"]]["parameters"]) < 0.05 * one["parameters"]
            assert one["architecture"] not in [other["architecture"] for other in own.values()]
        if one["control"] in ("common_attack", "finetune_lr_0.01") and one["of"] != "lego":
            assert one["architecture"] == own[one["of"]]["architecture"]
        if one["control"] == "finetune_equal_budget":
            assert one["epochs"] == own[one["of"]]["epochs"] == 2
    for seed, networks in by_seed.items():
        grid = read(finished, "evaluate_controls", ROW, f"seed-{seed}", "grid.csv")
        assert {line["network"] for line in grid} == {one["id"] for one in networks}
        assert {line["network"] for line in grid if line["final"] == "True"} == (
            {
                one["id"]
                for one in networks
                if (one["control"] == "seeds" and one["kind"] != "finetune") or one["control"].startswith("lego")
            }
        )
        curves = read(finished, "controls", ROW, f"seed-{seed}", "curves.csv")
        assert {line["network"] for line in curves} == {one["id"] for one in networks}
    pooled = read(finished, "controls_pooled", "seed-1", "validation.json")["networks"]
    assert [(one["kind"], one["of"]) for one in pooled] == [("legonet_pooled", "lego"), ("baselines", "resnet8")]


def test_random_search_stands_beside_the_search(finished):
    ours, theirs = (read(finished, stage, ROW, "hypervolume.csv") for stage in ("random_search", "search"))
    assert [line["evaluated"] for line in ours] == [line["evaluated"] for line in theirs]
    individuals = read(finished, "random_search", ROW, "individuals.csv")
    assert len({line["architecture"] for line in individuals}) == int(theirs[-1]["evaluated"])


def test_a_repeat_is_what_its_seed_would_have_trained(finished):
    """The job of the legonet stage itself, with the other seed in its key."""
    plan = LegonetStagePlan.load(ROW, "legonet")
    (repeat,) = [
        one for one in read(finished, "controls", ROW, "seed-1", "validation.json")["networks"] if one["of"] == "lego"
    ]
    folder = finished / "alone"
    folder.mkdir()
    network = NetworkSpec("lego", Architecture.from_plain(repeat["architecture"]))
    job = Job(network, plan.training, (1, "legonet", ROW))
    alone = train_network(job, TrainingTask.of(plan, folder).context()).plain()
    assert {key: repeat[key] for key in ("last", "best", "parameters")} == {
        key: alone[key] for key in ("last", "best", "parameters")
    }
    (own,) = read(finished, "legonet", ROW, "seed-0", "validation.json")["networks"]
    assert own["architecture"] == repeat["architecture"]
    weights = [finished / "runs" / ROW / part for part in ("legonet/lego", "controls/seed-1/seed-1-lego")]
    first, second = (checkpoint.load(path.with_suffix(".safetensors"))[0] for path in weights)
    assert any(not first[name].equal(second[name]) for name in first)


def test_reports_show_controls_and_say_what_was_not_run(finished):
    def table(name: str) -> list[dict]:
        return list(csv.DictReader((finished / "reports" / "tables" / f"digits-{name}.csv").read_text().splitlines()))

    before = json.loads((finished / "before" / "controls.json").read_text())
    after = table("controls")
    assert {line["status"].split(" (")[0] for line in before} == {"not run"}
    for name in ("random_networks", "random_search", "finetune_lr", "common_attack", "legonet.reversed", "seeds"):
        assert any(f"({name})" in line["status"] or f"({'controls.' + name})" in line["status"] for line in before)
    assert {line["status"] for line in after} == {"measured", "2 seeds: mean and standard deviation in the tables"}
    (random,) = [line for line in after if line["control"].startswith("random networks of matching size")]
    assert random["networks"] == "2"
    grid = read(finished, "evaluate_controls", ROW, "seed-0", "grid.csv")
    clean = [float(line["accuracy"]) for line in grid if line["network"].startswith("random-") and line["steps"] == "0"]
    assert float(random["clean"]) == pytest.approx(100 * sum(clean) / 2, abs=1e-3)

    attacked = {(line["row"], line["beside"]) for line in after if line["apgdce_8_255_n8"]}
    assert attacked == {(ROW, "Lego-Net"), ("pooled", "Lego-Net")}

    names = [line["network"] for line in table("benchmark")]
    for scope in (ROW, "the pooled one"):
        assert {f"lego-{kind} (control of {scope})" for kind in ("reversed", "uniform", "random-1")} <= {*names}
    (lego,) = [line for line in table("benchmark") if line["network"] == f"Lego-Net of {ROW}"]
    first = read(finished, "evaluate_legonet", ROW, "seed-0", "metrics.json")["networks"]["lego"]["clean"]
    second = read(finished, "evaluate_controls", ROW, "seed-1", "metrics.json")["networks"]["seed-1-lego"]["clean"]
    assert float(lego["clean"]) == pytest.approx(50 * (first + second), abs=1e-3)
    assert float(lego["clean_sd"]) == pytest.approx(100 * np.std([first, second], ddof=1), abs=1e-3)
    assert lego["clean_seeds"] == "2"
    assert f"{ROW} random search" in (finished / "reports" / "plots" / "hypervolume.csv").read_text()


def test_a_stop_before_a_seed_is_evaluated_leaves_a_report_without_it(finished, tmp_path):
    """The deadline comes when the networks of one seed are evaluated."""
    copy = shutil.copytree(finished, tmp_path / "copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        first = len(list((copy / "runs" / ROW / "controls" / "seed-0").glob("*.safetensors")))
        patch.setattr("tamnas.evaluation.grid._all_attacked", until(first, grid._all_attacked))
        unfinished = runner.run(only=("evaluate_controls", "tables")).unfinished
        assert unfinished == [f"evaluate_controls@{ROW}: evaluate controls {ROW}: 0 of 3 networks until the deadline"]
        (dataset,) = collect()
    assert {network.label.seed for network in dataset.rows[0].controls.networks} == {0}


def until(number: int, attacked):
    return lambda *args: {index: rows for index, rows in attacked(*args).items() if index < number}


def test_switching_controls_off_again_leaves_nothing_of_them(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    raw = everything(copy) | {"seeds": [], "controls": {}}
    write_params(copy, raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        runner.run(only=("random_search", "controls", "evaluate_controls"))
        now = controls_lines()
    assert not list((copy / "runs" / ROW / "controls").rglob("*.safetensors"))
    before = json.loads((finished / "before" / "controls.json").read_text())
    for scope in (ROW, "all"):
        told = [
            [(line["control"], line["status"]) for line in lines if scope in line["row"].split(", ")]
            for lines in (now, before)
        ]
        assert told[0] == told[1]
