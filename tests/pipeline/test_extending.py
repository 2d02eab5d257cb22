"""The recipes of docs/extending.md as a user would follow them: one file in plugins/, and no edit of tamnas."""

import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.helpers.tiny import ROOT, tiny_params, write_params

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run of a checkout with the documentation's plugin, which is used wherever it can be."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("tamnas", "stages", "plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    recipes = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.S)
    assert len(recipes) == 4
    (folder / "plugins" / "mine.py").write_text("\n".join(recipes))
    raw = tiny_params()
    raw["data"]["digits"].update(source="stripes", train=160, validation=40, test=40)
    raw["space"]["blocks"] = [0, 20, 22]
    raw["search"]["objectives"] = ["clean_error", "wide_layers"]
    raw["eval"]["attacks"] = [{"kind": "corners", "eps": "8/255", "tries": 2}]
    raw["baselines"]["names"] = []
    raw["search"]["generations"] = raw["retrain"]["max_subnets"] = 1
    for recipe in (raw["retrain"]["scratch"], raw["retrain"]["finetune"]):
        recipe["epochs"], recipe["schedule"]["warmup"] = 1, 0
    raw["compute"] = {"engine": "processes", "workers": 2, "device": "cpu"}  # workers must know the plugin, too
    write_params(folder, raw)
    run = [sys.executable, "-m", "tamnas", "run"]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def results(folder, *parts):
    return folder.joinpath("results", "digits", *parts)


def test_the_source_gives_the_images(finished):
    card = YAML(typ="safe").load(results(finished, "prepare", "card.json"))
    assert card["classes"][3] == "stripe 3"


def test_the_search_draws_the_block_and_minimises_the_objective(finished):
    individuals = pd.read_csv(results(finished, "search", "digits-base", "individuals.csv"))
    ratios = individuals.architecture.map(lambda text: [float(gene.split("@")[1]) for gene in text.split()])
    assert (individuals.wide == ratios.map(lambda genes: sum(ratio > 1 for ratio in genes))).all()
    assert individuals.architecture.str.contains("22@").any()


def test_final_networks_face_the_attack_and_tables_show_it(finished):
    grid = pd.read_csv(results(finished, "evaluate_legonet", "digits-base", "seed-0", "grid.csv"))
    assert "corners2_8_255" in set(grid.attack)
    assert "Corners-2" in (finished / "reports" / "tables" / "digits-benchmark.md").read_text(encoding="utf-8")


def test_the_reports_show_the_objective(finished):
    assert "Wide layers" in (finished / "reports" / "tables" / "digits-subnets.md").read_text(encoding="utf-8")


def test_every_stage_depends_on_the_plugin(finished):
    for listed in (finished / "code").glob("*.sha256"):
        assert "plugins/mine.py" in listed.read_text()
