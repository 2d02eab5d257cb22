"""The benchmarks on real images, with noise for images and sizes that measure nothing: they run, and go on."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import cifar, ranking, recipe
from tests.helpers.tiny import ROOT


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(cifar.DATA, "validation", 20)
    monkeypatch.setitem(cifar.VALIDATION["attack"], "steps", 1)
    generator = np.random.default_rng(0)
    path = tmp_path / "cifar10.npz"
    arrays = {}
    for split, count in (("train", 80), ("test", 20)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(path, **arrays)
    return path


def printed(command, *options: str) -> str:
    done = CliRunner().invoke(command, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def contents(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*.json")}


@pytest.mark.slow
def test_recipes(cifar10, tmp_path, monkeypatch):
    monkeypatch.setitem(recipe.BASE["retrain"]["scratch"], "epochs", 2)
    monkeypatch.setattr(recipe, "SEEDS", 2)
    monkeypatch.setattr(recipe, "TRAIN", 40)
    options = [f"--cifar10={cifar10}", f"--out={tmp_path / 'out'}"]
    text = printed(recipe.main, *options)
    assert all(f"\n| {name} | " in text for name in recipe.RECIPES)
    assert "\n| base | 2 | " in text
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*-seed-*.json")}
    assert len(found) in (12 + 2, 12 + 3)  # the best two and, unless it is one of them, the base
    assert {one["parameters"] for one in found.values()} == {133_911}
    assert found["m-5-seed-0"]["training"]["attack"]["m"] == 5
    assert found["awp-seed-0"]["training"]["recipe"]["awp"] == 0.005
    before = contents(tmp_path / "out")
    assert printed(recipe.main, *options) == printed(recipe.main, *options, "--table") == text
    assert contents(tmp_path / "out") == before


def test_every_schedule_trains_as_its_name_says(tmp_path):
    rows = cifar.plans(tmp_path / "cifar10.npz", ranking.BASE, ranking.SCHEDULES, ranking.TRAIN)
    assert rows["4-clean-lr-0_05"].supernet.joint.recipe.lr == 0.05
    assert rows["4-clean"].supernet.resample_every.steps == 1
    assert rows["22-attacked-20-epochs"].supernet.resample_every.epochs == 20
    assert rows["8-clean"].space.blocks == tuple(ranking.EIGHT)
    assert rows["4-clean-fair"].supernet.draw == rows["4-clean-fair-4-paths"].supernet.draw == "fair"
    assert rows["4-clean-fair-4-paths"].supernet.paths == 4
    for name, row in rows.items():
        assert row.supernet.block.clean_epochs == (row.supernet.block.recipe.epochs if "clean" in name else 0)


@pytest.mark.slow
def test_ranking(cifar10, tmp_path, monkeypatch):
    for name, value in {"NETWORKS": 3, "SIZES": 3, "TRAIN": 40, "BATCH": 20, "IMAGES": 20, "TOP": 1}.items():
        monkeypatch.setattr(ranking, name, value)
    monkeypatch.setattr(
        ranking,
        "SCHEDULES",
        {name: ranking.schedule(ranking.FOUR, clean=False, every={"epochs": 1}, paths=2) for name in ["short"]},
    )
    monkeypatch.setitem(ranking.BASE["retrain"]["scratch"], "epochs", 2)
    monkeypatch.setitem(ranking.LENGTHS["longer"]["retrain"]["scratch"], "epochs", 3)
    monkeypatch.setitem(ranking.SCHEDULES["short"]["supernet"]["block"], "epochs", 1)
    monkeypatch.setitem(ranking.BASE["supernet"]["joint"], "epochs", 2)
    monkeypatch.setitem(ranking.BASE["supernet"], "schedule", {"warmup": 0})
    options = [f"--cifar10={cifar10}", f"--out={tmp_path / 'out'}"]
    assert "0 of 3 networks" in printed(ranking.main, *options, "--part=supernets")
    text = printed(ranking.main, *options)
    ways = ["trained again", "parameters", *(f"short, {kind}" for kind in ranking.RECALIBRATIONS)]
    assert all(f"\n| {way} | " in text for way in ways)
    found = {length: [*(tmp_path / "out").glob(f"*/{length}/*.json")] for length in ranking.LENGTHS}
    assert {length: len(paths) for length, paths in found.items()} == {"networks": 2 * 3 * 2, "longer": 3 * 2}
    epochs = {length: len(json.loads(paths[0].read_text())["history"]) for length, paths in found.items()}
    assert epochs == {"networks": 2, "longer": 3}
    before = contents(tmp_path / "out")
    # As if cut off between training and evaluation:
    (tmp_path / "out" / "random" / "supernets" / "short-mixed.json").unlink()
    assert printed(ranking.main, *options) == text
    assert contents(tmp_path / "out") == before
