"""Operators of the search: legal by construction, within the budget, never the same network twice."""

from collections.abc import Mapping

import numpy as np
from pymoo.core.duplicate import DefaultDuplicateElimination
from pymoo.core.mating import Mating
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.sampling import Sampling
from pymoo.core.selection import Selection
from pymoo.operators.crossover.ux import UniformCrossover

from tamnas.config.sections import SearchPlan
from tamnas.search.front import Fitness
from tamnas.search.predictor import CHILDREN, most_promising
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


class BudgetSampling(Sampling):
    """The initial population: distinct legal architectures within the budget."""

    def __init__(self, space: SearchSpace, budget):
        super().__init__()
        self.space, self.budget = space, budget

    def _do(self, problem, n_samples, *args, random_state=None, **kwargs):
        return self.space.distinct_genes(random_state, n_samples, self.budget)


class GeneMutation(Mutation):
    """Re-draw genes among what is legal at their layer; children outside the budget are drawn again.

    `unit="gene"`: every gene changes with probability p. `unit="individual"`: with probability p
    one gene changes. A child that stays outside the budget after `tries` draws is replaced by a
    fresh architecture within it.
    """

    def __init__(self, space: SearchSpace, probability: float, unit: str, budget, tries: int = 50):
        super().__init__(prob=1.0)
        self.space, self.probability, self.unit, self.budget, self.tries = space, probability, unit, budget, tries
        self.choices = [
            np.array([space.blocks.index(block) for block in space.allowed_blocks(layer)])
            for layer in range(len(space.layers))
        ] + [np.arange(len(space.ratios))] * len(space.layers)

    def _do(self, problem, X, *args, random_state=None, **kwargs):  # noqa: N803 (pymoo's name)
        children = X.astype(int)
        waiting = np.arange(len(X))
        for _ in range(self.tries):
            children[waiting] = self._mutate(X[waiting].astype(int), random_state)
            waiting = waiting[~self.space.within(children[waiting], self.budget)]
            if len(waiting) == 0:
                return children
        children[waiting] = self.space.sample_genes(random_state, len(waiting), self.budget)
        return children

    def _mutate(self, genes: np.ndarray, random: np.random.Generator) -> np.ndarray:
        fresh = np.stack([random.choice(choices, size=len(genes)) for choices in self.choices], axis=1)
        if self.unit == "gene":
            change = random.random(genes.shape) < self.probability
        else:
            change = np.arange(genes.shape[1]) == random.integers(genes.shape[1], size=(len(genes), 1))
            change &= random.random((len(genes), 1)) < self.probability
        return np.where(change, fresh, genes)


class Unseen(DefaultDuplicateElimination):
    """Drops individuals that repeat each other, and architectures in `evaluated`, which grows outside."""

    def __init__(self, space: SearchSpace, evaluated: Mapping[Architecture, Fitness]):
        super().__init__()
        self.space, self.evaluated = space, evaluated

    def do(self, pop, *args, **kwargs):
        new = [self.space.decode(genes) not in self.evaluated for genes in pop.get("X")]
        return super().do(pop[np.array(new, dtype=bool)], *args, **kwargs)


class Breeding(Mating):
    """As many children as asked for, unseen; where their parents' genes do not yield them, drawn afresh.

    Fewer where the space within the budget holds no more. With a predictor, `CHILDREN` times as many are bred, and the
    most promising ones live.
    """

    def __init__(self, space: SearchSpace, plan: SearchPlan, selection: Selection, unseen: Unseen):
        super().__init__(
            selection,
            UniformCrossover(prob=plan.crossover_probability),
            GeneMutation(space, plan.mutation_probability, plan.mutation_unit, plan.budget),
            eliminate_duplicates=unseen,
        )
        self.space, self.plan, self.evaluated = space, plan, unseen.evaluated

    def do(self, problem, pop, n_offsprings, random_state=None, **kwargs):
        bred = n_offsprings * (CHILDREN if self.plan.predictor else 1)
        children = super().do(problem, pop, bred, random_state=random_state, **kwargs)
        if len(children) < n_offsprings:
            known = [self.space.encode(arch) for arch in self.evaluated] + list(children.get("X"))
            fresh = self.space.distinct_genes(random_state, n_offsprings - len(children), self.plan.budget, known)
            return Population.merge(children, Population.new(X=fresh))
        if self.plan.predictor:
            return children[most_promising(children.get("X"), n_offsprings, self.space, self.plan, self.evaluated)]
        return children


def by_rank_then_crowding(pop, contestants: np.ndarray, random_state=None, **kwargs) -> np.ndarray:
    """Winner of each row of contestants: lowest rank, then largest crowding distance, then chance."""
    rank, crowding = pop.get("rank"), pop.get("crowding")
    chance = random_state.random(contestants.shape)
    order = np.lexsort((chance, -crowding[contestants], rank[contestants]), axis=1)
    return np.take_along_axis(contestants, order[:, :1], axis=1)
