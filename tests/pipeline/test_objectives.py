"""Any two to four objectives, from a tiny supernet to the reports; latencies are measured once and kept."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

import tamnas.search.latency
from tamnas.config.plan import SearchStagePlan
from tamnas.config.resolve import parse_params
from tamnas.errors import InputError
from tamnas.search.latency import time_parts, with_latencies
from tamnas.search.objectives import OBJECTIVES, measured
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace
from tests.helpers.tiny import ROW, contents, copy_of, invoke, run_here, tiny_params, write_params

NAMES = ("clean_error", "robust_error", "parameters", "macs", "latency")
QUICK = [("robust_error", "latency"), ("clean_error", "parameters", "macs"), NAMES[1:]]
CHOICES = [choice for count in (2, 3, 4) for choice in itertools.combinations(NAMES, count)]


@pytest.fixture
def copy(finished_run, tmp_path, monkeypatch):
    """A finished tiny run to go on with; the clock says what a part's shape says, so that time repeats."""
    copy_of(finished_run, tmp_path, "plan", "code", "data", "source", "runs", "results", "reports", ".checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clock(monkeypatch):
    """Timed parts, each told as 10 microseconds a parameter."""
    timed = []

    def latency(model, size, channels=3):
        timed.append((size, channels))
        return 1e-2 * sum(p.numel() for p in model.parameters())

    monkeypatch.setattr(tamnas.search.latency, "latency", latency)
    return timed


def minimise(folder, *objectives: str, **changed) -> dict:
    raw = tiny_params()
    raw["search"].update(objectives=list(objectives), population=4, offspring=4, generations=1, tournament=2, **changed)
    raw["search"]["attack"]["steps"] = 1
    write_params(folder, raw)
    return raw


def searched(folder) -> tuple[pd.DataFrame, dict]:
    path = folder / "results" / "digits" / "search" / ROW
    return pd.read_csv(path / "individuals.csv"), json.loads((path / "fronts.json").read_text())


@pytest.mark.parametrize(
    "objectives",
    [pytest.param(some, marks=[] if some in QUICK else pytest.mark.slow) for some in CHOICES],
    ids="-".join,
)
def test_any_two_to_four(copy, clock, objectives):
    minimise(copy, *objectives)
    run_here(copy, "plan", "search")
    individuals, fronts = searched(copy)
    columns = [objective.column for objective in measured(objectives)]
    assert [name for name in individuals if name in {one.column for one in OBJECTIVES.values()}] == [
        "parameters", *(column for column in columns if column != "parameters")
    ]  # fmt: skip
    # By definition: the archive's front is what nothing evaluated is better than.
    costs = [[OBJECTIVES[name].cost(line[OBJECTIVES[name].column]) for name in objectives]
             for line in individuals.to_dict("records")]  # fmt: skip
    front = {
        line.architecture
        for line, own in zip(individuals.itertuples(), costs, strict=True)
        if not any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in costs)
    }
    assert {str(Architecture.from_plain(one["architecture"])) for one in fronts["archive"]} == front
    space = SearchSpace.from_params(SearchStagePlan.load(ROW, "search"))
    archs = [Architecture.parse(text) for text in individuals.architecture]
    if "macs" in objectives:
        assert individuals.macs.tolist() == [space.macs(arch) for arch in archs]
    if "latency" in objectives:  # the clock's unit, and parts add up to the whole
        assert individuals.latency.tolist() == pytest.approx([1e-2 * space.parameters(arch) for arch in archs])
    volumes = pd.read_csv(copy / "results" / "digits" / "search" / ROW / "hypervolume.csv")
    assert volumes.archive_hypervolume.between(0, 1).all()
    assert (copy / "results" / "digits" / "search" / ROW / "latencies.json").exists() == ("latency" in objectives)


@pytest.mark.slow
def test_reports_follow(copy, clock):
    raw = minimise(copy, "macs", "latency", "robust_error", "clean_error")  # sizes first
    raw["retrain"]["max_subnets"] = 2
    raw["controls"]["random_search"] = True
    for recipe in (raw["retrain"]["scratch"], raw["retrain"]["finetune"]):
        recipe["epochs"], recipe["schedule"]["warmup"] = 1, 0
    write_params(copy, raw)
    run_here(copy)
    parts = len({(size, channels) for size, channels in clock})
    assert parts > 2
    tables = copy / "reports" / "tables"
    search, subnets = ((tables / f"digits-{name}.md").read_text() for name in ("search", "subnets"))
    assert "the space's largest values" in search
    for text in ("robust error", "clean error", "multiply-accumulates", "latency"):
        assert text in search.split("Hypervolume: ")[1].splitlines()[0]
    lines = pd.read_csv(tables / "digits-subnets.csv")
    assert (lines.latency > 0).all()
    assert (lines.macs > 0).all()
    assert "Latency (ms)" in subnets
    assert "sum of the network's parts" in subnets
    page = (copy / "reports" / "index.html").read_text()
    assert "multiply-accumulates" in page
    random, own = (
        pd.read_csv(copy / "results" / "digits" / stage / ROW / "hypervolume.csv")
        for stage in ("random_search", "search")
    )
    assert random.evaluated.tolist() == own.evaluated.tolist()


# -- latency ------------------------------------------------------------------------------------


def test_every_part_is_timed_once(clock, space):
    timed = time_parts(space)
    places = set(zip(space.layers, space.sizes, strict=False))
    legal = sum(len(space.allowed_blocks(space.layers.index(layer))) for layer, _ in places)
    assert len(clock) == legal * len(space.ratios) + 2  # and stem and head
    whole = with_latencies(space, timed)
    genes = space.sample_genes(np.random.default_rng(0), 50)
    sums = [whole.latency(space.decode(row)) for row in genes]
    assert sums == pytest.approx((1e-2 * space.genes_parameters(genes)).tolist())
    assert whole.latencies.range() == pytest.approx([1e-2 * end for end in space.parameter_range()])


def test_a_search_that_was_killed_goes_on_with_its_latencies(copy, clock, monkeypatch):
    minimise(copy, "robust_error", "latency")
    run_here(copy, "plan", "search")
    expected, counted = contents(copy, "results/digits/search"), len(clock)
    (memo,) = (path for path in copy.glob(".checkpoints/search/*/*/evaluated.jsonl") if "latency" in path.read_text())
    lines = memo.read_text().splitlines(keepends=True)
    memo.write_text("".join(lines[: len(lines) // 2]))  # killed half-way
    monkeypatch.setattr(tamnas.search.latency, "latency", lambda *given: 1 / 0)  # the machine is another by now
    assert invoke("search", ROW).exit_code == 0
    assert contents(copy, "results/digits/search") == expected
    assert len(clock) == counted


def test_other_objectives_time_nothing(copy, clock):
    minimise(copy, "clean_error", "macs")
    run_here(copy, "plan", "search")
    assert not clock


@pytest.mark.slow
def test_workers_know_the_latencies(copy, clock, monkeypatch):
    raw = minimise(copy, "robust_error", "latency")
    raw["compute"].update(engine="processes", workers=2)
    write_params(copy, raw)
    run_here(copy, "plan", "search")
    individuals, _ = searched(copy)
    space = SearchSpace.from_params(SearchStagePlan.load(ROW, "search"))
    expected = [1e-2 * space.parameters(Architecture.parse(text)) for text in individuals.architecture]
    assert individuals.latency.tolist() == pytest.approx(expected)


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objectives", "told"),
    [
        (["macs"], "search: objectives: 1 are given; allowed: 2 to 4 of clean_error,"),
        (list(NAMES), "search: objectives: 5 are given; allowed: 2 to 4 of clean_error,"),
        (["macs", "latency", "macs"], "search: objectives: macs, latency, macs: must not repeat"),
        (
            ["macs", "flops"],
            "search: objectives: 'flops'; allowed: clean_error, robust_error, parameters, macs, latency",
        ),
    ],
)
def test_objectives_that_cannot_be(objectives, told):
    raw = tiny_params()
    raw["search"]["objectives"] = objectives
    with pytest.raises(InputError) as caught:
        parse_params(raw)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objectives", [("robust_error", "macs"), ("clean_error", "macs", "latency")])
def test_the_budget_is_of_parameters_whatever_is_minimised(copy, clock, objectives):
    space = SearchSpace.from_params(SearchStagePlan.load(ROW, "search"))
    low, high = space.parameter_range()
    budget = [round(low + 0.4 * (high - low)), round(low + 0.6 * (high - low))]
    minimise(copy, *objectives, budget=budget)
    run_here(copy, "plan", "search")
    individuals, _ = searched(copy)
    assert individuals.parameters.between(*budget).all()
