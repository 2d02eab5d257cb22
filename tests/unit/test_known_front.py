"""The benchmark on a known front, with a made-up table of 64 networks: four operations on three edges."""

import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import known_front
from tamnas.space.architecture import Architecture
from tests.helpers.toy_search import THREE, true_front

SIZES = np.array([0, 0, 30, 200])


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    genes = np.array(list(product(range(4), repeat=3)), dtype=np.int8)
    generator.shuffle(genes)
    clean = generator.integers(1, 20, len(genes)) / 20
    return {
        "operations": np.array(["none", "skip", "conv1", "conv3"]),
        "genes": genes,
        "clean": clean.astype(np.float32),
        "pgd": (clean[:, None] * generator.random((len(genes), 7))).astype(np.float32),
        "parameters": 1000 + SIZES[genes].sum(axis=1),
    }


@pytest.fixture
def saved(tmp_path):
    def save(arrays):
        np.savez(tmp_path / "table.npz", **arrays)
        return tmp_path / "table.npz"

    return save


def test_every_network_has_its_row(arrays, saved):
    known = known_front.load(saved(arrays), THREE)
    assert len(known.fitness) == 64
    for index, genes in enumerate(arrays["genes"].tolist()):
        arch = Architecture(tuple(genes), (1.0,) * 3)
        assert known.space.parameters(arch) == arrays["parameters"][index]
        clean, robust = arrays["clean"][index], arrays["pgd"][index, 2]
        assert known.fitness[arch].costs == (1 - float(clean), 1 - float(robust), arrays["parameters"][index])


def test_shares_are_of_the_true_front(arrays, saved):
    arrays["clean"][1], arrays["pgd"][1] = arrays["clean"][0], arrays["pgd"][0]
    known = known_front.load(saved(arrays), THREE)
    best = true_front(known.fitness)
    assert known.points == {known.fitness[arch].costs for arch in best}
    assert known.share(list(known.fitness)) == 1
    assert known.share([arch for arch in known.fitness if arch not in best]) == 0
    chosen = next(iter(best))
    assert known.share([chosen, chosen]) == pytest.approx(1 / len(known.points))


def test_networks_of_equal_values_are_one_point(arrays, saved):
    for name, value in (("clean", 1.0), ("pgd", 1.0)):
        arrays[name][:] = value
    known = known_front.load(saved(arrays), THREE)
    assert known.points == {(0.0, 0.0, 1000.0)}
    assert len(true_front(known.fitness)) == 8  # two operations without parameters on three edges
    assert known.share([Architecture((0, 1, 0), (1.0,) * 3)]) == 1


def test_random_search_has_as_many_evaluations_and_all_of_them_find_everything(arrays, saved):
    known = known_front.load(saved(arrays), THREE)
    few = known_front.measure(known, known_front.planned(4, 2), seed=0)
    assert few == known_front.measure(known, known_front.planned(4, 2), seed=0)
    assert few["evaluations"] == 12
    assert few["random"] < 1
    all_of_them = known_front.measure(known, known_front.planned(64, 1), seed=0)
    assert all_of_them == {"evaluations": 64, "archive": 1, "population": 1, "random": 1}


@pytest.mark.slow
def test_the_table(arrays, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(known_front, "BUDGETS", ((10, 2), (10, 3)))
    out = tmp_path / "out.json"
    done = CliRunner().invoke(known_front.main, [f"--data={saved(arrays)}", "--seeds=2", f"--out={out}"])
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert result["table"] in done.output
    count = 2 * len(known_front.SEARCHES)
    assert len(result["table"].splitlines()) == 2 + count
    assert [len(setting["runs"]) for setting in result["settings"]] == [2] * count


@pytest.mark.slow
def test_the_default_finds_much_more_of_the_real_front_than_chance():
    path = os.environ.get("KNOWN_FRONT")
    if not path:
        pytest.skip("KNOWN_FRONT names no file of NAS-Bench-201 under attack (python -m benchmarks.known_front --help)")
    known = known_front.load(Path(path), THREE)
    runs = [known_front.measure(known, known_front.planned(50, 15), seed) for seed in range(10)]
    archive, random = (np.mean([run[way] for run in runs]) for way in ("archive", "random"))
    assert archive >= 1.6 * random


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.pop("pgd"), "pgd"),
        (lambda arrays: arrays["parameters"].__setitem__(5, 7), "parameters are not the sum"),
        (lambda arrays: arrays.update(operations=np.arange(5)), "not the benchmark's arrays"),
    ],
    ids=["missing", "sizes", "operations"],
)
def test_another_file_is_refused(arrays, saved, change, said):
    change(arrays)
    done = CliRunner().invoke(known_front.main, [f"--data={saved(arrays)}"])
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_text_file_is_refused(tmp_path):
    path = tmp_path / "table.npz"
    path.write_text("no arrays")
    done = CliRunner().invoke(known_front.main, [f"--data={path}"])
    assert done.exit_code == 2
    assert "not the benchmark's arrays" in done.stderr
