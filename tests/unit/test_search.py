"""NSGA-II on toy fitness functions whose true front is known by brute force; nothing is trained."""

import json
from itertools import product

import numpy as np
import pytest

from tamnas.search.front import Fitness, front_of, hypervolume
from tamnas.search.nsga2 import fronts, individuals, search
from tamnas.space.architecture import Architecture
from tamnas.space.space import bounds
from tests.helpers.toy_search import SMALL, THREE, TINY, evaluator, everything, fitness_of, planned, toy, true_front

# The 26 non-dominated of TINY's 54 architectures, by growing size.
GOLDEN_FRONT = """
    0@0.5 0@0.5, 0@0.5 20@0.5, 0@0.5 6@0.5, 6@0.5 0@0.5, 0@1 0@0.5, 6@0.5 20@0.5, 6@0.5 6@0.5, 0@1 6@0.5, 6@1 0@0.5,
    0@1 0@1, 6@1 6@0.5, 0@1 6@1, 6@1 0@1, 0@2 0@0.5, 6@1 6@1, 0@2 6@0.5, 6@2 0@0.5, 0@2 0@1, 6@2 6@0.5, 0@2 6@1,
    6@2 0@1, 6@2 6@1, 0@2 0@2, 0@2 6@2, 6@2 0@2, 6@2 6@2
"""


def test_golden_front_of_a_tiny_space():
    fitness = everything(TINY)
    golden = [Architecture.parse(text) for text in GOLDEN_FRONT.split(",")]
    assert len(fitness) == 54
    assert true_front(fitness) == set(golden)
    plan = planned(population=30, offspring=10, generations=12)
    for seed in range(3):
        found = search(TINY, plan, evaluator(TINY), seed)
        assert found.population_front == found.archive_front == golden


def test_search_finds_much_of_the_front_of_a_larger_space():
    fitness = everything(SMALL)
    truth = true_front(fitness)
    plan = planned(population=20, offspring=20, generations=12)
    for seed in range(3):
        found = search(SMALL, plan, evaluator(SMALL), seed)
        evaluated = {arch for archs in found.generations for arch in archs}
        # uniform draws would hit the front in proportion; selection must do much better
        chance = len(evaluated) * len(truth) / len(fitness)
        assert len(evaluated & truth) > 1.4 * chance
        assert len(set(found.population_front) & truth) >= 0.5 * len(found.population_front)
        share = hypervolume(SMALL, THREE, [fitness[arch] for arch in found.archive_front])
        assert share > 0.88 * hypervolume(SMALL, THREE, [fitness[arch] for arch in truth])


def test_equal_seeds_give_equal_results_whatever_numpy_does():
    def run(seed):
        return search(SMALL, planned(), evaluator(SMALL), seed)

    np.random.seed(1)
    first = run(3)
    np.random.seed(2)
    before = np.random.get_state()[1].copy()
    assert run(3) == first
    assert np.array_equal(np.random.get_state()[1], before)
    assert run(4).generations != first.generations


def test_front_is_the_final_population_not_the_archive():
    found = search(SMALL, planned(), evaluator(SMALL), seed=0)
    archive = {arch for archs in found.generations for arch in archs}
    assert set(found.archive_front) == true_front({arch: toy(SMALL, arch) for arch in archive})
    assert len(found.population_front) <= 16 < len(found.archive_front)
    inside = {arch: toy(SMALL, arch) for arch in found.population_front}
    assert true_front(inside) == set(found.population_front)
    for front in (found.population_front, found.archive_front):
        sizes = [SMALL.parameters(arch) for arch in front]
        assert sizes == sorted(sizes)
        assert len(set(front)) == len(front)


@pytest.mark.parametrize("predictor", [None, "extra_trees"])
def test_the_budget_is_spent_on_distinct_networks(predictor):
    plan = planned(predictor=predictor, generations=5, offspring=10)
    found = search(SMALL, plan, evaluator(SMALL), seed=0)
    assert len({arch for archs in found.generations for arch in archs}) == 16 + 5 * 10
    assert found == search(SMALL, plan, evaluator(SMALL), seed=0)


@pytest.mark.parametrize("predictor", [None, "extra_trees"])
def test_children_that_breeding_does_not_yield_are_drawn_afresh_within_the_budget(predictor):
    smallest, largest = SMALL.parameter_range()
    budget = (None, (smallest + largest) // 2)
    plan = planned(mutation_probability=0, crossover_probability=0, budget=budget, predictor=predictor)
    found = search(SMALL, plan, evaluator(SMALL), seed=0)
    born = [arch for archs in found.generations for arch in archs]
    assert len(set(born)) == len(born) == 16 * 7
    assert all(SMALL.parameters(arch) <= budget[1] for arch in born)


def test_offspring_may_differ_from_the_population(space):
    calls = []

    def evaluate(archs):
        calls.append(archs)
        return [fitness_of(0.5, 0.5, space.parameters(arch)) for arch in archs]

    found = search(space, planned(population=8, offspring=3, generations=5), evaluate, seed=0)
    assert [len(archs) for archs in found.generations] == [8, 3, 3, 3, 3, 3]
    assert found.generations == calls
    assert [row["generation"] for row in found.hypervolume] == list(range(6))


@pytest.mark.parametrize("unit", ["gene", "individual"])
@pytest.mark.parametrize("budget", [None, (None, 0.2), (0.8, None), (0.45, 0.55)], ids=str)
def test_everyone_is_legal_and_within_budget(space, budget, unit):
    smallest, largest = space.parameter_range()
    if budget is not None:
        budget = tuple(share and round(smallest + share * (largest - smallest)) for share in budget)
    low, high = bounds(budget)

    def evaluate(archs):
        # selection pushes towards the side that the budget closes
        sizes = [space.parameters(arch) for arch in archs]
        pull = -1 if budget and budget[0] else 1
        return [fitness_of(0.5 + 0.4 * pull * size / largest, 0.5, size) for size in sizes]

    plan = planned(budget=budget, mutation_probability=0.5, mutation_unit=unit)
    found = search(space, plan, evaluate, seed=0)
    for arch in (arch for archs in found.generations for arch in archs):
        assert space.is_legal(arch)
        assert low <= space.parameters(arch) <= high
    assert [len(archs) for archs in found.generations] == [16] * 7


def test_crossover_mixes_genes_position_by_position(space):
    plan = planned(population=6, offspring=6, generations=1, mutation_probability=0, crossover_probability=1)
    found = search(space, plan, lambda archs: [fitness_of(0.5, 0.5, space.parameters(arch)) for arch in archs], seed=1)
    genes = [np.array([space.encode(arch) for arch in archs]) for archs in found.generations]
    new = 0
    for children in genes[1:]:
        for position in range(genes[0].shape[1]):
            assert set(children[:, position]) <= set(genes[0][:, position])
        new += sum(tuple(child) not in set(map(tuple, genes[0])) for child in children)
    assert new == 6


def test_without_crossover_a_child_is_a_parent_with_one_gene_changed(space):
    plan = planned(population=12, offspring=12, generations=1, tournament=2, mutation_probability=1,
                   mutation_unit="individual", crossover_probability=0)  # fmt: skip
    found = search(space, plan, lambda archs: [fitness_of(0.5, 0.5, space.parameters(arch)) for arch in archs], seed=0)
    parents, children = (np.array([space.encode(arch) for arch in archs]) for archs in found.generations)
    nearest = (children[:, None] != parents[None]).sum(2).min(1)
    assert (nearest == 1).all()


@pytest.mark.parametrize("budget", [None, (None, TINY.parameter_range()[0])], ids=["space", "budget"])
def test_an_exhausted_space_ends_the_search(budget):
    plan = planned(population=60, offspring=60, budget=budget)
    found = search(TINY, plan, evaluator(TINY), seed=0)
    assert {arch for archs in found.generations for arch in archs} <= set(everything(TINY))
    if budget is None:
        assert set(found.population_front) == true_front(everything(TINY))


def test_records_are_plain_and_complete():
    found = search(SMALL, planned(generations=2), evaluator(SMALL), seed=0)
    fitness = {arch: toy(SMALL, arch) for archs in found.generations for arch in archs}
    rows = individuals(found, fitness)
    assert [(row["generation"], row["individual"]) for row in rows] == list(product(range(3), range(16)))
    for row, arch in zip(rows, (arch for archs in found.generations for arch in archs), strict=True):
        assert Architecture.parse(row["architecture"]) == arch
        assert fitness_of(row["clean"], row["robust"], row["parameters"]) == fitness[arch]
    plain = fronts(found, fitness)
    assert json.loads(json.dumps(plain)) == plain
    for name, prefix, front in (("archive", "n", found.archive_front), ("population", "p", found.population_front)):
        assert [row["id"] for row in plain[name]] == [f"{prefix}{i:02d}" for i in range(1, len(front) + 1)]
        assert [Architecture.from_plain(row["architecture"]) for row in plain[name]] == front


def test_front_of_drops_repeats_and_keeps_equals():
    a, b, c = (Architecture((0, 0), (ratio, 1.0)) for ratio in TINY.ratios)
    fitness = {a: fitness_of(0.5, 0.5, 10), b: fitness_of(0.5, 0.5, 10), c: fitness_of(0.5, 0.4, 10)}
    assert front_of([a, c, b, a], fitness) == sorted([a, b], key=str)


def test_a_front_is_ordered_by_parameters_whatever_the_objectives():
    a, b, _ = (Architecture((0, 0), (ratio, 1.0)) for ratio in TINY.ratios)
    values = {a: {"parameters": 20, "clean": 0.7}, b: {"parameters": 10, "clean": 0.5}}
    for objectives in (("parameters", "clean_error"), ("clean_error", "parameters")):
        assert front_of([a, b], {arch: Fitness.of(of, objectives) for arch, of in values.items()}) == [b, a]
