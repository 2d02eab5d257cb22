"""NSGA-II on toy fitness functions whose true front is known by brute force; nothing is trained."""

import json
from itertools import combinations, product

import numpy as np
import pytest
from pymoo.core.population import Population
from pymoo.core.problem import Problem

from tamnas import search as module
from tamnas.plan import Pgd, Search
from tamnas.sampling import bounds, genes_parameters, sample_genes
from tamnas.search import (
    BudgetSampling,
    Fitness,
    GeneMutation,
    Memo,
    by_rank_then_crowding,
    front_of,
    fronts,
    hypervolume,
    individuals,
    search,
)
from tamnas.space import Architecture, SearchSpace


def tiny_space(layers: int, blocks=(0, 6, 20), ratios=(0.5, 1.0, 2.0)) -> SearchSpace:
    return SearchSpace(
        num_classes=2, stem_channels=4, channels=(8,), repeats=(layers,), strides=(2,), head=(4, 8, 4),
        blocks=blocks, ratios=ratios,
    )  # fmt: skip


TINY = tiny_space(2)  # 54 architectures
SMALL = tiny_space(3, ratios=(0.5, 1.0, 1.5, 2.0))  # 1,152
CLEAN = {0: 0.05, 6: 0.025, 20: 0.0}
ROBUST = {0: 0.0, 6: 0.1, 20: 0.04}


def toy(space: SearchSpace, arch: Architecture) -> Fitness:
    """Blocks and ratios that help clean accuracy hurt robust accuracy; both cost parameters."""
    clean = 0.5 + sum(CLEAN[block] for block in arch.blocks) + 0.02 * sum(arch.ratios)
    robust = 0.2 + sum(ROBUST[block] for block in arch.blocks) - 0.03 * sum(arch.ratios[1:])
    return Fitness(clean, robust, space.parameters(arch))


def evaluator(space: SearchSpace):
    return lambda archs: [toy(space, arch) for arch in archs]


def everything(space: SearchSpace) -> dict[Architecture, Fitness]:
    blocks = product(*(space.allowed_blocks(layer) for layer in range(len(space.layers))))
    archs = [Architecture(*genes) for genes in product(blocks, product(space.ratios, repeat=len(space.layers)))]
    return {arch: toy(space, arch) for arch in archs}


def true_front(fitness: dict[Architecture, Fitness]) -> set[Architecture]:
    """By definition: nobody is at least as good in everything and better in something."""
    points = np.array([one.objectives for one in fitness.values()])
    no_worse = (points[:, None] <= points[None]).all(2)  # [i, j]: i is no worse than j
    better = (points[:, None] < points[None]).any(2)
    dominated = (no_worse & better).any(0)
    return {arch for arch, out in zip(fitness, dominated, strict=True) if not out}


def planned(**changed) -> Search:
    setting = {
        "population": 16, "offspring": 16, "generations": 6, "tournament": 4, "mutation_probability": 0.1,
        "crossover_probability": 0.9, "bn_calibration_images": 0,
        "attack": Pgd(eps="8/255", step_size="2/255", steps=1),
    }  # fmt: skip
    return Search(**(setting | changed))


# -- the whole search ---------------------------------------------------------------------------

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
        assert found.front == found.archive_front == golden


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
        assert len(set(found.front) & truth) >= 0.5 * len(found.front)
        share = hypervolume(SMALL, [fitness[arch] for arch in found.archive_front])
        assert share > 0.88 * hypervolume(SMALL, [fitness[arch] for arch in truth])


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
    assert len(found.front) <= 16 < len(found.archive_front)
    inside = {arch: toy(SMALL, arch) for arch in found.front}
    assert true_front(inside) == set(found.front)
    for front in (found.front, found.archive_front):
        sizes = [SMALL.parameters(arch) for arch in front]
        assert sizes == sorted(sizes)
        assert len(set(front)) == len(front)


@pytest.mark.parametrize(("population", "generations"), [(6, 1), (10, 4)])
def test_survivals_and_individuals(space, population, generations):
    calls = []

    def evaluate(archs):
        calls.append(archs)
        return [Fitness(0.5, 0.5, space.parameters(arch)) for arch in archs]

    plan = planned(population=population, offspring=population, generations=generations)
    found = search(space, plan, evaluate, seed=0)
    assert [len(archs) for archs in found.generations] == [population] * (1 + generations)
    assert found.generations == calls
    assert [row["generation"] for row in found.hypervolume] == list(range(1 + generations))
    for archs in found.generations:
        assert len(set(archs)) == len(archs)


def test_offspring_may_differ_from_the_population(space):
    plan = planned(population=8, offspring=3, generations=5)
    found = search(space, plan, lambda archs: [Fitness(0.5, 0.5, space.parameters(arch)) for arch in archs], seed=0)
    assert [len(archs) for archs in found.generations] == [8, 3, 3, 3, 3, 3]


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
        return [Fitness(0.5 + 0.4 * pull * size / largest, 0.5, size) for size in sizes]

    plan = planned(budget=budget, mutation_probability=0.5, mutation_unit=unit)
    found = search(space, plan, evaluate, seed=0)
    for arch in (arch for archs in found.generations for arch in archs):
        assert space.is_legal(arch)
        assert low <= space.parameters(arch) <= high
    assert [len(archs) for archs in found.generations] == [16] * 7


def test_crossover_mixes_genes_position_by_position(space):
    plan = planned(population=6, offspring=6, generations=3, mutation_probability=0, crossover_probability=1)
    found = search(space, plan, lambda archs: [Fitness(0.5, 0.5, space.parameters(arch)) for arch in archs], seed=1)
    genes = [np.array([space.encode(arch) for arch in archs]) for archs in found.generations]
    new = 0
    for children in genes[1:]:
        for position in range(genes[0].shape[1]):
            assert set(children[:, position]) <= set(genes[0][:, position])
        new += sum(tuple(child) not in set(map(tuple, genes[0])) for child in children)
    assert new >= 12


def test_without_crossover_a_child_is_a_parent_with_one_gene_changed(space):
    plan = planned(population=12, offspring=12, generations=1, tournament=2, mutation_probability=1,
                   mutation_unit="individual", crossover_probability=0)  # fmt: skip
    found = search(space, plan, lambda archs: [Fitness(0.5, 0.5, space.parameters(arch)) for arch in archs], seed=0)
    parents, children = (np.array([space.encode(arch) for arch in archs]) for archs in found.generations)
    nearest = (children[:, None] != parents[None]).sum(2).min(1)
    assert (nearest == 1).all()


@pytest.mark.parametrize("budget", [None, (None, TINY.parameter_range()[0])], ids=["space", "budget"])
def test_an_exhausted_space_ends_the_search(budget):
    plan = planned(population=60, offspring=60, budget=budget)
    found = search(TINY, plan, evaluator(TINY), seed=0)
    assert {arch for archs in found.generations for arch in archs} <= set(everything(TINY))
    if budget is None:
        assert set(found.front) == true_front(everything(TINY))


# -- operators ----------------------------------------------------------------------------------


def test_initial_population_is_distinct():
    for budget in (None, (700, 900)):
        problem = Problem(n_var=4, n_obj=3, vtype=int)
        drawn = BudgetSampling(TINY, budget)._do(problem, 12, random_state=np.random.default_rng(0))
        archs = [TINY.decode(genes) for genes in drawn]
        low, high = bounds(budget)
        existing = [arch for arch in everything(TINY) if low <= TINY.parameters(arch) <= high]
        assert len(set(archs)) == len(archs) == min(12, len(existing))  # the narrow budget admits 10
        assert all(low <= TINY.parameters(arch) <= high for arch in archs)


def values_per_gene(space: SearchSpace) -> np.ndarray:
    layers = range(len(space.layers))
    return np.array([len(space.allowed_blocks(layer)) for layer in layers] + [len(space.ratios) for _ in layers])


def mutated(unit: str, probability: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """(which genes changed, the children) of `count` parents in SMALL."""
    random = np.random.default_rng(0)
    parents = sample_genes(SMALL, random, count)
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
    parents = sample_genes(SMALL, random, 500)
    sizes = genes_parameters(SMALL, parents)
    inside = (budget[0] <= sizes) & (sizes <= budget[1])
    assert 0.05 < inside.mean() < 0.6
    children = GeneMutation(SMALL, 0.0, unit, budget, tries=3)._do(None, parents, random_state=random)
    after = genes_parameters(SMALL, children)
    assert ((budget[0] <= after) & (after <= budget[1])).all()
    assert np.array_equal(children[inside], parents[inside])
    assert len(np.unique(children[~inside], axis=0)) > 10


def test_a_child_outside_the_budget_is_drawn_again_from_its_parent():
    smallest, largest = SMALL.parameter_range()
    budget = (None, (smallest + largest) // 2)
    random = np.random.default_rng(0)
    parents = sample_genes(SMALL, random, 500, budget)
    children = GeneMutation(SMALL, 1.0, "individual", budget, tries=500)._do(None, parents, random_state=random)
    assert (genes_parameters(SMALL, children) <= budget[1]).all()
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


# -- the memo -----------------------------------------------------------------------------------


class Counting:
    """Evaluates as `toy`, in reverse order, and remembers; raises after `limit` evaluations."""

    def __init__(self, limit: int | None = None):
        self.seen: list[Architecture] = []
        self.limit = limit

    def __call__(self, archs):
        for arch in reversed(archs):
            if len(self.seen) == self.limit:
                raise KeyboardInterrupt
            self.seen.append(arch)
            yield arch, toy(SMALL, arch)


def test_no_architecture_is_evaluated_twice(tmp_path):
    counting = Counting()
    memo = Memo(tmp_path / "memo.jsonl", counting)
    archs = [SMALL.sample(np.random.default_rng(seed)) for seed in (0, 1, 0, 2)]
    assert memo(archs) == [toy(SMALL, arch) for arch in archs]
    assert len(counting.seen) == 3
    assert memo([archs[2], archs[3]]) == [toy(SMALL, archs[2]), toy(SMALL, archs[3])]
    assert len(counting.seen) == 3
    again = Counting()
    assert Memo(tmp_path / "memo.jsonl", again)(archs) == memo(archs)
    assert not again.seen


def test_search_evaluates_distinct_architectures_only(tmp_path):
    # TINY's 54 architectures run out: individuals must come back
    seen = []

    def evaluate(archs):
        seen.extend(archs)
        return ((arch, toy(TINY, arch)) for arch in archs)

    plan = planned(population=12, offspring=12, generations=12)
    found = search(TINY, plan, Memo(tmp_path / "memo.jsonl", evaluate), seed=0)
    born = [arch for archs in found.generations for arch in archs]
    assert len(set(born)) == len(seen) == len(set(seen)) < len(born)
    assert found == search(TINY, plan, evaluator(TINY), seed=0)


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_memo_survives_a_truncated_last_line(tmp_path, cut):
    path = tmp_path / "memo.jsonl"
    archs = [SMALL.sample(np.random.default_rng(seed)) for seed in range(6)]
    Memo(path, Counting())(archs[:4])
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 - cut])  # the newline and some of the last line
    counting = Counting()
    memo = Memo(path, counting)
    assert len(memo.known) == 3
    assert memo(archs) == [toy(SMALL, arch) for arch in archs]
    assert len(counting.seen) == 3
    # and the file is whole again
    assert Memo(path, None)(archs) == [toy(SMALL, arch) for arch in archs]


def test_memo_sees_altered_bytes(tmp_path, caplog):
    """A flipped digit is still JSON: the record's checksum tells, and its subnet is evaluated again."""
    path = tmp_path / "memo.jsonl"
    archs = [SMALL.sample(np.random.default_rng(seed)) for seed in range(4)]
    Memo(path, Counting())(archs)
    whole = path.read_bytes()
    for place in range(1, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        caplog.clear()
        assert Memo(path, Counting())(archs) == [toy(SMALL, arch) for arch in archs]
        if whole[place : place + 1] != b"\n":
            assert f"{path}: record " in caplog.text


def test_memo_survives_a_line_without_its_newline(tmp_path):
    path = tmp_path / "memo.jsonl"
    archs = [SMALL.sample(np.random.default_rng(seed)) for seed in range(3)]
    Memo(path, Counting())(archs[:2])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    counting = Counting()
    memo = Memo(path, counting)
    assert memo(archs) == [toy(SMALL, arch) for arch in archs]
    assert counting.seen == [archs[2]]
    assert len(Memo(path, None).known) == 3


@pytest.mark.parametrize("after", [0, 5, 16, 37])
def test_a_killed_search_replays_to_the_same_result(tmp_path, after):
    undisturbed, whole = Counting(), tmp_path / "whole.jsonl"
    expected = search(SMALL, planned(), Memo(whole, undisturbed), seed=5)
    path, killed, second = tmp_path / "memo.jsonl", Counting(after), Counting()
    with pytest.raises(KeyboardInterrupt):
        search(SMALL, planned(), Memo(path, killed), seed=5)
    memo = Memo(path, second)
    assert len(memo.known) == after
    assert search(SMALL, planned(), memo, seed=5) == expected
    assert len(second.seen) == len(undisturbed.seen) - after
    assert not set(second.seen) & set(killed.seen)
    assert memo.known == Memo(whole, None).known


# -- hypervolume --------------------------------------------------------------------------------


def by_inclusion_exclusion(points: np.ndarray) -> float:
    """Volume that `points` in the unit cube dominate, towards (1, 1, 1)."""
    return sum(
        (-1) ** (size + 1) * np.clip(1 - points[list(chosen)].max(0), 0, None).prod()
        for size in range(1, len(points) + 1)
        for chosen in combinations(range(len(points)), size)
    )


def test_hypervolume_by_hand():
    largest = SMALL.parameter_range()[1]
    assert hypervolume(SMALL, [Fitness(0.5, 0.25, largest // 5)]) == pytest.approx(0.5 * 0.25 * 0.8)
    assert hypervolume(SMALL, [Fitness(1, 1, 0)]) == pytest.approx(1)
    # on the reference planes nothing is dominated
    assert hypervolume(SMALL, [Fitness(0, 0.5, 10), Fitness(0.5, 0, 10), Fitness(0.9, 0.9, largest)]) == 0


@pytest.mark.parametrize("count", [2, 3, 7])
def test_hypervolume_by_inclusion_and_exclusion(count):
    random, largest = np.random.default_rng(count), SMALL.parameter_range()[1]
    for _ in range(5):
        points = [Fitness(*random.random(2), int(random.integers(largest + 1))) for _ in range(count)]
        scaled = np.array([(1 - p.clean, 1 - p.robust, p.parameters / largest) for p in points])
        assert hypervolume(SMALL, points) == pytest.approx(by_inclusion_exclusion(scaled))


def test_hypervolume_rows():
    found = search(SMALL, planned(), evaluator(SMALL), seed=2)
    evaluated: set[Architecture] = set()
    for archs, row in zip(found.generations, found.hypervolume, strict=True):
        evaluated |= set(archs)
        assert row["evaluated"] == len(evaluated)
        # the archive's, recomputed from all points at once: dominated ones add nothing
        assert row["archive_hypervolume"] == pytest.approx(hypervolume(SMALL, [toy(SMALL, arch) for arch in evaluated]))
        assert row["hypervolume"] <= row["archive_hypervolume"] + 1e-12
        assert row["front"] <= 16
    archive = [row["archive_hypervolume"] for row in found.hypervolume]
    assert archive == sorted(archive)
    assert archive[-1] > archive[0]
    assert found.hypervolume[-1]["front"] == len(found.front)


# -- stagnation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 3])
def test_stagnation_ends_the_search(space, patience):
    # only the initial population can gain: everything later is worse in all objectives
    born: list[Architecture] = []

    def evaluate(archs):
        quality = 0.5 if not born else 0.1
        born.extend(archs)
        return [Fitness(quality, quality, 1000 if quality == 0.5 else 2000) for _ in archs]

    found = search(space, planned(generations=20, stagnation=patience), evaluate, seed=0)
    assert len(found.generations) == 1 + patience
    assert len(found.hypervolume) == 1 + patience


def test_gains_keep_the_search_alive(space):
    def improving():
        quality = [0.1]

        def evaluate(archs):
            quality[0] += 0.01
            return [Fitness(quality[0], quality[0], 1000) for _ in archs]

        return evaluate

    for stagnation in (1, None):
        found = search(space, planned(generations=9, stagnation=stagnation), improving(), seed=0)
        assert len(found.generations) == 10


# -- what is written ----------------------------------------------------------------------------


def test_records_are_plain_and_complete():
    found = search(SMALL, planned(generations=2), evaluator(SMALL), seed=0)
    fitness = {arch: toy(SMALL, arch) for archs in found.generations for arch in archs}
    rows = individuals(found, fitness)
    assert [(row["generation"], row["individual"]) for row in rows] == list(product(range(3), range(16)))
    for row, arch in zip(rows, (arch for archs in found.generations for arch in archs), strict=True):
        assert Architecture.parse(row["architecture"]) == arch
        assert Fitness(row["clean"], row["robust"], row["parameters"]) == fitness[arch]
    plain = fronts(found, fitness)
    assert json.loads(json.dumps(plain)) == plain
    assert [row["id"] for row in plain["front"]] == [f"n{i:02d}" for i in range(1, len(found.front) + 1)]
    for name, front in (("front", found.front), ("archive_front", found.archive_front)):
        assert [Architecture.from_plain(row["architecture"]) for row in plain[name]] == front


def test_front_of_drops_repeats_and_keeps_equals():
    a, b, c = (Architecture((0, 0), (ratio, 1.0)) for ratio in TINY.ratios)
    fitness = {a: Fitness(0.5, 0.5, 10), b: Fitness(0.5, 0.5, 10), c: Fitness(0.5, 0.4, 10)}
    assert front_of([a, c, b, a], fitness) == sorted([a, b], key=str)
