"""The search's predictor on a toy whose every fitness is known."""

import numpy as np

from tamnas.search.front import Fitness
from tamnas.search.nsga2 import search
from tamnas.search.predictor import features, most_promising, predict
from tests.helpers.toy_search import SMALL, evaluator, everything, planned, toy, true_front

PLAN = planned(predictor="extra_trees")


def evaluated(count: int) -> dict:
    archs = map(SMALL.decode, SMALL.distinct_genes(np.random.default_rng(0), count))
    return {arch: toy(SMALL, arch) for arch in archs}


def children(known: dict, count: int) -> np.ndarray:
    return SMALL.distinct_genes(np.random.default_rng(1), count, known=[SMALL.encode(arch) for arch in known])


def test_sizes_are_exact_and_accuracies_are_learnt():
    known = evaluated(200)
    genes = children(known, 300)
    truth = np.array([toy(SMALL, SMALL.decode(row)).costs for row in genes])
    costs = predict(genes, SMALL, PLAN, known)
    assert np.array_equal(costs[:, 2], truth[:, 2])
    for column in (0, 1):
        assert np.corrcoef(costs[:, column], truth[:, column])[0, 1] > 0.9


def test_only_what_needs_a_network_is_predicted():
    plan = planned(predictor="extra_trees", objectives=("parameters", "clean_error"))
    known = {arch: Fitness.of(fitness.values, plan.objectives) for arch, fitness in evaluated(200).items()}
    genes = children(known, 20)
    costs = predict(genes, SMALL, plan, known)
    assert costs[:, 0].tolist() == SMALL.genes_parameters(genes).tolist()
    assert ((costs[:, 1] > 0) & (costs[:, 1] < 1)).all()


def test_an_architecture_of_its_own_has_features_of_its_own():
    genes = np.array([SMALL.encode(arch) for arch in everything(SMALL)])
    rows = features(genes, SMALL)
    assert rows.shape == (len(genes), 3 * len(SMALL.blocks) + 3)
    assert len(np.unique(rows, axis=0)) == len(genes)


def test_the_chosen_are_foremost_among_all(monkeypatch):
    known = evaluated(100)
    genes = children(known, 400)
    truth = np.array([toy(SMALL, SMALL.decode(row)).costs for row in genes])
    monkeypatch.setattr("tamnas.search.predictor.predict", lambda *args: truth)  # a predictor without error
    costs = np.vstack((truth, [fitness.costs for fitness in known.values()]))
    dominators = ((costs[:, None] <= truth[None]).all(2) & (costs[:, None] < truth[None]).any(2)).sum(0)
    chosen = most_promising(genes, 20, SMALL, PLAN, known)
    assert len(set(chosen)) == 20
    assert (dominators == 0).sum() >= 20
    assert (dominators[chosen] == 0).all()


def test_the_least_crowded_come_first_and_what_is_measured_counts(monkeypatch):
    costs = np.array([[0.1, 0.9, 1], [0.5, 0.5, 1], [0.51, 0.49, 1], [0.52, 0.48, 1], [0.9, 0.1, 1], [0.4, 0.7, 1]])
    monkeypatch.setattr("tamnas.search.predictor.predict", lambda *args: costs)
    arch = SMALL.decode(children({}, 1)[0])
    far = {arch: Fitness({}, (2.0, 2.0, 2.0))}
    assert set(most_promising(costs, 2, SMALL, PLAN, far)) == {0, 4}  # the ends
    assert most_promising(costs, 6, SMALL, PLAN, far).tolist()[-1] in (2, 3)  # between near neighbours
    beats_the_first = {arch: Fitness({}, (0.05, 0.8, 0.5))}
    assert most_promising(costs, 6, SMALL, PLAN, beats_the_first)[-1] == 0


def test_it_chooses_among_ten_times_as_many(monkeypatch):
    bred = []

    def chosen(genes, count, *rest):
        bred.append((len(genes), count))
        return np.arange(count)

    monkeypatch.setattr("tamnas.search.operators.most_promising", chosen)
    search(SMALL, planned(predictor="extra_trees", population=4, offspring=3, generations=1), evaluator(SMALL), 0)
    assert bred == [(30, 3)]


def test_a_search_with_it_finds_more_of_the_front():
    truth = true_front(everything(SMALL))

    def share(predictor: str | None) -> float:
        plan = planned(predictor=predictor, tournament=2, mutation_probability=1, crossover_probability=0)
        runs = [search(SMALL, plan, evaluator(SMALL), seed) for seed in range(4)]
        return np.mean([len({arch for archs in run.generations for arch in archs} & truth) for run in runs])

    assert share("extra_trees") > share(None)
