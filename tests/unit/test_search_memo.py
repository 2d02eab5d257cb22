"""The search's memo: nothing is evaluated twice, and damage is found."""

import numpy as np
import pytest

from tamnas.search.memo import Memo
from tamnas.search.nsga2 import search
from tamnas.space.architecture import Architecture
from tests.helpers.toy_search import SMALL, TINY, evaluator, planned, toy


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


def test_an_evaluation_is_on_disk_before_the_next_begins(tmp_path):
    path, counting = tmp_path / "memo.jsonl", Counting()

    def evaluate(archs):
        for pair in counting(archs):
            assert len(Memo(path, None).known) == len(counting.seen) - 1
            yield pair

    Memo(path, evaluate)([SMALL.sample(np.random.default_rng(seed)) for seed in range(3)])
    assert len(Memo(path, None).known) == len(counting.seen) == 3


def test_search_evaluates_distinct_architectures_only(tmp_path):
    # TINY's 54 architectures run out: the search ends before its 12 generations
    seen = []

    def evaluate(archs):
        seen.extend(archs)
        return ((arch, toy(TINY, arch)) for arch in archs)

    plan = planned(population=12, offspring=12, generations=12)
    found = search(TINY, plan, Memo(tmp_path / "memo.jsonl", evaluate), seed=0)
    born = [arch for archs in found.generations for arch in archs]
    assert born == seen
    assert len(set(born)) == len(born) <= 54 < 12 + 12 * 12
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
