"""Which children are worth an evaluation: a regression on what has been evaluated so far.

Extremely randomised trees (Geurts et al. 2006) predict what only the network itself can tell, its accuracies; sizes are
exact. Fitted anew for every generation from the evaluations alone, so a resumed search chooses the same.
"""

from collections.abc import Mapping

import numpy as np
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from tamnas.config.sections import SearchPlan
from tamnas.search.front import Fitness
from tamnas.search.objectives import OBJECTIVES
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace

CHILDREN = 10  # bred for every one that is evaluated


def most_promising(
    genes: np.ndarray, count: int, space: SearchSpace, plan: SearchPlan, evaluated: Mapping[Architecture, Fitness]
) -> np.ndarray:
    """Indices of the `count` rows of `genes` that lie foremost, then least crowded, among all and `evaluated`."""
    measured = np.array([fitness.costs for fitness in evaluated.values()])
    everything = np.vstack((measured, predict(genes, space, plan, evaluated)))
    population = Population.new(X=everything, F=everything)
    problem = Problem(n_var=everything.shape[1], n_obj=everything.shape[1])
    RankAndCrowding().do(problem, population, n_survive=len(everything))
    children = population[len(measured) :]
    return np.lexsort((-children.get("crowding"), children.get("rank")))[:count]


def predict(
    genes: np.ndarray, space: SearchSpace, plan: SearchPlan, evaluated: Mapping[Architecture, Fitness]
) -> np.ndarray:
    """Costs (rows of `genes`, objectives): exact where the architecture says them, predicted where it does not."""
    from sklearn.ensemble import ExtraTreesRegressor

    exact = [OBJECTIVES[name].exact for name in plan.objectives]
    columns = np.array([cost_of is None for cost_of in exact])
    sizes = [[cost_of(space, space.decode(row)) if cost_of else 0 for cost_of in exact] for row in genes]
    costs = np.array(sizes, dtype=float)
    if columns.any():
        known = np.array([space.encode(arch) for arch in evaluated])
        measured = np.array([fitness.costs for fitness in evaluated.values()])
        trees = ExtraTreesRegressor(n_estimators=50, max_features=0.5, random_state=0)
        trees.fit(features(known, space), np.squeeze(measured[:, columns]))
        costs[:, columns] = trees.predict(features(genes, space)).reshape(len(genes), -1)
    return costs


def features(genes: np.ndarray, space: SearchSpace) -> np.ndarray:
    """Per layer which block it is, one column for each, and the index of its ratio."""
    blocks, ratios = np.split(np.asarray(genes, dtype=int), 2, axis=1)
    return np.hstack((np.eye(len(space.blocks))[blocks].reshape(len(genes), -1), ratios))
