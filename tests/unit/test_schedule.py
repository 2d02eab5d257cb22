"""The simulated schedule against what can be reckoned by hand, Graham's bound, and the committed table."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cluster import paper, study_table
from benchmarks.schedule import Costs, schedule, study
from tests.helpers.tiny import ROOT

RESULT = json.loads((ROOT / "benchmarks" / "results" / "cpu" / "cluster.json").read_text())


@pytest.mark.parametrize(("workers", "makespan"), [(1, 14.0), (2, 8.0), (3, 6.0), (7, 2.0), (64, 2.0)])
def test_equal_jobs_fill_the_workers(workers, makespan):
    assert schedule({"a": [[2.0] * 7]}, {"a": []}, workers).makespan == makespan


def test_stages_and_rounds_wait_for_what_they_need():
    rounds = {"first": [[1.0, 3.0]], "search": [[1.0, 1.0], [2.0]], "nothing": [], "last": [[5.0]]}
    needed = {"first": [], "search": ["first"], "nothing": ["search"], "last": ["nothing"]}
    found = schedule(rounds, needed, 2)
    assert (found.makespan, found.work, found.chain, found.jobs) == (3 + 1 + 2 + 5, 13.0, 11.0, 6)
    assert found.ideal(2) == 11.0
    assert found.ideal(1) == 13.0


stages = st.lists(st.lists(st.lists(st.integers(1, 20).map(float), max_size=5), max_size=3), min_size=1, max_size=6)


@given(stages, st.integers(1, 8), st.randoms(use_true_random=False))
def test_no_schedule_is_shorter_than_ideal_nor_longer_than_grahams_bound(stages, workers, random):
    rounds = {str(number): jobs for number, jobs in enumerate(stages)}
    needed = {name: [other for other in list(rounds)[: int(name)] if random.random() < 0.4] for name in rounds}
    found = schedule(rounds, needed, workers)
    assert found.makespan >= found.ideal(workers) - 1e-9
    assert found.makespan <= found.work / workers + (1 - 1 / workers) * found.chain + 1e-9


@pytest.fixture(scope="module")
def whole():
    params = paper()
    costs = {row: Costs(**cost) for row, cost in RESULT["cost_per_image"].items()}
    return study(params, costs, RESULT["spread"])


@pytest.mark.slow
def test_the_study_is_the_papers(whole):
    rounds, needed = whole
    count = {name: sum(map(len, jobs)) for name, jobs in rounds.items()}
    assert sum(number for name, number in count.items() if name.startswith("retrain")) == 1500
    assert sum(number for name, number in count.items() if name.startswith("supernet_block")) == 15
    assert count["search@svhn-2S_8_5"] == 50 + 20 * 50
    assert "supernet_joint@svhn-S_8_1" in needed["search@svhn-S_8_1"]


@pytest.mark.slow
def test_the_committed_table_follows_from_the_committed_times(whole):
    plans = {count: schedule(*whole, int(count)) for count in RESULT["study"]}
    assert study_table(plans, RESULT["gpu_factor"]) == RESULT["study_table"]


def test_the_page_shows_the_committed_table():
    page = (ROOT / "docs" / "cluster.md").read_text()
    assert RESULT["study_table"] in page
    assert f"{RESULT['epoch_seconds']:,.0f} s" in page
    assert f"{RESULT['gpu_factor']:,.0f} times" in page
