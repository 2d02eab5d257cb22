"""Sampling, mutation and tournament of the search, each by itself."""

from dataclasses import replace

import numpy as np
import pytest
from pymoo.core.population import Population
from pymoo.core.problem import Problem

from tamnas.search import nsga2 as module
from tamnas.search.nsga2 import search
from tamnas.search.operators import BudgetSampling, GeneMutation, by_rank_then_crowding
from tamnas.space.space import SearchSpace, bounds
from tests.helpers.toy_search import SMALL, TINY, evaluator, everything, planned


def test_initial_population_is_distinct():
    for budget in (None, (700, 900)):
        problem = Problem(n_var=4, n_obj=3, vtype=int)
        drawn = BudgetSampling(TINY, budget)._do(problem, 12, random_state=np.random.default_rng(0))
        archs = [TINY.decode(genes) for genes in drawn]
        low, high = bounds(budget)
        existing = [arch for arch in everything(TINY) if low <= TINY.parameters(arch) <= high]
        assert len(set(archs)) == len(archs) == min(12, len(existing))  # the narrow budget admits 10
        assert all(low <= TINY.parameters(arch) <= high for arch in archs)


def test_children_keep_within_the_multiply_accumulates():
    limit = int(np.quantile(SMALL.mac_sums.of(SMALL.sample_genes(np.random.default_rng(0), 500)), 0.2))
    capped, random = replace(SMALL, max_macs=limit), np.random.default_rng(0)
    children = GeneMutation(capped, 1.0, "individual", None)._do(
        None, SMALL.sample_genes(random, 200), random_state=random
    )
    assert SMALL.mac_sums.of(children).max() <= limit


def values_per_gene(space: SearchSpace) -> np.ndarray:
    layers = range(len(space.layers))
    return np.array([len(space.allowed_blocks(layer)) for layer in layers] + [len(space.ratios) for _ in layers])


def mutated(unit: str, probability: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """(which genes changed, the children) of `count` parents in SMALL."""
    random = np.random.default_rng(0)
    parents = SMALL.sample_genes(random, count)
    before = parents.copy()
    children = GeneMutation(SMALL, probability, unit, None)._do(None, parents, random_state=random)
    assert np.array_equal(parents, before)
    return children != parents, children


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_gene_mutation_redraws_every_gene_with_its_probability(probability):
    changed, children = mutated("gene", probability)
    # a gene is redrawn among its k legal values and stays with 1/k
    expected = probability * (1 - 1 / values_per_gene(SMALL))
    assert changed.mean(0) == pytest.approx(expected, abs=4 * 0.5 / 20_000**0.5)
    # independently of each other
    both = (changed[:, 0] & changed[:, 3]).mean()
    assert both == pytest.approx(expected[0] * expected[3], abs=0.01)
    assert all(SMALL.is_legal(SMALL.decode(genes)) for genes in children[:500])


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_individual_mutation_redraws_one_gene_of_an_individual(probability):
    changed, _ = mutated("individual", probability)
    assert changed.sum(1).max() <= 1
    expected = probability * (1 - 1 / values_per_gene(SMALL)) / changed.shape[1]
    assert changed.mean(0) == pytest.approx(expected, abs=4 * 0.3 / 20_000**0.5)


@pytest.mark.parametrize("unit", ["gene", "individual"])
def test_mutation_brings_children_inside_the_budget(unit):
    smallest, largest = SMALL.parameter_range()
    budget = (smallest + (largest - smallest) * 2 // 5, smallest + (largest - smallest) // 2)
    random = np.random.default_rng(0)
    parents = SMALL.sample_genes(random, 500)
    sizes = SMALL.genes_parameters(parents)
    inside = (budget[0] <= sizes) & (sizes <= budget[1])
    assert 0.05 < inside.mean() < 0.6
    children = GeneMutation(SMALL, 0.0, unit, budget, tries=3)._do(None, parents, random_state=random)
    after = SMALL.genes_parameters(children)
    assert ((budget[0] <= after) & (after <= budget[1])).all()
    assert np.array_equal(children[inside], parents[inside])
    assert len(np.unique(children[~inside], axis=0)) > 10


def test_a_child_outside_the_budget_is_drawn_again_from_its_parent():
    smallest, largest = SMALL.parameter_range()
    budget = (None, (smallest + largest) // 2)
    random = np.random.default_rng(0)
    parents = SMALL.sample_genes(random, 500, budget)
    children = GeneMutation(SMALL, 1.0, "individual", budget, tries=500)._do(None, parents, random_state=random)
    assert (SMALL.genes_parameters(children) <= budget[1]).all()
    assert ((children != parents).sum(1) <= 1).all()


def population(rank, crowding) -> Population:
    pop = Population.new("X", np.arange(len(rank))[:, None])
    pop.set("rank", np.array(rank))
    pop.set("crowding", np.array(crowding, dtype=float))
    return pop


def test_tournament_prefers_rank_then_crowding():
    random = np.random.default_rng(0)
    rank = random.integers(3, size=40)
    crowding = np.where(random.random(40) < 0.2, np.inf, random.permutation(40))
    contestants = np.stack([random.permutation(40)[:10] for _ in range(200)])
    winners = by_rank_then_crowding(population(rank, crowding), contestants, random_state=random)
    assert winners.shape == (200, 1)
    for row, (winner,) in zip(contestants, winners, strict=True):
        assert winner in row
        assert (rank[winner], -crowding[winner]) == min((rank[one], -crowding[one]) for one in row)


def test_tournament_leaves_ties_to_chance():
    pop = population([0, 0, 0, 1], [2, 2, 1, 9])
    contestants = np.tile([2, 1, 0, 3], (4000, 1))
    winners = by_rank_then_crowding(pop, contestants, random_state=np.random.default_rng(0))
    counts = np.bincount(winners[:, 0], minlength=4)
    assert counts[2] == counts[3] == 0
    assert counts[0] == pytest.approx(2000, abs=150)


def test_tournaments_have_the_planned_size(monkeypatch):
    sizes = set()

    def spy(pop, contestants, **kwargs):
        sizes.add(contestants.shape[1])
        return by_rank_then_crowding(pop, contestants, **kwargs)

    monkeypatch.setattr(module, "by_rank_then_crowding", spy)
    search(SMALL, planned(tournament=7, generations=2), evaluator(SMALL), seed=0)
    assert sizes == {7}
