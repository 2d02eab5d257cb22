"""The whole pipeline in one process on tiny settings, and that it honours dvc.yaml."""

import json

import numpy as np
import pytest
from ruamel.yaml import YAML

from tamnas.config.resolve import parse_params
from tamnas.pipeline import runner
from tests.helpers.tiny import ROOT, ROW, tiny_params, write_params


def test_the_runner_knows_every_stage_of_dvc_yaml_in_a_valid_order():
    stages = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
    assert {stage for stage, *_ in runner.STAGES} == set(stages)
    made: dict[str, list[str]] = {}
    for name, script, arguments, _ in runner.STAGES:
        body = stages[name].get("do", stages[name])
        assert body["cmd"].split()[1] == f"stages/{script}.py"
        assert list(arguments) == [word for word in body["cmd"].split()[2:] if not word.startswith("${")]
        needed = [dep for dep in body["deps"] if dep.startswith(("data/", "runs/", "results/"))]
        for dep in needed:
            plain = dep.replace("${item.dataset}", "D").replace("${key}", "X").replace("${item}", "X")
            makers = {stage for stage, outs in made.items() if any(_same(out, plain) for out in outs)}
            assert makers, f"{name} needs {dep} before any stage makes it"
            assert makers & {"prepare", *_needs(name)}, f"{name} reads {dep}; runner.NEEDS does not know"
        made[name] = [next(iter(out)) if isinstance(out, dict) else out for out in body.get("outs", [])]


def _needs(stage: str) -> set[str]:
    """The stages without which the runner skips `stage`."""
    direct = runner.NEEDS.get(stage, ())
    return set(direct).union(*map(_needs, direct))


def _same(made: str, needed: str) -> bool:
    made = made.replace("${item.dataset}", "D").replace("${key}", "X").replace("${item}", "X")
    generic = [path.replace("D", "X") for path in (made, needed)]
    return generic[0].startswith(generic[1]) or generic[1].startswith(generic[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run whose test images are hidden from every stage before the first evaluation."""
    folder = tmp_path_factory.mktemp("run")
    raw = tiny_params()
    write_params(folder, raw)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    calls = list(runner.calls(parse_params(raw)))
    data = folder / "data" / "digits.npz"
    hidden = None
    for call in calls:
        if call.name.startswith("evaluate") and hidden is not None:
            np.savez(data, **hidden)
            hidden = None
        call()
        if call.name.startswith("prepare"):
            with np.load(data) as arrays:
                hidden = dict(arrays)
            np.savez(data, **{name: array for name, array in hidden.items() if not name.endswith("_test")})
    yield folder
    monkeypatch.undo()


def results(folder, *parts):
    return folder.joinpath("results", "digits", *parts)


def test_no_test_image_is_read_before_the_final_grid(finished):
    # the fixture ran all stages up to legonet without the test arrays
    assert results(finished, "evaluate_scratch", ROW, "seed-0", "grid.csv").exists()


def test_the_search_keeps_what_it_promises(finished):
    import pandas as pd

    individuals = pd.read_csv(results(finished, "search", ROW, "individuals.csv"))
    assert len(individuals) == 6 + 2 * 6
    hypervolume = pd.read_csv(results(finished, "search", ROW, "hypervolume.csv"))
    assert hypervolume["archive_hypervolume"].is_monotonic_increasing
    fronts = json.loads(results(finished, "search", ROW, "fronts.json").read_text())
    for one in fronts["front"]:
        for other in fronts["front"]:
            assert not dominates(other, one)


def dominates(a, b):
    pairs = [(b["clean"], a["clean"]), (b["robust"], a["robust"]), (a["parameters"], b["parameters"])]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def test_the_grid_is_complete_and_consistent(finished):
    import pandas as pd

    grid = pd.read_csv(results(finished, "evaluate_scratch", ROW, "seed-0", "grid.csv"))
    trained = json.loads(results(finished, "retrain_scratch", ROW, "seed-0", "validation.json").read_text())
    assert set(grid["network"]) == {network["id"] for network in trained["networks"]}
    assert (grid["images"] == 40).all()
    for _, cells in grid.groupby("network"):
        clean = cells.loc[cells["steps"] == 0, "accuracy"].item()
        assert (cells["accuracy"] <= clean).all()
        steps = cells[cells["eps"] == "8/255"].sort_values("steps")
        assert steps["accuracy"].is_monotonic_decreasing
    assert grid.groupby("network")["final"].first().sum() == 1


def test_lego_net_is_what_the_counts_say(finished):
    import pandas as pd

    counts = pd.read_csv(results(finished, "legonet", ROW, "counts.csv"))
    statistics = json.loads(results(finished, "legonet", ROW, "statistics.json").read_text())
    first = counts[counts["rank"] == 0]
    blocks = first[first["gene"] == "block"].sort_values("layer")["value"].astype(int).tolist()
    assert statistics["architecture"]["blocks"] == blocks
    assert counts.groupby(["layer", "gene"])["count"].sum().eq(3).all()


def test_running_again_changes_nothing(finished):
    before = {path: path.read_bytes() for path in finished.joinpath("results").rglob("*") if path.is_file()}
    runner.run(until="legonet_pooled")
    assert before == {path: path.read_bytes() for path in finished.joinpath("results").rglob("*") if path.is_file()}


def test_reports_are_made(finished):
    for name in ("index.html", "metrics.json", "README.md"):
        assert (finished / "reports" / name).stat().st_size > 0


# -- training that diverges --------------------------------------------------------------------


ROWS = ("digits-broken", "digits-sound")


def two_rows(**broken) -> dict:
    """Two rows, one of whose block phases trains with `broken`; no hand-made networks."""
    raw = tiny_params()
    raw["baselines"]["names"] = []
    raw["modes"] = {"broken": {"supernet": broken}, "sound": {"supernet": {"lam": 0.5}}}
    raw["run"]["rows"] = {row: {"dataset": "digits", "mode": row.partition("-")[2]} for row in ROWS}
    return raw


def test_a_diverged_stage_is_in_the_reports_until_it_succeeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = ("prepare", "supernet_block", "supernet_joint", "tables")
    told = {row: results(tmp_path, "supernet_block", row, "diverged.json") for row in ROWS}
    write_params(tmp_path, two_rows(lr=1e30, clip_norm=None))
    lines = runner.run(only=stages)
    assert lines[0].startswith("supernet_block@digits-broken: training diverged: ")
    assert lines[1] == "supernet_joint@digits-broken: skipped, it needs supernet_block@digits-broken"
    found = json.loads(told["digits-broken"].read_text())
    assert found["format"] == 1
    assert (found["stage"], found["instance"]) == ("supernet-block", "digits-broken")
    assert found["epoch"] in (0, 1)
    assert str(tmp_path) not in told["digits-broken"].read_text()
    assert not told["digits-sound"].exists()
    words = f"digits-broken: supernet, block phase: training diverged: {found['reason']} (epoch {found['epoch']}, step "
    for name in ("README.md", "index.html"):
        assert words in (tmp_path / "reports" / name).read_text()
    before = {path: path.read_bytes() for path in (tmp_path / "reports").rglob("*") if path.is_file()}
    runner.run(only=stages)
    assert before == {path: path.read_bytes() for path in (tmp_path / "reports").rglob("*") if path.is_file()}

    write_params(tmp_path, two_rows(eps="6/255"))
    assert runner.run(only=stages) == []
    assert not told["digits-broken"].exists()
    assert "diverged" not in (tmp_path / "reports" / "README.md").read_text()


def test_a_stage_started_by_hand_leaves_no_stale_divergence(tmp_path, monkeypatch):
    from stages import plan, prepare, supernet

    monkeypatch.chdir(tmp_path)
    told = results(tmp_path, "supernet_block", ROW, "diverged.json")
    told.parent.mkdir(parents=True)
    told.write_text("{}")
    write_params(tmp_path, tiny_params())
    plan.run()
    prepare.run("digits")
    supernet.run("block", ROW)
    assert [path.name for path in told.parent.iterdir()] == ["curve.csv"]
