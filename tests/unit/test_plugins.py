"""An objective of a user's own: from a module in plugins/ to what a search minimises and writes."""

import builtins
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tamnas.config.fields import write_yaml
from tamnas.config.plan import row_stages
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.data.loader import Split
from tamnas.errors import InputError
from tamnas.networks.supernet import Supernet
from tamnas.pipeline import plugins
from tamnas.pipeline.code import ROOT
from tamnas.pipeline.instructions import AVX2
from tamnas.search.fitness import SearchContext, evaluate_subnet
from tamnas.search.front import Fitness, hypervolume
from tamnas.search.nsga2 import fronts, individuals, search
from tamnas.search.objectives import OBJECTIVES, Objective, register_objective
from tamnas.space.space import SearchSpace
from tests.helpers.tiny import ROW, tiny_params
from tests.helpers.toy_search import TINY, everything, planned, toy, true_front

MODULE = """
from tamnas.search.objectives import Objective, register_objective

register_objective(
    Objective(
        "wide_layers", "wide", "Wide layers", "layers",
        measure=lambda candidate: sum(ratio > 1 for ratio in candidate.arch.ratios),
        scale=lambda space: len(space.layers),
    )
)
"""
NAMES = ("clean_error", "robust_error", "wide_layers")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """MODULE in a folder of plugins, loaded as a stage loads them."""
    folder = tmp_path / "own_plugins"
    folder.mkdir()
    (folder / "wide.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "PLUGINS", folder)
    plugins.load_plugins()
    yield
    del OBJECTIVES["wide_layers"], sys.modules["own_plugins.wide"], sys.modules["own_plugins"]


def params() -> dict:
    raw = tiny_params()
    raw["search"]["objectives"] = list(NAMES)
    return raw


def fitness_of(arch) -> Fitness:
    """As `toy`, and the plugin's objective in place of the parameters."""
    return Fitness.of({**toy(TINY, arch).values, "wide": sum(ratio > 1 for ratio in arch.ratios)}, NAMES)


def test_an_objective_that_no_plugin_registers_is_refused():
    with pytest.raises(InputError, match=r"^params.yaml: search: objectives: 'wide_layers'; allowed: clean_error, "):
        parse_params(params())


def test_a_search_minimises_it(plugin):
    fitness = {arch: fitness_of(arch) for arch in everything(TINY)}
    found = search(
        TINY,
        planned(population=30, offspring=10, generations=12, objectives=NAMES),
        lambda archs: [fitness[arch] for arch in archs],
        seed=0,
    )
    front = true_front(fitness)
    assert front != true_front(everything(TINY))  # of the paper's three
    points = {fitness[arch].costs for arch in front}
    assert {fitness[arch].costs for arch in found.archive_front} == points
    share = hypervolume(TINY, NAMES, [fitness[arch] for arch in front])
    assert found.hypervolume[-1]["archive_hypervolume"] == pytest.approx(share)
    assert 0 < share < 1
    rows = [*individuals(found, fitness), *fronts(found, fitness)["archive"]]
    assert {"parameters", "clean", "robust", "wide"} <= rows[0].keys() & rows[-1].keys()
    assert {row["wide"] for row in rows} == {0, 1, 2}


def test_one_that_nothing_measures_is_refused():
    with pytest.raises(ValueError, match="objective nothing: needs either measure or exact"):
        register_objective(Objective("nothing", "nothing", "Nothing", "-"))


def test_a_subnet_is_measured_by_it(plugin):
    plan = row_stages(resolve_study(parse_params(params())).rows[ROW])["search"]
    assert plan.search.objectives == NAMES
    space = SearchSpace.from_params(plan)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(40) % plan.classes, 255)
    context = SearchContext(plan, Supernet(space, generator), split, split)
    arch = space.sample(np.random.default_rng(0), None, space.ratios[-1:])
    values = evaluate_subnet(arch, context)
    assert list(values) == ["clean", "robust", "parameters", "wide"]
    assert values["wide"] == sum(ratio > 1 for ratio in arch.ratios) > 0
    assert values["parameters"] == space.parameters(arch)
    assert all(0 <= values[name] <= 1 for name in ("clean", "robust"))


def test_a_package_is_imported_once(tmp_path, monkeypatch):
    (tmp_path / "own_plugins").mkdir()
    (tmp_path / "own_plugins/__init__.py").write_text(
        "import builtins\nbuiltins.met = getattr(builtins, 'met', 0) + 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "PLUGINS", tmp_path / "own_plugins")
    monkeypatch.setattr(builtins, "met", 0, raising=False)
    monkeypatch.delitem(sys.modules, "own_plugins", raising=False)
    plugins.load_plugins()
    assert builtins.met == 1
    del sys.modules["own_plugins"]


@pytest.mark.parametrize("setting", ["avx2", "native"])
def test_one_may_import_torch(tmp_path, setting):
    """In a process as a stage's, which no test has told its instructions."""
    (tmp_path / "own_plugins").mkdir()
    (tmp_path / "own_plugins/torches.py").write_text("import torch\n")
    write_yaml(tmp_path / "params.yaml", {"numerics": {"instruction_set": setting}})
    code = (
        f"import pathlib, sys; sys.path += [{str(ROOT)!r}, '.']; from tamnas.pipeline import instructions, plugins;"
        "plugins.PLUGINS = pathlib.Path('own_plugins'); plugins.load_plugins(); assert 'torch' in sys.modules;"
        f"instructions.use_instructions({setting!r})"
    )
    environment = {name: value for name, value in os.environ.items() if name not in AVX2}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
