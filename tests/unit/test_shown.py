"""Numbers of tables and words of notes, each where it belongs."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tamnas.attacks.registry import Pgd
from tamnas.records import Label, Score
from tamnas.report.agreement import as_searched
from tamnas.report.figures.pictures import pictures
from tamnas.report.page.words import key_numbers
from tamnas.report.study import ControlResults
from tamnas.report.tables.controls import controls_table
from tamnas.report.warnings import warnings
from tamnas.space.blocks import BLOCKS
from tests.helpers.planted import another, ranked, with_tests
from tests.helpers.small_results import records, small_dataset, tables_by_name


def test_what_stands_for_the_attack_of_validation_is_the_largest_and_is_told(folder):
    dataset = small_dataset(folder, eval={"eps": ["2/255", "4/255"], "steps": [20, 30]})
    assert dataset.key_attack == Pgd(eps="4/255", steps=30)
    assert warnings(dataset)[0] == (
        "networks are chosen on validation under PGD-10 at 8/255, which is not among the attacks on test images: "
        "PGD-30 at 4/255 stands for robustness in its place."
    )


def test_the_best_fine_tuned_subnet_is_the_best_on_validation(folder):
    (row,) = small_dataset(folder).rows
    finetune = sorted(row.finetune, key=lambda one: one.record.best.robust)
    assert replace(row, finetune=finetune).best_finetuned is finetune[-1]


def test_controls_stand_beside_what_they_control(folder):
    dataset = small_dataset(folder)
    (row,) = dataset.rows
    scratch = with_tests(row.scratch, [0.8, 0.7, 0.75], [0.5, 0.4, 0.45], images=360)
    labels = [Label("random_networks", "scratch", one.id, 0) for one in scratch[:2]]
    labels.append(Label("lego_uniform", "scratch", "lego", 0))
    networks = [another(row.scratch[0], id=f"c{i}", label=label) for i, label in enumerate(labels)]
    networks = with_tests(networks, [0.7, 0.62, 0.6], [0.45, 0.37, 0.3], images=360)
    (lego_network,) = with_tests([row.lego.network], [0.9], [0.6], images=360)
    random_search = [{"generation": 0, "evaluated": 24, "hypervolume": 0.01, "archive_hypervolume": 0.02}]
    row = replace(
        row,
        scratch=scratch,
        lego=replace(row.lego, network=lego_network),
        controls=ControlResults({"random_networks": "run", "lego_uniform": "run"}, networks),
        random_search=random_search,
    )
    lines = {line["control"]: line for line in records(controls_table(replace(dataset, rows=[row])))}
    several_ = lines["random networks of matching size, from scratch"]
    sides = ("clean", "beside_clean", "robust", "beside_robust")
    assert [float(several_[side]) for side in sides] == pytest.approx([66, 75, 41, 45], abs=1e-3)
    assert several_["difference_clean"].startswith("−9.00 (")
    assert several_["difference_robust"].startswith("−4.00 (")
    assert several_["clean_low"] == ""  # of two networks
    alone = lines["block 0 in every layer, of about Lego-Net's size"]
    assert [float(alone[side]) for side in sides] == pytest.approx([60, 90, 30, 60], abs=1e-3)
    assert alone["difference_clean"].startswith("−30.00 (")
    assert float(alone["clean_low"]) < 60 < float(alone["clean_high"])
    search = lines["random search, as many evaluations"]
    own = row.hypervolume[-1]["archive_hypervolume"]
    assert (search["networks"], search["hypervolume"]) == ("24", "0.02")
    assert float(search["beside_hypervolume"]) == pytest.approx(own)


def test_fine_tuned_and_inherited_accuracies_are_those_of_the_results(folder):
    dataset = small_dataset(folder)
    (row,) = dataset.rows
    finetuned = {one.id: one for one in row.finetune}
    lines, attack = records(tables_by_name([dataset])["digits-subnets"]), dataset.key_attack
    for line, one, start in zip(lines, row.scratch, row.selected, strict=True):
        for kind, network in (("scratch", one), ("finetune", finetuned[line["subnet"]])):
            found = [float(line[f"test_{kind}_{key}"]) for key in ("clean", attack.key)]
            assert found == pytest.approx([100 * network.test.clean, 100 * network.test.grid[attack]], abs=1e-3)
            for weights in ("best", "last"):
                score = network.record.score(weights)
                found = [float(line[f"validation_{kind}_{weights}_{which}"]) for which in ("clean", "robust")]
                assert found == pytest.approx([100 * score.clean, 100 * score.robust], abs=1e-3)
        found = [float(line[f"validation_inherited_{which}"]) for which in ("clean", "robust")]
        assert found == pytest.approx([100 * start.clean, 100 * start.robust], abs=1e-3)


def test_the_search_row_by_row(folder):
    dataset = small_dataset(folder, eval={"weights": "last"})
    (row,) = dataset.rows
    scratch = with_tests(row.scratch, [0.8, 0.79, 0.81], [0.5] * 3)
    finetune = with_tests(row.finetune, [0.7] * 3, [0.45] * 3)
    scratch = [another(one, last=Score(2, 0.83, 0.51), best=Score(1, 0.9, 0.7)) for one in scratch]
    planted = replace(dataset, rows=[replace(row, scratch=scratch, finetune=finetune)])
    (line,) = records(tables_by_name([planted])["digits-search"])
    assert line["scratch_minus_finetune_clean"].startswith("+10.00 (")
    assert line["scratch_minus_finetune_robust"].startswith("+5.00 (")
    assert [line[f"validation_minus_test_{which}"] for which in ("clean", "robust")] == ["3.0", "1.0"]
    with Path("results/digits/search/digits-S_8_1/hypervolume.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert [line[name] for name in ("hypervolume", "archive_hypervolume")] == [
        last[name] for name in ("hypervolume", "archive_hypervolume")
    ]


def test_the_parts_of_table_i_add_up(folder):
    dataset = small_dataset(folder)
    space = dataset.rows[0].space
    lines = records(tables_by_name([dataset])["table-01"])
    sums = [0, 0]
    for line in lines:
        least, *most = line["parameters"].replace(",", "").removesuffix(" each").split(" to ")
        for i, count in enumerate((least, *(most or [least]))):
            sums[i] += int(count) * int(line["repeat"])
    assert tuple(sums) == space.parameter_range()
    last = max(index for index, line in enumerate(lines) if line["layer"] == "CB")
    assert sum(int(line["parameters"].replace(",", "")) for line in lines[last + 1 :]) == space.head_parameters


def test_bare_non_local_blocks_begin_no_stage(folder):
    lines = records(tables_by_name([small_dataset(folder)])["table-07"])
    assert {line["block"] for line in lines if line["transition"] == "no"} == {
        str(kind.id) for kind in BLOCKS if kind.family == "pure robust"
    }


def test_autoattack_at_the_radius_of_the_key_attack_comes_first(folder):
    both = [{"kind": "autoattack", "eps": eps, "networks": "final", "images": 100} for eps in ("8/255", "16/255")]
    assert key_numbers(small_dataset(folder, eval={"attacks": both}))[1][0] == "under AutoAttack at 8/255 on 100 images"


def test_a_mode_that_is_evaluated_otherwise_is_told(folder):
    dataset = small_dataset(folder, "digits", {"S_8_1": {}, "S_4_2": {"eval": {"weights": "last"}}})
    notes = tables_by_name([dataset])["digits-grid"].notes
    (note,) = (note for note in notes if " differs: " in note)
    assert note.startswith("digits-S_4_2 differs: PGD on")
    assert note.endswith("; those of the last epoch.")


def test_the_supernet_is_judged_as_its_search_has_it(folder):
    (row,) = small_dataset(folder).rows
    assert row.plan.search.bn_calibration_images
    assert [found.tau.value for found in as_searched(ranked(row)).values()] == [1, 1]


def test_what_shows_one_training_of_several_says_so(several):
    note = "Of a network that was trained with several seeds: the training with the run's own."
    tested = several.rows[0].lego.network
    again = replace(
        several.rows[0], lego=replace(several.rows[0].lego, network=replace(tested, repeats={1: tested.test}))
    )
    for dataset, shown in ((several, False), (replace(several, rows=[again, *several.rows[1:]]), True)):
        tables = tables_by_name([dataset])
        assert all((note in tables[f"cifar10-{name}"].notes) is shown for name in ("attack-checks", "ensembles"))
        captions = [one.caption for one in pictures([dataset]) if one.name in ("overview", "cifar10-robustness")]
        assert [caption.endswith(note) for caption in captions] == [shown] * 2
