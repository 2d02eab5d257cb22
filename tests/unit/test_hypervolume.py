"""Hypervolume by hand and by inclusion and exclusion; stagnation, which it decides."""

from itertools import combinations

import numpy as np
import pytest

from tamnas.search.front import hypervolume
from tamnas.search.nsga2 import _stagnant, search
from tamnas.space.architecture import Architecture
from tests.helpers.toy_search import SMALL, THREE, evaluator, fitness_of, planned, toy


def by_inclusion_exclusion(points: np.ndarray) -> float:
    """Volume that `points` in the unit cube dominate, towards (1, 1, 1)."""
    return sum(
        (-1) ** (size + 1) * np.clip(1 - points[list(chosen)].max(0), 0, None).prod()
        for size in range(1, len(points) + 1)
        for chosen in combinations(range(len(points)), size)
    )


def test_hypervolume_by_hand():
    largest = SMALL.parameter_range()[1]
    assert hypervolume(SMALL, THREE, [fitness_of(0.5, 0.25, largest // 5)]) == pytest.approx(0.5 * 0.25 * 0.8)
    assert hypervolume(SMALL, THREE, [fitness_of(1, 1, 0)]) == pytest.approx(1)
    # on the reference planes nothing is dominated
    assert (
        hypervolume(SMALL, THREE, [fitness_of(0, 0.5, 10), fitness_of(0.5, 0, 10), fitness_of(0.9, 0.9, largest)]) == 0
    )


@pytest.mark.parametrize("count", [2, 3, 7])
def test_hypervolume_by_inclusion_and_exclusion(count):
    random, largest = np.random.default_rng(count), SMALL.parameter_range()[1]
    for _ in range(5):
        points = [fitness_of(*random.random(2), int(random.integers(largest + 1))) for _ in range(count)]
        values = [point.values for point in points]
        scaled = np.array([(1 - v["clean"], 1 - v["robust"], v["parameters"] / largest) for v in values])
        assert hypervolume(SMALL, THREE, points) == pytest.approx(by_inclusion_exclusion(scaled))


def test_hypervolume_rows():
    found = search(SMALL, planned(), evaluator(SMALL), seed=2)
    evaluated: set[Architecture] = set()
    for archs, row in zip(found.generations, found.hypervolume, strict=True):
        evaluated |= set(archs)
        assert row["evaluated"] == len(evaluated)
        # the archive's, recomputed from all points at once: dominated ones add nothing
        assert row["archive_hypervolume"] == pytest.approx(
            hypervolume(SMALL, THREE, [toy(SMALL, arch) for arch in evaluated])
        )
        assert row["hypervolume"] <= row["archive_hypervolume"] + 1e-12
        assert row["front"] <= 16
    archive = [row["archive_hypervolume"] for row in found.hypervolume]
    assert archive == sorted(archive)
    assert archive[-1] > archive[0]
    assert found.hypervolume[-1]["front"] == len(found.population_front)


def test_stagnation_is_of_all_that_was_evaluated():
    """The population's hypervolume may fall, and rise again to where it was."""
    rows = [{"hypervolume": value, "archive_hypervolume": 0.5} for value in (0.1, 0.2, 0.3, 0.4)]
    assert _stagnant(rows, 2)
    rows = [{"hypervolume": 0.5, "archive_hypervolume": value} for value in (0.1, 0.2, 0.3, 0.4)]
    assert not _stagnant(rows, 2)


@pytest.mark.parametrize("patience", [1, 3])
def test_stagnation_ends_the_search(space, patience):
    # only the initial population can gain: everything later is worse in all objectives
    born: list[Architecture] = []

    def evaluate(archs):
        quality = 0.5 if not born else 0.1
        born.extend(archs)
        return [fitness_of(quality, quality, 1000 if quality == 0.5 else 2000) for _ in archs]

    found = search(space, planned(generations=20, stagnation=patience), evaluate, seed=0)
    assert len(found.generations) == 1 + patience
    assert len(found.hypervolume) == 1 + patience


def test_gains_keep_the_search_alive(space):
    def improving():
        quality = [0.1]

        def evaluate(archs):
            quality[0] += 0.01
            return [fitness_of(quality[0], quality[0], 1000) for _ in archs]

        return evaluate

    for stagnation in (1, None):
        found = search(space, planned(generations=9, stagnation=stagnation), improving(), seed=0)
        assert len(found.generations) == 10
