"""The statistics over trained networks, on records made by hand."""

import json
from itertools import product

import numpy as np
import pytest

from tamnas.errors import InputError
from tamnas.files import write_json
from tamnas.legonet import Voter, candidates, design, layer_counts, lego_net, top
from tamnas.records import NetworkSpec, Record, Score, best
from tamnas.search.front import spread
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace

# Layer 0 changes resolution: a bare non-local block (20) is not legal there.
SPACE = SearchSpace(
    num_classes=2, stem_channels=4, channels=(8,), repeats=(2,), strides=(2,), head=(4, 8, 4),
    blocks=(0, 3, 6, 20), ratios=(0.4, 1.0, 2.0),
)  # fmt: skip


def record(name: str, clean=0.9, robust=0.5, *, blocks=(0, 0), ratios=(1.0, 1.0), parameters=1000, last=None) -> Record:
    network = NetworkSpec(name, Architecture(tuple(blocks), tuple(ratios)))
    return Record(network, parameters, 3, last=Score(2, *(last or (clean, robust))), best=Score(1, clean, robust))


def candidate(record: Record) -> Voter:
    return Voter("one", record)


def names(records: list[Record], count: int) -> list[str]:
    return [one.record.id for one in top([candidate(record) for record in records], count, "best")]


def test_top_is_by_the_sum():
    records = [record("a", 0.5, 0.5), record("b", 0.875, 0.25), record("c", 0.25, 0.75), record("d", 0.75, 0.625)]
    assert names(records, 2) == ["d", "b"]
    assert names(records, 10) == ["d", "b", "a", "c"]


def test_top_breaks_ties_by_size_then_name():
    records = [record("c", 0.5, 0.25), record("b", 0.5, 0.25), record("a", 0.5, 0.25, parameters=2000)]
    records += [record("d", 0.25, 0.5, parameters=500)]
    assert names(records, 3) == ["d", "b", "c"]
    assert names(records[::-1], 4) == ["d", "b", "c", "a"]


@pytest.mark.parametrize("shift", range(1, 10))
def test_ties_of_counts_are_ties_of_shares(shift):
    """Equal sums of images out of 180, whose shares add up to other last bits."""
    bits = 0
    for clean, robust in product(range(150, 180), range(120, 150)):
        ours, theirs = (clean / 180, robust / 180), ((clean + shift) / 180, (robust - shift) / 180)
        bits += sum(ours) > sum(theirs)
        assert names([record("large", *ours, parameters=2000), record("small", *theirs)], 1) == ["small"]
    assert bits


def test_best_is_by_robust_then_clean_then_size():
    records = [record("a", 0.9, 0.4), record("b", 0.5, 0.6), record("c", 0.6, 0.6), record("d", 0.6, 0.6, parameters=9)]
    assert best(records, "best").id == "d"
    assert best(records[:3], "best").id == "c"
    assert best(records[:2], "best").id == "b"


def test_weights_say_which_epoch_counts():
    records = [record("a", 0.9, 0.9, last=(0.1, 0.1)), record("b", 0.2, 0.2, last=(0.3, 0.3))]
    voting = [candidate(record) for record in records]
    for choose in (lambda weights: best(records, weights), lambda weights: top(voting, 1, weights)[0].record):
        assert (choose("best").id, choose("last").id) == ("a", "b")
    robust = [row["mean_robust"] for row in layer_counts(records, "last")]
    assert robust == pytest.approx([0.2] * 4)


def ranking(counts, layer: int, gene: str) -> list[tuple]:
    rows = [row for row in counts if (row["layer"], row["gene"]) == (layer, gene)]
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    return [(row["value"], row["count"]) for row in rows]


def test_layer_counts():
    records = [
        record("a", robust=0.5, blocks=(0, 6), ratios=(0.4, 2.0)),
        record("b", robust=0.3, blocks=(0, 20), ratios=(1.0, 1.0)),
        record("c", robust=0.1, blocks=(3, 20), ratios=(2.0, 1.0)),
        record("d", robust=0.7, blocks=(6, 0), ratios=(2.0, 0.4)),
    ]
    counts = layer_counts(records, "best")
    # layer 0: block 6 has the better network than block 3; layer 1: 0 (0.7) before 6 (0.5)
    assert ranking(counts, 0, "block") == [(0, 2), (6, 1), (3, 1)]
    assert ranking(counts, 1, "block") == [(20, 2), (0, 1), (6, 1)]
    assert ranking(counts, 0, "ratio") == [(2.0, 2), (0.4, 1), (1.0, 1)]
    assert ranking(counts, 1, "ratio") == [(1.0, 2), (0.4, 1), (2.0, 1)]
    means = {(row["layer"], row["gene"], row["value"]): row["mean_robust"] for row in counts}
    assert means[0, "block", 0] == pytest.approx(0.4)
    assert means[1, "ratio", 1.0] == pytest.approx(0.2)
    assert json.loads(json.dumps(counts)) == counts


def test_complete_ties_go_to_the_smaller_value():
    records = [record(name, robust=0.5, blocks=(block, 0)) for name, block in (("a", 6), ("b", 0), ("c", 3))]
    for order in (records, records[::-1], records[1:] + records[:1]):
        assert ranking(layer_counts(order, "best"), 0, "block") == [(0, 1), (3, 1), (6, 1)]


def test_equal_means_tie_whatever_the_order_of_the_networks():
    # {0.1, 0.2, 0.3} in two orders: one mean, two floating-point sums
    figures = ((3, 0.3), (3, 0.2), (3, 0.1), (0, 0.1), (0, 0.2), (0, 0.3))
    for order in (figures, figures[::-1]):
        records = [record(str(i), robust=robust, blocks=(block, 0)) for i, (block, robust) in enumerate(order)]
        assert ranking(layer_counts(records, "best"), 0, "block") == [(0, 3), (3, 3)]


def test_lego_net_skips_what_is_not_legal():
    # networks of a space whose layer 0 allows block 20, or that has other ratios
    records = [record("a", blocks=(20, 20), ratios=(0.6, 1.0)), record("b", blocks=(20, 20), ratios=(0.6, 1.0))]
    records += [record("c", blocks=(6, 0), ratios=(2.0, 1.0))]
    arch = lego_net(SPACE, layer_counts(records, "best"))
    assert arch == Architecture((6, 20), (2.0, 1.0))
    assert SPACE.is_legal(arch)


def test_lego_net_of_random_networks_is_legal(space):
    random = np.random.default_rng(0)
    for _ in range(20):
        records = [
            record(str(i), *random.random(2), **space.sample(random).plain()) for i in range(int(random.integers(1, 8)))
        ]
        arch = lego_net(space, layer_counts(records, "best"))
        assert space.is_legal(arch)
        for layer, block in enumerate(arch.blocks):
            votes = [one.network.architecture.blocks[layer] for one in records]
            assert votes.count(block) == max(map(votes.count, votes))


# -- spread -------------------------------------------------------------------------------------


def test_spread_by_hand():
    assert spread(5, None) == [0, 1, 2, 3, 4]
    assert spread(3, 5) == spread(3, 3) == [0, 1, 2]
    assert spread(9, 3) == [0, 4, 8]
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(7, 1) == [0]
    assert spread(1, 1) == [0]


def test_spread_is_even_and_complete():
    for count in range(1, 40):
        for at_most in range(2, 45):
            indices = spread(count, at_most)
            assert len(indices) == min(count, at_most)
            assert indices == sorted(set(indices))
            assert (indices[0], indices[-1]) == (0, count - 1)
            gaps = np.diff(indices)
            assert len(gaps) == 0 or gaps.max() - gaps.min() <= 2


# -- Lego-Net -----------------------------------------------------------------------------------


def voters() -> list[Voter]:
    """Three good networks and a bad one."""
    given = [
        ("a", 0.9, 0.6, (3, 20), (0.4, 1.0)),
        ("b", 0.8, 0.5, (3, 6), (2.0, 1.0)),
        ("c", 0.7, 0.4, (6, 20), (0.4, 2.0)),
        ("z", 0.1, 0.1, (0, 0), (1.0, 0.4)),
    ]
    return [
        candidate(record(name, clean, robust, blocks=blocks, ratios=ratios))
        for name, clean, robust, blocks, ratios in given
    ]


def test_design_end_to_end():
    arch, counts, statistics = design(SPACE, voters(), 3, "best")
    assert arch == Architecture((3, 20), (0.4, 1.0))
    assert statistics["architecture"] == arch.plain()
    assert statistics["parameters"] == SPACE.parameters(arch)
    assert statistics["voters"] == [{"row": "one", "id": name} for name in "abc"]
    assert statistics["weights"] == "best"
    assert sum(row["count"] for row in counts) == 3 * 2 * 2
    assert json.loads(json.dumps(statistics)) == statistics


def test_the_bad_network_votes_when_all_do():
    arch, counts, statistics = design(SPACE, voters(), 10, "best")
    assert len(statistics["voters"]) == 4
    assert ranking(counts, 0, "block") == [(3, 2), (6, 1), (0, 1)]
    assert arch == Architecture((3, 20), (0.4, 1.0))


def test_candidates_are_read_from_all_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for row in ("one", "two"):
        own = [one.record.plain() for one in voters()[:2]]
        write_json(
            tmp_path / "results/d/retrain_scratch" / row / "seed-3/validation.json", {"format": 1, "networks": own}
        )
    networks = candidates("d", ["one", "two"], 3)
    found = [(one.row, one.record.id) for one in networks]
    assert found == [("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")]
    assert networks[1].record.best.clean == 0.8
    with pytest.raises(InputError, match="seed-4"):
        candidates("d", ["one"], 4)
