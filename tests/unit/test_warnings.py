"""Warnings of the reports about planted faults: broken networks, weak attacks, stages that diverged."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tamnas.files import read_json, write_csv, write_json
from tamnas.report import collect
from tamnas.report.accuracy import accuracy_value
from tamnas.report.claims.claims import claims_page
from tamnas.report.page.page import html, readme
from tamnas.report.tables.controls import comparisons, controls_table
from tamnas.report.tables.table import Column, Table, markdown
from tamnas.report.warnings import warnings
from tests.helpers.small_results import edit_csv, params, records, write_run
from tests.helpers.tiny import pool


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """Plants `change` in a CSV of made-up results; gives the warnings, which must be in page and README."""
    monkeypatch.chdir(tmp_path)
    write_run(pool(params()), tmp_path)
    assert warnings(collect.collect()[0]) == []

    def report(file: str | None = None, change=None) -> list[str]:
        if file:
            edit_csv(Path("results/digits") / file, change)
        datasets = collect.collect()
        lines = warnings(datasets[0])
        page = html(datasets, [], [])
        for line in lines:
            assert line in readme(datasets, [], [])
            assert line in page.replace("&#39;", "'")
        return lines

    return report


SCRATCH = "digits-S_8_1/seed-0"


def of_n02(**figures):
    """A change of network n02 alone."""
    return lambda row: row.update(figures) if row["network"] == "n02" else None


# As on SVHN: clean accuracy stays, the training attack is survived, PGD is not.
SUDDEN = {"train_clean": 0.95, "train_robust": 0.97, "validation_robust": 0.0, "validation_clean": 0.93}


def test_a_network_that_trained_for_a_smaller_radius_than_validations_has_not_collapsed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(params(modes={"S_2_10": {}}), tmp_path)
    edit_csv(Path("results/digits/retrain_scratch/digits-S_2_10/seed-0/curves.csv"), of_n02(**SUDDEN))
    assert warnings(collect.collect()[0]) == []


def test_a_collapse_of_single_step_training_is_reported(reported):
    lines = reported(f"retrain_scratch/{SCRATCH}/curves.csv", of_n02(**SUDDEN))
    assert len(lines) == 1
    assert lines[0].startswith("digits-S_8_1/n02: ")
    assert "catastrophic overfitting" in lines[0]

    def collapse(row):
        if row["network"] == "n02" and row["steps"] != "0":
            row["accuracy"] = "0.0"

    lines = reported(f"evaluate_scratch/{SCRATCH}/grid.csv", collapse)
    assert any("within its training radius 8/255: the robustness collapsed" in line for line in lines)
    assert all(line.startswith("digits-S_8_1/n02: ") for line in lines)


def test_a_training_attack_that_raises_accuracy_is_reported(reported):
    (line,) = reported("supernet_joint/digits-S_8_1/curve.csv", lambda row: row.update(train_robust="0.99"))
    assert line.startswith("digits-S_8_1: supernet, joint phase: accuracy under the training attack (99.00%)")


def test_a_network_that_was_dead_in_the_last_epoch_alone_is_reported(reported):
    def die(row):
        if row["network"] == "n02" and row["epoch"] == "2":
            row.update(validation_clean="0.1", validation_robust="0.1", validation_classes="1")

    (line,) = reported(f"retrain_scratch/{SCRATCH}/curves.csv", die)
    assert line == "digits-S_8_1/n02: predicts one class for all images in epoch 2: the network is dead."


def at_chance(*counts: int) -> None:
    """Test images of these classes in the card; network n02 predicts the largest of them."""
    card = Path("results/digits/prepare/card.json")
    plain = read_json(card)
    plain["classes"] = [str(label) for label in range(len(counts))]
    plain["splits"] |= {
        split: {"images": sum(counts), "per_class": list(counts)} for split in ("train", "validation", "test")
    }
    write_json(card, plain)
    share = max(counts) / sum(counts)
    edit_csv(Path(f"results/digits/evaluate_scratch/{SCRATCH}/grid.csv"), of_n02(accuracy=str(share)))


@pytest.mark.parametrize("counts", [(54, *[34] * 9), (180, 180), (250, 110), (120, 120, 120), (200, 100, 60)], ids=str)
def test_a_network_at_chance_is_reported_once_and_nothing_is_concluded_from_it(reported, counts):
    at_chance(*counts)
    share = f"{100 * max(counts) / 360:.2f}%"
    (line,) = [line for line in reported() if "/n02: " in line]
    assert line.startswith(f"digits-S_8_1/n02: clean accuracy {share} is close to chance ({share} for the")
    (dataset,) = collect.collect()
    (row,) = dataset.rows
    learnt, left_out = dataset.learnt()
    assert left_out == ["digits-S_8_1/n02"]
    assert [network.id for network in learnt.rows[0].scratch] == ["n01", "n03"]
    bad = next(network for network in row.scratch if network.id == "n02")
    table = Table.of("t", "T", [{Column("a", "A", "percent", "max"): accuracy_value(one, None)} for one in row.scratch])
    assert row.scratch.index(bad) not in {line for line, _ in table.best}
    assert "at chance" in markdown(table)


def test_a_supernet_at_chance_is_reported_and_its_row_left_out(reported):
    path = Path("results/digits/search/digits-S_8_1/fronts.json")
    plain = read_json(path)
    for subnet in plain["archive"]:
        subnet.update(clean=0.1, robust=0.1)
    write_json(path, plain)
    (line,) = reported()
    assert line.startswith("digits-S_8_1: search: no subnet of the front is better with inherited weights than")
    learnt, left_out = collect.collect()[0].learnt()
    assert (learnt.rows, learnt.pooled, left_out) == ([], None, ["the supernet of digits-S_8_1"])
    assert "being at chance: the supernet of digits-S_8_1" in claims_page(collect.collect())


@pytest.mark.parametrize(
    ("losses", "classes", "words"),
    [((0.2, 0.2), 10, "does not grow"), ((2.3, 2.3), 1, "is dead"), ((0.1, "nan"), 10, "NaN")],
)
def test_a_useless_attack_is_reported(reported, losses, classes, words):
    rows = [
        {"network": "n02", "eps": "8/255", "step": step, "loss": loss, "classes": classes, "correct": 9, "stuck": 0}
        for step, loss in zip((0, 30), losses, strict=True)
    ]
    write_csv(Path(f"results/digits/evaluate_scratch/{SCRATCH}/attack.csv"), rows)
    (line,) = reported(f"evaluate_scratch/{SCRATCH}/attack.csv", lambda row: None)
    assert line.startswith("digits-S_8_1/n02: ")
    assert words in line


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("grid", {"attack": "pgd30_8_255", "missed": "4"}, "PGD-30 at 8/255 leaves 4 of 360 images that it fools"),
        ("grid", {"attack": "pgd30_8_255", "missed": "3"}, None),
        (
            "attacks",
            {"name": "Square", "missed": "3"},
            "Square, which needs no gradients, fools 3 of 100 images that no",
        ),
        ("attacks", {"name": "Square", "missed": "2"}, None),
        (
            "attacks",
            {"name": "pgd100_8_255", "missed": "5"},
            "PGD-100 at 8/255 fools 5 of 100 images that AutoAttack at",
        ),
        ("attacks", {"name": "pgd100_8_255", "missed": "1"}, None),
    ],
    ids=str,
)
def test_signs_of_paired_images_are_reported(reported, file, changes, words):
    where = "attack" if file == "grid" else "name"

    def plant(row):
        if row["network"] == "n02" and row[where] == changes[where]:
            row.update(changes)

    found = reported(f"evaluate_scratch/{SCRATCH}/{file}.csv", plant)
    assert len(found) == (words is not None)
    assert all(line.startswith(f"digits-S_8_1/n02: {words}") for line in found)


@pytest.mark.parametrize(
    ("stage", "row", "what"),
    [
        ("supernet_joint", "digits-S_8_1", "supernet, joint phase"),
        ("retrain_scratch", "digits-S_8_1", "training from scratch, n02"),
        ("retrain_finetune", "digits-S_8_1", "fine-tuning, n02"),
        ("legonet", "digits-S_8_1", "Lego-Net, n02"),
        ("controls", "digits-S_8_1", "controls, n02"),
        ("legonet_pooled", None, "pooled Lego-Net, n02"),
        ("baselines", None, "hand-made networks, n02"),
    ],
)
def test_a_diverged_stage_is_reported_and_voids_what_an_earlier_run_made_of_it(reported, stage, row, what):
    """After `dvc repro`: the stage's own results are gone, those of later stages are still an earlier run's."""
    import shutil

    from tamnas.pipeline.paths import results

    folder = results("digits", stage, row)
    shutil.rmtree(folder, ignore_errors=True)
    told = {"format": 1, "stage": stage, "instance": row or "digits", "network": "n02", "epoch": 3, "step": 7}
    if stage.startswith("supernet"):
        del told["network"]
    write_json(folder / "diverged.json", told | {"steps": 20, "reason": "loss or weights became NaN or infinite"})
    first, *others = reported()
    assert first == (
        f"{row or 'digits'}: {what}: training diverged: loss or weights became NaN or infinite "
        "(epoch 3, step 7 of 20). Nothing that needs this stage has results."
    )
    assert others == []
    (dataset,) = collect.collect()
    (found,) = dataset.rows or [None]
    assert (found is None) == (stage in ("supernet_joint", "retrain_scratch"))
    assert bool(found and found.finetune) == (found is not None and stage != "retrain_finetune")
    assert bool(found and found.lego) == (found is not None and stage != "legonet")
    assert bool(dataset.pooled) == (found is not None and stage != "legonet_pooled")
    assert bool(dataset.baselines) == (stage != "baselines")
    page = html([dataset], [], [])
    assert "1 warning on digits" in page
    assert ("not run, training diverged" in page) == (found is None)


def write_controls(raw: dict) -> None:
    """Made-up results of one control of a row and of the pooled Lego-Net, and of repeats with seed 1."""
    import numpy as np

    from tamnas.config.plan import stage_plans
    from tamnas.config.resolve import parse_params, resolve_study
    from tamnas.controls import pooled_jobs, row_jobs, status
    from tamnas.pipeline.paths import results
    from tamnas.records import NetworkSpec
    from tests.helpers import small_results

    random = np.random.default_rng(1)
    study = resolve_study(parse_params(raw))
    (row,) = collect.collect()[0].rows
    selected = [NetworkSpec(one.id, one.architecture) for one in row.selected]
    files = stage_plans(study)
    told = {name: files[Path("plan") / name / f"{stage}.yaml"]
            for name, stage in (("digits-S_8_1", "controls"), ("digits", "controls_pooled"))}  # fmt: skip
    lego = row.lego.network.architecture
    for name, jobs in (
        ("digits-S_8_1", row_jobs(told["digits-S_8_1"], selected, row.best.id, lego, Path("none"))),
        ("digits", pooled_jobs(told["digits"], lego)),
    ):
        stage, of_row = ("controls", name) if name != "digits" else ("controls_pooled", None)
        write_json(results("digits", stage, of_row) / "controls.json", {"format": 1, "controls": status(told[name])})
        for seed in (0, 1):
            trained = [
                small_results.train(random, job.network.id, None, 9000, 0.9) | job.network.plain() | vars(job.label)
                for job in jobs
                if job.label.seed == seed
            ]
            plan = (study.rows | study.datasets)[name].model_copy(update={"seed": seed})
            small_results.write_trained(plan, stage, f"evaluate_{stage}", of_row, trained, random)


def write_controlled(folder: Path, monkeypatch, **controls) -> None:
    """A run with these controls and a further seed, in `folder`, now the working directory."""
    monkeypatch.chdir(folder)
    raw = pool(params(controls=controls))
    raw["seeds"] = [1]
    write_run(raw, folder)
    write_controls(raw)


@pytest.mark.parametrize(
    ("folder", "network", "name"),
    [
        ("controls/digits-S_8_1/seed-0", "random-n02", "digits-S_8_1/random-n02"),
        ("controls/digits-S_8_1/seed-0", "common_attack-n02", "digits-S_8_1/common_attack-n02"),
        ("controls/digits-S_8_1/seed-1", "seed-1-finetune", "digits-S_8_1/seed-1-finetune"),
        ("controls_pooled/seed-0", "lego-reversed", "digits/lego-reversed"),
        ("controls_pooled/seed-1", "seed-1-resnet8", "digits/seed-1-resnet8"),
    ],
)
def test_signs_in_controls_and_repeats_are_reported(tmp_path, monkeypatch, folder, network, name):
    legonet, common = {"reversed": True, "random": 0}, {"eps": "4/255", "attack_steps": 2}
    write_controlled(tmp_path, monkeypatch, random_networks=True, legonet=legonet, common_attack=common)
    assert warnings(collect.collect()[0]) == []
    base = Path("results/digits")

    def mine(**changes):
        return lambda row: row.update(changes) if row["network"] == network else None

    def masked(row):
        if row["network"] == network and row["eps"] == "8/255" and row["steps"] == "30":
            row["accuracy"] = "1.0"

    def collapsed(row):
        if row["network"] == network and row["eps"] == radius:
            row["accuracy"] = "0.0"

    grid, curves = base / f"evaluate_{folder}/grid.csv", base / f"{folder}/curves.csv"
    edit_csv(grid, masked)
    lines = warnings(collect.collect()[0])
    assert lines
    assert all(line.startswith(f"{name} (control): ") and "gradient masking" in line for line in lines)
    radius = "4/255" if network.startswith("common") else "8/255"  # what each was trained for
    edit_csv(grid, collapsed)
    found = [line for line in warnings(collect.collect()[0]) if "the robustness collapsed" in line]
    assert len(found) == 1
    edit_csv(curves, mine(train_clean="0.5", train_robust="0.9"))
    assert any("accuracy under the training attack (90.00%)" in line for line in warnings(collect.collect()[0]))


def test_controls_and_pooled_networks_that_a_deadline_left_out_are_told(tmp_path, monkeypatch):
    write_controlled(tmp_path, monkeypatch, random_networks=True, legonet={"reversed": True})
    assert warnings(collect.collect()[0]) == []
    base, row = Path("results/digits"), "digits-S_8_1"
    for gone, told in (
        (base / "evaluate_controls" / row / "seed-1", [f"{row}: controls, seed 1: not run."]),
        (base / "evaluate_controls" / row / "seed-0", [f"{row}: controls: not run."]),
        (base / "evaluate_controls_pooled", [f"digits: controls of the pooled Lego-Net{seed}: not run."
                                             for seed in ("", ", seed 1")]),
        (base / "evaluate_legonet_pooled", ["digits: pooled Lego-Net: not run."]),
    ):  # fmt: skip
        shutil.rmtree(gone)
        (dataset,) = collect.collect()
        assert set(told) <= set(warnings(dataset))
    status = {one.control: one.status for one in comparisons(dataset)}
    assert status["random networks of matching size, from scratch"] == "not finished"
    assert status["final networks with further seeds"] == "not finished"


def test_controls_whose_partners_have_no_results_are_told(tmp_path, monkeypatch):
    write_controlled(tmp_path, monkeypatch, random_networks=True, legonet={"reversed": True})
    (dataset,) = collect.collect()
    (row,) = dataset.rows
    dataset = replace(dataset, rows=[replace(row, scratch=row.scratch[:1], lego=None, finetune=[])])
    status = {line["control"]: line["networks"] for line in records(controls_table(dataset))}
    assert status["random networks of matching size, from scratch"] == "1"
    dataset = replace(dataset, rows=[replace(row, scratch=[])])
    (comparison,) = [one for one in comparisons(dataset) if one.control.startswith("random networks of matching")]
    assert comparison.status == "what it stands beside has no results"


def test_a_search_without_robustness_is_reported(reported):
    path = Path("results/digits/search/digits-S_8_1/fronts.json")
    found = read_json(path)
    for robust, words in ((0.0, "no robustness to search for"), (0.99, "a sign of gradient masking")):
        for one in found["archive"]:
            one["robust"] = robust
        write_json(path, found)
        lines = warnings(collect.collect()[0])
        assert any(line.startswith("digits-S_8_1: search: ") and words in line for line in lines)
