"""Tables from small results that the tests write themselves; nothing is trained."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tamnas.config.fields import read_yaml, write_yaml
from tamnas.config.plan import STUDY
from tamnas.errors import InputError
from tamnas.files import write_csv
from tamnas.pipeline.paths import results, seeded
from tamnas.report import collect
from tamnas.report.intervals import wilson
from tamnas.report.metrics import metrics
from tamnas.report.page.page import html
from tamnas.report.page.words import headline
from tamnas.report.tables.table import Column, Table, Value, latex, markdown, to_csv
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace
from tests.helpers.small_results import params, records, tables_by_name, write_run


def test_table_values_are_those_of_the_results(folder):
    write_run(params(), folder)
    (dataset,) = collect.collect()
    tables = tables_by_name([dataset])
    folder = Path("results/digits/retrain_scratch/digits-S_8_1/seed-0/validation.json")
    trained = json.loads(folder.read_text())["networks"]
    best = max(trained, key=lambda one: (one["best"]["robust"], one["best"]["clean"], -one["parameters"]))
    with Path("results/digits/evaluate_scratch/digits-S_8_1/seed-0/grid.csv").open() as file:
        cells = {(row["network"], row["eps"], row["steps"]): float(row["accuracy"]) for row in csv.DictReader(file)}

    (row,) = records(tables["digits-grid"])
    assert row["subnet"] == best["id"]
    assert int(row["parameters"]) == best["parameters"]
    assert float(row["clean"]) == pytest.approx(100 * cells[best["id"], "0/255", "0"], abs=1e-3)
    for eps in (2, 4, 6, 8):
        for steps in (10, 30):
            share = cells[best["id"], f"{eps}/255", str(steps)]
            assert float(row[f"pgd{steps}_{eps}_255"]) == pytest.approx(100 * share, abs=1e-3)
            low, high = wilson(share, 360)
            shown = f"| {100 * share:.2f} [{100 * low:.1f}, {100 * high:.1f}] |"
            assert shown in markdown(tables["digits-grid"])
            assert float(row[f"pgd{steps}_{eps}_255_high"]) == pytest.approx(100 * high, abs=1e-3)

    space = SearchSpace.from_params(dataset.rows[0].plan)
    for line, record in zip(records(tables["digits-subnets"]), trained, strict=True):
        arch = Architecture.parse(line["architecture"])
        assert arch.plain() == record["architecture"]
        assert int(line["head"]) + int(line["body"]) == int(line["parameters"]) == space.parameters(arch)
        for weights in ("best", "last"):
            shown = float(line[f"validation_scratch_{weights}_robust"])
            assert shown == pytest.approx(100 * record[weights]["robust"], abs=1e-3)
            low, high = wilson(record[weights]["robust"], 180)
            ends = [float(line[f"validation_scratch_{weights}_robust_{end}"]) for end in ("low", "high")]
            assert ends == pytest.approx([100 * low, 100 * high], abs=1e-3)
        assert (line["images"], line["validation_images"]) == ("360", "180")
    shown = markdown(tables["digits-subnets"])
    low, high = wilson(best["best"]["robust"], 180)
    assert f"{100 * best['best']['robust']:.2f}** [{100 * low:.1f}, {100 * high:.1f}]" in shown
    assert "n = 180 validation images" in shown
    assert metrics([dataset])["digits"]["digits-S_8_1"]["best_scratch"] == {
        "parameters": best["parameters"],
        "clean": round(100 * cells[best["id"], "0/255", "0"], 2),
        "pgd10_8_255": round(100 * cells[best["id"], "8/255", "10"], 2),
    }


def test_every_table_names_its_setting(folder):
    write_run(params(), folder)
    tables, step = tables_by_name(collect.collect()), "step size eps / 4"
    for name in ("grid", "lego", "benchmark", "subnets"):
        for part in ("Dataset digits", "n = 360 test images", "seed 0", step, "any iterate", "Wilson"):
            assert part in markdown(tables[f"digits-{name}"]), (name, part)


def test_bold_marks_the_best_measured_value_and_ties():
    columns = [Column("n", "Network"), Column("p", "Size", "millions", "min"), Column("a", "A", "percent", "max")]
    rows = [
        [Value("one"), Value(2_000_000), Value(0.5)],
        [Value("two"), Value(1_000_000, paper=0.5), Value(0.70001)],
        [Value("three"), Value(text="not run", paper=0.1), Value(paper=99.0)],
        [Value("four"), Value(3_000_000), Value(0.70002)],
    ]
    table = Table("t", "T", columns, rows)
    assert table.best == {(1, 1), (1, 2), (3, 2)}  # equal as shown is a tie; a published value never counts
    assert "| two | **1.0000M** (paper 0.50M) | **70.00** |" in markdown(table)
    assert "not run (paper 0.10M) | – (paper 99.00)" in markdown(table)
    assert r"\textbf{70.00}" in latex(table)
    assert to_csv(table).splitlines()[3] == "three,,0.1,,99.0,not run"
    assert Table("t", "T", columns, rows[:1]).best == frozenset()  # nothing to compare with


def test_every_table_of_networks_says_what_is_bold(folder):
    write_run(params("cifar10", {"S_8_10": {}, "S_6_10": {}}), folder)
    (dataset,) = collect.collect()
    (first, *others) = dataset.baselines
    checked = {"any": 0.5, "last": 0.6, "restarts": 0.4, "large_eps": 0.3}
    dataset = replace(dataset, baselines=[replace(first, checks=checked), *others])
    dataset = replace(dataset, pooled=replace(dataset.pooled, network=replace(dataset.pooled.network, checks={
        "any": 0.6, "last": 0.5, "restarts": 0.3, "large_eps": 0.0})))  # fmt: skip
    for name, table in tables_by_name([dataset]).items():
        compares = any(value.interval for row in table.rows for value in row) or name.endswith(("search", "controls"))
        said = any(note.startswith(("Bold: ", "Nothing is bold: ")) for note in table.notes)
        assert said or not compares, name
    table = tables_by_name([dataset])["cifar10-attack-checks"]
    columns = {column.key: i for i, column in enumerate(table.columns)}
    best = {(table.rows[j][0].measured, table.columns[i].key) for j, i in table.best}
    assert {("Lego-Net, pooled", "any"), ("ResNet-8", "last"), ("ResNet-8", "restarts")} <= best
    assert not [key for _, key in best if key == "large_eps"]
    assert "large_eps" in columns


def test_latex_escapes_and_balances(folder):
    write_run(params(), folder)
    for table in tables_by_name(collect.collect()).values():
        text = latex(table)
        body = re.sub(r"\\[\\&%#_{}^~$]", "", text)
        assert body.count("{") == body.count("}")
        assert text.isascii() or not re.search(r"[–×±−²]", text)
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(table.columns) - 1}


def test_the_papers_tables_show_what_was_not_run(folder):
    raw = params("cifar10", {"S_8_10": {}, "S_6_10": {}}, eval={"steps": [10, 30, 50]})
    write_run(raw, folder, omit=("cifar10-S_6_10",))
    tables = tables_by_name(collect.collect())
    assert {name for name in tables if name.startswith("table-")} == {f"table-{n:02d}" for n in (1, 2, 4, 6, 7, 8, 10)}

    rows = {row["network"]: row for row in records(tables["table-02"])}
    assert list(rows) == ["S_8_10", "S_8_1", "S_8_2"]
    assert rows["S_8_10"]["status"] == "measured"
    assert rows["S_8_10"]["pgd10_8_255_paper"] == "31.01"
    assert float(rows["S_8_10"]["pgd10_8_255"]) > 0
    for absent in ("S_8_1", "S_8_2"):
        assert rows[absent]["status"] == "not run"
        assert rows[absent]["clean"] == ""
    assert "| S_8_2 | not run (paper 1.6822M) | – (paper 76.54) |" in markdown(tables["table-02"])

    rows = {row["network"]: row for row in records(tables["table-10"])}
    assert rows["ResNet-8"]["status"] == "measured"  # ours, beside those that the paper has
    assert rows["RobNet-small"]["status"] == "quoted"
    assert rows["ResNet-18"]["status"] == rows["Lego-Net 2S_8_1"]["status"] == rows["S_6_10"]["status"] == "not run"
    grid = {row["row"]: row for row in records(tables["cifar10-grid"])}
    assert grid["cifar10-S_6_10"]["status"] == "not run"
    assert grid["cifar10-S_6_10"]["clean_paper"] == "78.63"


def test_table_x_says_what_networks_cost(folder):
    write_run(params("cifar10", {"S_6_10": {}}, baselines={"names": ["resnet18", "resnet20"]}), folder)
    folder = seeded(results("cifar10", "evaluate_baselines"), 0)
    line = {"network": "resnet20", "milliseconds": 1.25, "runs": 100, "processor": "A Processor"}
    (dataset,) = collect.collect()
    for name in ("table-10", "cifar10-benchmark"):
        table = tables_by_name([dataset])[name]
        rows = {row["network"]: row for row in records(table)}
        assert "latency_ms" not in rows["ResNet-18"]
        space, best = dataset.rows[0].space, dataset.rows[0].best
        subnet = rows["S_6_10" if name == "table-10" else f"cifar10-S_6_10 {best.id}"]
        assert int(subnet["head"]) == space.head_parameters
        assert int(subnet["body"]) == best.parameters - space.head_parameters
        assert int(subnet["macs"]) == 7 * best.parameters
        assert rows["ResNet-20"]["head"] == "650"
        assert "MACs: multiply-accumulates of one 8x8 image" in markdown(table)
        assert "Latency" not in markdown(table)

    write_csv(folder / "latency.csv", [line])
    for name in ("table-10", "cifar10-benchmark"):
        table = tables_by_name(collect.collect())[name]
        rows = {row["network"]: row for row in records(table)}
        assert (rows["ResNet-20"]["latency_ms"], rows["ResNet-18"]["latency_ms"]) == ("1.25", "")
        assert "one thread (A Processor)" in markdown(table)
        assert "1.25" in latex(table)


def test_what_attacks_added_and_the_worst_case_have_columns_where_they_ran(folder):
    write_run(params(), folder)
    (dataset,) = collect.collect()
    tables = tables_by_name([dataset])
    path = Path("results/digits/evaluate_legonet/digits-S_8_1/seed-0")
    with (path / "attacks.csv").open() as file:
        shares = {row["name"]: float(row["accuracy"]) for row in csv.DictReader(file)}
    lines = {line["network"]: line for line in records(tables["digits-ensembles"])}
    assert list(lines) == [f"digits-S_8_1 {dataset.rows[0].best.id}", "Lego-Net of digits-S_8_1", "ResNet-8"]
    lego = lines["Lego-Net of digits-S_8_1"]
    assert (lego["attack"], lego["images"]) == ("AutoAttack at 8/255", "100")
    assert [lego[name] for name in ("apgd_ce", "apgd_dlr_targeted", "fab_targeted", "square")] == ["10", "1", "1", "0"]
    for column, name in (("clean", "clean"), ("pgd", "pgd100_8_255"), ("part", "Square"), ("worst", "worst")):
        ends = (shares[name], *wilson(shares[name], 100))
        shown = [float(lego[f"{column}{end}"]) for end in ("", "_low", "_high")]
        assert shown == pytest.approx([100 * end for end in ends], abs=1e-3)
    (row,) = [line for line in records(tables["digits-benchmark"]) if line["network"].startswith("Lego-Net of")]
    assert float(row["worstcase_8_255_n100"]) == pytest.approx(100 * shares["worst"])
    assert float(row["worstcase_8_255_n100_low"]) == pytest.approx(100 * wilson(shares["worst"], 100)[0], abs=1e-3)
    notes = tables["digits-benchmark"].notes
    assert any(note.endswith("; on the first images of each class, as many of each.") for note in notes)
    heads, overview = headline(dataset)
    assert heads[4:] == ["AutoAttack at 8/255 on 100 images (%)", "Worst case at 8/255 on 100 images (%)"]
    low, high = wilson(shares["worst"], 100)
    assert f"{100 * shares['worst']:.2f} ({100 * low:.1f} to {100 * high:.1f})" in {line[5] for line in overview}


def test_training_attacks_that_differ_are_said_beside_lego_net(folder):
    def notes(steps: int) -> list[str]:
        raw = params()
        raw["baselines"]["training"]["attack"] = {"eps": "8/255", "attack_steps": steps}
        write_run(raw, folder)
        tables = tables_by_name(collect.collect())
        return [note for note in tables["digits-benchmark"].notes if note.startswith("Training attacks differ")]

    assert notes(1) == []
    (note,) = notes(10)
    assert "hand-made networks TRADES-YOPO-5-3 at eps 8/255" in note
    assert "Lego-Net TRADES-YOPO-1-2 at eps 8/255" in note


def test_no_column_of_an_attack_that_did_not_run(folder):
    write_run(params(eval={"attacks": []}), folder)
    (dataset,) = collect.collect()
    tables = tables_by_name([dataset])
    assert "digits-ensembles" not in tables
    assert not any("worst" in column or "autoattack" in column for column in records(tables["digits-benchmark"])[0])
    heads, _ = headline(dataset)
    assert heads == ["Network", "Parameters", "Clean (%)", "PGD-10 at 8/255 (%)"]
    assert "worst case" not in html([dataset], list(tables.values()), []).lower()


def test_planned_baselines_that_were_not_run_say_so(folder):
    raw = params("cifar10", {"S_6_10": {}}, baselines={"names": ["resnet20"]})
    write_run(raw, folder)
    study = read_yaml(STUDY)
    study["datasets"]["cifar10"]["baselines"]["names"] = ["resnet18", "wrn34_2", "resnet20"]
    write_yaml(STUDY, study)
    tables = tables_by_name(collect.collect())
    for name in ("table-10", "cifar10-benchmark"):
        status = {row["network"]: row["status"] for row in records(tables[name])}
        assert [status[one] for one in ("ResNet-18", "WRN-34-2", "ResNet-20")] == ["not run", "not run", "measured"]

    for stage in ("baselines", "evaluate_baselines"):
        shutil.rmtree(results("cifar10", stage))
    rows = {row["network"]: row for row in records(tables_by_name(collect.collect())["table-10"])}
    assert rows["ResNet-20"]["status"] == "not run"
    assert rows["ResNet-18"]["parameters_paper"] == "11.17"


def test_a_network_without_costs_is_told(folder):
    write_run(params(), folder)
    file = seeded(results("digits", "evaluate_baselines"), 0) / "costs.csv"
    write_csv(file, [])
    with pytest.raises(InputError, match=r"costs\.csv: has no column 'body'"):
        collect.collect()


def test_two_rows_and_two_datasets(folder):
    raw = params("digits", {"S_8_1": {}, "S_4_2": {"network": {"width": 2}}})
    raw["data"]["svhn"] = raw["data"]["digits"]
    raw["run"]["datasets"].append("svhn")
    raw["run"]["rows"]["svhn-S_8_1"] = {"dataset": "svhn", "mode": "S_8_1"}
    write_run(raw, folder)
    datasets = collect.collect()
    tables = tables_by_name(datasets)
    assert [row["row"] for row in records(tables["digits-grid"])] == ["digits-S_8_1", "digits-S_4_2"]
    assert {"table-03", "table-05", "table-09"} <= set(tables)
    assert len({row["rows"] for row in records(tables["table-01"])}) == 2
    networks = [row["network"] for row in records(tables["digits-benchmark"])]
    assert networks[:2] == ["ResNet-8", "Lego-Net, pooled"]
    found = metrics(datasets)
    assert set(found) == {"digits", "svhn"}
    assert set(found["digits"]) == {"digits-S_8_1", "digits-S_4_2", "pooled_lego", "baselines"}
