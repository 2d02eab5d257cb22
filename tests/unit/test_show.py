"""`tamnas show`, `compare` and `models`: what they print is what the run's results say."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tamnas.cli.compare import _comparison, _table
from tamnas.config.fields import read_yaml, write_yaml
from tamnas.files import read_json
from tamnas.release import trained
from tamnas.release.card import read_card, released
from tamnas.report.collect import collect
from tamnas.report.intervals import newcombe, wilson
from tests.helpers.command import answer, output, refusal
from tests.helpers.tiny import ROW


@pytest.fixture
def here(finished_run, monkeypatch) -> Path:
    """The finished run, the working directory."""
    monkeypatch.chdir(finished_run)
    monkeypatch.setenv("COLUMNS", "200")
    return finished_run


def test_the_run_is_shown_by_its_final_networks(here):
    (dataset,) = collect()
    cards = answer("show")
    assert [card["name"] for card in cards] == ["digits/searched", "digits/finetuned", "digits/lego", "digits/resnet8"]
    assert cards[0]["figures"][0]["accuracy"] == dataset.best_row.best.test.clean
    text = output("show")
    assert all(card["name"] in text and f"{card['parameters']:,}" in text for card in cards)


def test_a_grid_that_params_yaml_has_no_more_is_one_line(here, tmp_path, monkeypatch):
    for name in ("results", "params.yaml"):
        (shutil.copytree if (here / name).is_dir() else shutil.copy)(here / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    raw = read_yaml("params.yaml")
    raw["eval"]["steps"] = [3, 7]
    write_yaml(Path("params.yaml"), raw)
    assert "was not tested under PGD-" in refusal("show")


def test_a_card_has_other_trainings_of_its_network(here):
    (dataset,) = collect()
    (tested,) = (one for one in dataset.tested() if one.name == f"{ROW}/lego")
    again = replace(tested.network.test, clean=0.4321)
    (line,) = trained.card(
        "lego", replace(tested, network=replace(tested.network, repeats={5: again})), dataset
    ).setting[len(trained.card("lego", tested, dataset).setting) :]
    reference = dataset.key_attack
    robust = f"{100 * again.grid[reference]:.2f} under {reference.text}"
    assert line == f"Another training of it, with seed 5: 43.21% clean, {robust}."


def test_a_fresh_clone_has_no_plans_and_is_shown_all_the_same(here, tmp_path, monkeypatch):
    for name in ("results", "params.yaml"):
        (shutil.copytree if (here / name).is_dir() else shutil.copy)(here / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert answer("show") == answer("show", here)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "results"]


def test_plans_of_an_experiment_that_was_taken_back_are_told(here, tmp_path, monkeypatch, caplog):
    for name in ("results", "plan", "params.yaml"):
        (shutil.copytree if (here / name).is_dir() else shutil.copy)(here / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert (answer("show"), caplog.text) == (answer("show", here), "")
    plan = Path("plan/tables.yaml")
    plan.write_text(plan.read_text().replace("weight_decay: 0.0005", "weight_decay: 0.0001"))
    answer("show")
    assert "plan/tables.yaml is not what params.yaml says now" in caplog.text


def test_the_front_of_a_row_is_shown_with_a_bar_for_each_subnet(here):
    fronts = read_json(here / "results" / "digits" / "search" / ROW / "fronts.json")
    front = fronts[collect()[0].rows[0].plan.retrain.front]
    assert sorted(one["id"] for one in answer("show", ROW)) == sorted(one["id"] for one in front)
    lines = output("show", ROW).splitlines()
    for one in front:
        (line,) = [line for line in lines if line.split()[:1] == [one["id"]]]
        assert f"{one['parameters']:,}" in line
        assert f"{100 * one['robust']:.2f} [" in line
        assert set(line) & set("▏▎▍▌▋▊▉█▐▕")


def test_a_network_is_shown_with_its_layers_and_every_attack(here):
    (dataset,) = collect()
    network = dataset.rows[0].scratch[0]
    text = output("show", f"{ROW}/{network.id}")
    assert sum(line.split()[:1] == [str(layer)] for layer in range(3) for line in text.splitlines()) == 3
    for attack in network.test.grid:
        assert attack.text in text
    assert f"{network.costs.macs:,} multiply-accumulates" in text


def test_two_networks_are_compared_with_intervals(here):
    (dataset,) = collect()
    first, second = dataset.rows[0].scratch[:2]
    (pair,) = answer("compare", f"{ROW}/{first.id}", f"{ROW}/{second.id}")
    clean = pair["accuracies"][0]
    expected = newcombe(second.test.clean, first.test.clean, 40, 40)
    assert clean["attack"] == "none"
    assert clean["difference"] == vars(expected)
    assert len(pair["accuracies"]) == 1 + len(first.test.grid.keys() & second.test.grid.keys())
    assert pair["same_images"]
    assert pair["same_setting"]
    text = output("compare", f"{ROW}/{first.id}", f"{ROW}/{second.id}")
    assert "alone:" not in text
    assert expected.points in text
    assert f"{second.parameters - first.parameters:+,}" in text


def test_two_runs_are_compared_network_by_network(here):
    pairs = answer("compare", here, ".")
    assert [pair["a"] for pair in pairs] == [card["name"] for card in answer("show")]
    assert all(line["difference"]["value"] == 0 for pair in pairs for line in pair["accuracies"])


def test_networks_of_other_images_are_told_apart(here):
    """The tiny run's digits are another draw than the committed run's."""
    best = collect()[0].rows[0].best.id
    (pair,) = answer("compare", "digits/lego", f"{ROW}/{best}")
    text = output("compare", "digits/lego", f"{ROW}/{best}")
    assert "different test images" in text
    assert "alone:" not in text  # an attack that only one got makes no other setting of what both got
    assert (pair["same_images"], pair["same_setting"]) == (False, True)


def test_another_setting_is_told():
    card = read_card(released()["digits/lego"])
    weights, *others = card.setting
    other = card.model_copy(update={"setting": ("Weights: others.", *others)})
    assert not _comparison(card, other)["same_setting"]
    notes = _table(card, other, "a", "b").notes
    assert notes[1:] == [f"A alone: {weights}", "B alone: Weights: others."]


def test_what_is_nothing_is_one_line(here):
    assert f"nowhere: is no released network ({', '.join(released())})" in refusal("show", "nowhere")
    assert "digits/nothing: is no released network" in refusal("compare", "digits/lego", "digits/nothing")


TERMS = {
    "digits": "CC BY 4.0",
    "cifar10": "images collected from the web",
    "svhn": "non-commercial use only, to be cited",
}


def test_released_networks_are_listed(here):
    cards = answer("models")
    assert {"digits/lego", "digits/searched"} <= {card["name"] for card in cards}
    for card in cards:
        assert card["licence"] == "MIT"
        assert card["terms"].endswith(TERMS[card["dataset"]])
        for figure in card["figures"]:
            low, high = figure["interval"]
            assert low <= figure["accuracy"] <= high
        assert card["name"] in output("models")


@pytest.mark.parametrize("command", [("show", "digits/nothing"), ("compare", "digits/lego", "digits/nothing")])
def test_where_no_run_is_a_wrong_name_lists_what_is_released(folder, command):
    line = refusal(*command)
    assert line.startswith(f"error: digits/nothing: is no released network ({', '.join(released())})")
    assert "no network of the run here (none)" in line


def test_a_folder_without_a_run_is_named(folder):
    assert "project: holds no run (no plan/, no params.yaml)" in refusal("show", ".")


def test_the_lowest_accuracy_of_a_network_is_shown_with_its_attack(here):
    lines = output("show").splitlines()
    for card in answer("show"):
        worst = min(card["figures"], key=lambda figure: figure["accuracy"])
        (line,) = (line.rstrip() for line in lines if line.startswith(card["name"] + " "))
        assert line.endswith(worst["attack"])
        assert f"{100 * worst['accuracy']:.2f} [" in line.removesuffix(worst["attack"])


def test_the_front_has_intervals_of_validation_images(here):
    (dataset,) = collect()
    n, text = dataset.images["validation"], output("show", ROW)
    assert f"{n} validation images" in text
    for subnet in dataset.rows[0].front:
        low, high = wilson(subnet.robust, n)
        assert f"{100 * subnet.robust:.2f} [{100 * low:.1f}, {100 * high:.1f}]" in text
