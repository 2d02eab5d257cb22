"""Architectures drawn within limits: uniform, also where uniform draws hardly ever meet them."""

import dataclasses
from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy.stats import chisquare

from tamnas.errors import InputError
from tamnas.space import space as space_module
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace

PAPER = SearchSpace.paper()


@pytest.mark.parametrize("uniform_batches", [10, 0], ids=["uniform draws", "towards the budget"])
@pytest.mark.parametrize("part", [slice(10, 40), slice(0, 8), slice(46, None)], ids=["middle", "small", "large"])
@pytest.mark.parametrize("capped", [False, True], ids=["", "max_macs"])
def test_sampling_is_uniform_over_what_a_budget_allows(monkeypatch, uniform_batches, part, capped):
    monkeypatch.setattr(space_module, "_UNIFORM_BATCHES", uniform_batches)
    space = dataclasses.replace(
        PAPER, channels=(48,), repeats=(2,), strides=(2,), blocks=(0, 5, 20), ratios=(0.2, 1.0, 2.0)
    )
    everything = [
        Architecture(blocks, ratios)
        for blocks in product((0, 5), (0, 5, 20))
        for ratios in product(space.ratios, repeat=2)
    ]
    low, *_, high = sorted(space.parameters(arch) for arch in everything)[part]
    inside = [arch for arch in everything if low <= space.parameters(arch) <= high]
    if capped:
        most = int(np.quantile([space.macs(arch) for arch in inside], 0.4))
        inside = [arch for arch in inside if space.macs(arch) <= most]
        space = dataclasses.replace(space, max_macs=most)
    genes = space.sample_genes(np.random.default_rng(0), 200 * len(inside), (low, high))
    drawn = Counter(map(space.decode, genes))
    assert set(drawn) == set(inside)
    assert chisquare(list(drawn.values())).pvalue > 1e-4


def test_a_budget_that_uniform_draws_hardly_ever_meet():
    """Of the paper's own networks the small ones have 1.66 to 1.75M parameters."""
    space, budget = PAPER, (None, 1_690_000)
    genes = space.sample_genes(np.random.default_rng(0), 50, budget)
    assert space.within(genes, budget).all()
    assert len(np.unique(genes, axis=0)) == 50


def test_a_limit_on_multiply_accumulates_holds_beside_a_budget():
    free = dataclasses.replace(PAPER, size=8)
    genes = free.sample_genes(np.random.default_rng(0), 400)
    limit = int(np.median(free.mac_sums.of(genes)))
    capped = dataclasses.replace(free, max_macs=limit)
    assert capped.within(genes, None).sum() == pytest.approx(200, abs=2)
    budget = (1_700_000, 1_900_000)
    drawn = capped.sample_genes(np.random.default_rng(0), 200, budget)
    assert free.mac_sums.of(drawn).max() <= limit
    assert capped.within(drawn, budget).all()
    with pytest.raises(InputError, match=r"^budget: no architecture has at most 1,000 multiply-accumulates \(search"):
        dataclasses.replace(free, max_macs=1000).sample(np.random.default_rng(0))


@pytest.mark.parametrize("uniform_batches", [10, 0], ids=["uniform draws", "towards the budget"])
def test_draws_within_a_budget_keep_to_the_open_ratios(monkeypatch, uniform_batches):
    monkeypatch.setattr(space_module, "_UNIFORM_BATCHES", uniform_batches)
    space, ratios = PAPER, (1.8, 2.0)
    low, high = space.parameter_range(ratios)
    genes = space.sample_genes(np.random.default_rng(0), 50, (low, (low + high) // 2), ratios)
    assert {space.ratios[gene] for gene in genes[:, 16:].flat} == set(ratios)
