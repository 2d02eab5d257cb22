"""Reports from small results that the tests write themselves, in the stages' file formats."""

import copy
import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tamnas.errors import InputError
from tamnas.fields import format_fraction, read_yaml, write_yaml
from tamnas.params import parse_params, resolve_all
from tamnas.plan import DatasetPlan, RowPlan
from tamnas.report import checks, collect, study
from tamnas.report.accuracy import accuracy_value, difference
from tamnas.report.checks import paired, suspicious, warnings, wilson
from tamnas.report.metrics import metrics
from tamnas.report.published import paper_tables
from tamnas.report.table import Column, Table, Value, latex, markdown, to_csv
from tamnas.report.tables import run_tables
from tamnas.space import Architecture, SearchSpace
from tamnas.stage import results, seeded, write_csv, write_json
from tamnas.statistics import layer_counts, lego_net, rank_correlation, top

ROOT = Path(__file__).parents[1]


def params(dataset: str = "digits", modes: dict | None = None, **sections) -> dict:
    """params.yaml with one dataset and its rows; `sections` are merged over it, one level deep."""
    raw = copy.deepcopy(read_yaml(ROOT / "params.yaml"))
    modes = modes or {"S_8_1": {}}
    raw["modes"] = {mode: {"supernet": _attack(mode), **patch} for mode, patch in modes.items()}
    raw["run"] = {"datasets": [dataset], "rows": {f"{dataset}-{m}": {"dataset": dataset, "mode": m} for m in modes}}
    raw["data"] = {dataset: raw["data"]["digits"]}
    for name, section in sections.items():
        raw[name] = {**raw[name], **section}
    return raw


def _attack(mode: str) -> dict:
    _, eps, steps = mode.split("_")
    return {"eps": f"{eps}/255", "attack_steps": int(steps)}


def write_run(raw: dict, root: Path, *, networks: int = 3, omit: tuple[str, ...] = (), seed: int = 0) -> None:
    """Plans, and made-up results of every row but those in `omit`, below `root` (the working directory)."""
    random = np.random.default_rng(seed)
    plans = resolve_all(parse_params(raw))
    for name, plan in plans.items():
        write_yaml(root / "plan" / f"{name}.yaml", plan.plain())
    records = {}
    for plan in plans.values():
        if isinstance(plan, RowPlan) and plan.row not in omit:
            records[plan.row] = _write_row(plan, random, networks)
    for plan in plans.values():
        if isinstance(plan, DatasetPlan):
            _write_dataset(plan, random, records)


def _write_row(plan: RowPlan, random, networks: int) -> list[dict]:
    space = SearchSpace.from_params(plan)

    def folder(stage: str) -> Path:
        return results(plan.dataset, stage, plan.row)

    archs = sorted((space.sample(random) for _ in range(networks + 1)), key=space.parameters)
    front = []
    for index, arch in enumerate(archs, 1):
        clean = round(float(random.uniform(0.7, 0.8)), 3)
        front.append({"id": f"n{index:02d}", "architecture": arch.plain(), "parameters": space.parameters(arch),
                      "clean": clean, "robust": round(clean - float(random.uniform(0.1, 0.2)), 3)})  # fmt: skip
    write_json(folder("search") / "fronts.json", {"format": 1, "front": front, "archive_front": front})
    write_csv(folder("search") / "hypervolume.csv", [
        {"generation": g, "evaluated": 24 * (g + 1), "hypervolume": 0.1 + 0.02 * g**0.5,
         "archive_hypervolume": 0.1 + 0.021 * g**0.5,
         "front": len(front)} for g in range(plan.search.generations + 1)])  # fmt: skip
    selected = front[:networks]
    write_json(folder("select") / "selected.json", {"format": 1, "networks": selected})
    for phase in ("block", "joint"):
        write_csv(folder(f"supernet_{phase}") / "curve.csv", [
            {"epoch": e, "lr": 0.1, "loss": 2.3 / (e + 1), "train_clean": 0.9 - 0.8 / (e + 1),
             "train_robust": 0.8 - 0.75 / (e + 1)}
            for e in range(getattr(plan.supernet, phase).recipe.epochs)])  # fmt: skip
    for kind, gain in (("scratch", 0.1), ("finetune", 0.05)):
        trained = [
            _train(random, one["id"], one["architecture"], one["parameters"], one["clean"] + gain) for one in selected
        ]
        _write_trained(plan, f"retrain_{kind}", f"evaluate_{kind}", plan.row, trained, random)
        if kind == "scratch":
            records = [
                {**one, "row": plan.row, "inherited": start} for one, start in zip(trained, selected, strict=True)
            ]
    _write_lego(plan, "legonet", plan.row, records, random)
    return records


def _write_dataset(plan: DatasetPlan, random, records: dict[str, list[dict]]) -> None:
    splits = {name: {"images": images} for name, images in (("train", 1257), ("validation", 180), ("test", 360))}
    card = {"format": 1, "dataset": plan.dataset, "classes": [str(i) for i in range(10)], "splits": splits}
    write_json(results(plan.dataset, "prepare") / "card.json", card)
    if set(records) >= set(plan.pooled.rows):
        _write_lego(plan, "legonet_pooled", None, [one for row in plan.pooled.rows for one in records[row]], random)
    if plan.baselines.names:
        trained = [{**_train(random, name, None, 269_722, 0.9), "baseline": name} for name in plan.baselines.names]
        _write_trained(plan, "baselines", "evaluate_baselines", None, trained, random)


def _write_lego(plan, stage: str, row: str | None, records: list[dict], random) -> None:
    space, weights = SearchSpace.from_params(plan), plan.eval.weights
    voters = top(records, plan.legonet.top, weights)
    counts = layer_counts(voters, weights)
    arch = lego_net(space, counts)
    tau = {which: rank_correlation([one["inherited"][which] for one in records],
                                   [one[weights][which] for one in records])
           for which in ("clean", "robust")}  # fmt: skip
    statistics = {"format": 1, "architecture": arch.plain(), "parameters": space.parameters(arch), "weights": weights,
                  "voters": [{"row": one["row"], "id": one["id"]} for one in voters], "kendall_tau": tau}  # fmt: skip
    folder = results(plan.dataset, stage, row)
    write_json(folder / "statistics.json", statistics)
    write_csv(folder / "counts.csv", counts)
    _write_trained(
        plan,
        stage,
        f"evaluate_{stage}",
        row,
        [_train(random, "lego", arch.plain(), space.parameters(arch), 0.9)],
        random,
    )


def _train(random, name: str, arch: dict | None, parameters: int, clean: float) -> dict:
    clean = round(min(clean + float(random.uniform(-0.02, 0.02)), 1.0), 3)
    robust = round(clean - float(random.uniform(0.05, 0.15)), 3)
    return {"id": name, "architecture": arch, "baseline": None, "parameters": parameters, "epochs": 3,
            "last": {"epoch": 2, "clean": clean, "robust": robust - 0.01},
            "best": {"epoch": 1, "clean": clean, "robust": robust}}  # fmt: skip


def _write_trained(plan, training: str, evaluation: str, row: str | None, trained: list[dict], random) -> None:
    folder = seeded(results(plan.dataset, training, row), plan.seed)
    write_json(folder / "validation.json", {"format": 1, "networks": trained})
    write_csv(folder / "curves.csv", [
        {"network": one["id"], "epoch": e, "loss": 1 / (e + 1), "lr": 0.1, "train_clean": 0.5, "train_robust": 0.4,
         "validation_clean": one["best"]["clean"] - 0.2 / (e + 1),
         "validation_robust": one["best"]["robust"] if e == 2 else None}
        for one in trained for e in range(3)])  # fmt: skip
    folder = seeded(results(plan.dataset, evaluation, row), plan.seed)
    write_csv(folder / "costs.csv", [_costs(plan, one) for one in trained])
    rows = []
    for one in trained:
        cells = {(eps, steps) for eps in plan.eval.eps for steps in plan.eval.steps}
        cells |= {(cell.eps, cell.steps) for cell in plan.eval.final}
        clean = round(one["best"]["clean"] * 360 - int(random.integers(4))) / 360
        shares = {(Fraction(0), 0): clean}
        shares |= {(eps, steps): round(360 * (clean - 0.012 * float(eps * 255))) / 360 for eps, steps in cells}
        rows += [
            {"network": one["id"], "parameters": one["parameters"], "weights": plan.eval.weights,
             "epoch": 1, "final": True, "eps": format_fraction(eps) if eps else "0/255", "steps": steps,
             "success": plan.eval.success, "images": 360, "accuracy": share}
            for (eps, steps), share in sorted(shares.items())]  # fmt: skip
    write_csv(folder / "grid.csv", rows)


def _costs(plan, one: dict) -> dict:
    head = SearchSpace.from_params(plan).head_parameters if one["architecture"] else 650
    return {"network": one["id"], "parameters": one["parameters"], "head": head, "body": one["parameters"] - head,
            "size": 8, "macs": 7 * one["parameters"]}  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project, as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tables_by_name(datasets) -> dict[str, Table]:
    return {table.name: table for table in [*run_tables(datasets), *paper_tables(datasets)]}


def records(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(to_csv(table).splitlines()))


def edit_csv(path: Path, change) -> None:
    """Rewrite a CSV with `change` applied to each of its rows."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    write_csv(path, rows)


# -- the whole stage ---------------------------------------------------------------------------


def test_the_stage_writes_the_same_bytes_twice_and_forgets_earlier_runs(project):
    from stages.tables import run

    write_run(params(), project)
    stale = project / "reports" / "tables" / "gone-grid.md"
    stale.parent.mkdir(parents=True)
    stale.write_text("from an earlier run")
    run()
    run("again")
    found = {path.relative_to("reports"): path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()}
    again = {path.relative_to("again"): path.read_bytes() for path in Path("again").rglob("*") if path.is_file()}
    assert found == again
    assert not stale.exists()
    names = {str(path) for path in found}
    assert {"index.html", "README.md", "metrics.json", "plots/hypervolume.csv", "figures/overview.svg"} <= names
    for form in ("md", "csv", "tex"):
        assert f"tables/digits-grid.{form}" in names

    page = found[Path("index.html")].decode()
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link", re.sub(r"base64,[^\"]*", "", page))
    assert page.count("data:image/svg+xml;base64,") == sum(name.endswith(".svg") for name in names)
    readme = found[Path("README.md")].decode()
    for link in re.findall(r"\]\(([^)]+)\)", readme):
        assert Path(link) in found, link
    for name, contents in found.items():
        if name.suffix == ".svg":
            assert not re.search(rb"<metadata|<dc:date>|Created", contents), name
        if name.suffix == ".png":
            assert b"matplotlib" not in contents.lower(), name


def test_every_figure_can_be_drawn_for_several_rows_and_without_baselines(project, monkeypatch):
    from tamnas.report import figures, style

    monkeypatch.setattr(style, "_render", lambda figure, form: b"")  # the slow part
    # One row's grid lacks the attack that stands for robustness.
    modes = {"S_8_1": {}, "S_4_2": {"network": {"width": 2}, "eval": {"eps": ["2/255"]}}}
    write_run(params("digits", modes, baselines={"names": []}), project, networks=1)
    names = [one.name for one in figures.pictures(collect.collect())]
    of_dataset = ("robustness", "architectures", "hypervolume", "figure-05", "figure-06-07", "figure-08-09", "rank",
                  "supernet", "retraining")  # fmt: skip
    assert sorted(names) == sorted(["overview", *(f"digits-{one}" for one in of_dataset)])


def test_tables_alone_need_no_matplotlib_and_no_torch_networks(project):
    write_run(params(), project)
    code = (
        "import sys; from tamnas.report import collect, tables, published, metrics;"
        "found = collect.collect(); tables.run_tables(found); published.paper_tables(found); metrics.metrics(found);"
        "assert 'matplotlib' not in sys.modules and 'torchvision' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- tables ------------------------------------------------------------------------------------


def test_table_values_are_those_of_the_results(project):
    write_run(params(), project)
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
    assert metrics([dataset])["digits"]["digits-S_8_1"]["best_scratch"] == {
        "parameters": best["parameters"],
        "clean": round(100 * cells[best["id"], "0/255", "0"], 2),
        "pgd10_8_255": round(100 * cells[best["id"], "8/255", "10"], 2),
    }


def test_every_table_names_its_setting(project):
    write_run(params(), project)
    for name, table in tables_by_name(collect.collect()).items():
        text = markdown(table)
        if name.removeprefix("digits-") in ("grid", "lego", "benchmark", "subnets"):
            for part in (
                "Dataset digits",
                "n = 360 test images",
                "seed 0",
                "step size eps / 4",
                "any iterate",
                "Wilson",
            ):
                assert part in text, (name, part)


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


def test_latex_escapes_and_balances(project):
    write_run(params(), project)
    for table in tables_by_name(collect.collect()).values():
        text = latex(table)
        body = re.sub(r"\\[\\&%#_{}^~$]", "", text)
        assert body.count("{") == body.count("}")
        assert text.isascii() or not re.search(r"[–×±−²]", text)
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(table.columns) - 1}


def test_the_papers_tables_show_what_was_not_run(project):
    raw = params("cifar10", {"S_8_10": {}, "S_6_10": {}}, eval={"steps": [10, 30, 50]})
    write_run(raw, project, omit=("cifar10-S_6_10",))
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
    assert rows["ResNet-20"]["status"] == "measured"  # ours, beside those that the paper has
    assert rows["RobNet-small"]["status"] == "quoted"
    assert rows["ResNet-18"]["status"] == rows["Lego-Net 2S_8_1"]["status"] == rows["S_6_10"]["status"] == "not run"
    grid = {row["row"]: row for row in records(tables["cifar10-grid"])}
    assert grid["cifar10-S_6_10"]["status"] == "not run"
    assert grid["cifar10-S_6_10"]["clean_paper"] == "78.63"


def test_table_x_says_what_networks_cost(project):
    write_run(params("cifar10", {"S_6_10": {}}, baselines={"names": ["resnet18", "resnet20"]}), project)
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


def test_planned_baselines_that_were_not_run_say_so(project):
    raw = params("cifar10", {"S_6_10": {}}, baselines={"names": ["resnet20"]})
    write_run(raw, project)
    plan = {**read_yaml("plan/cifar10.yaml")}
    plan["baselines"]["names"] = ["resnet18", "wrn34_2", "resnet20"]
    write_yaml(Path("plan/cifar10.yaml"), plan)
    tables = tables_by_name(collect.collect())
    for name in ("table-10", "cifar10-benchmark"):
        status = {row["network"]: row["status"] for row in records(tables[name])}
        assert [status[one] for one in ("ResNet-18", "WRN-34-2", "ResNet-20")] == ["not run", "not run", "measured"]

    for stage in ("baselines", "evaluate_baselines"):
        shutil.rmtree(results("cifar10", stage))
    rows = {row["network"]: row for row in records(tables_by_name(collect.collect())["table-10"])}
    assert rows["ResNet-20"]["status"] == "not run"
    assert rows["ResNet-18"]["parameters_paper"] == "11.17"


def test_a_network_without_costs_is_told(project):
    write_run(params(), project)
    file = seeded(results("digits", "evaluate_baselines"), 0) / "costs.csv"
    write_csv(file, [])
    with pytest.raises(InputError, match=r"costs\.csv: has no column 'body'"):
        collect.collect()


def test_two_rows_and_two_datasets(project):
    raw = params("digits", {"S_8_1": {}, "S_4_2": {"network": {"width": 2}}})
    raw["data"]["svhn"] = raw["data"]["digits"]
    raw["run"]["datasets"].append("svhn")
    raw["run"]["rows"]["svhn-S_8_1"] = {"dataset": "svhn", "mode": "S_8_1"}
    write_run(raw, project)
    datasets = collect.collect()
    tables = tables_by_name(datasets)
    assert [row["row"] for row in records(tables["digits-grid"])] == ["digits-S_8_1", "digits-S_4_2"]
    assert {"table-03", "table-05", "table-09"} <= set(tables)
    assert len({row["rows"] for row in records(tables["table-01"])}) == 2
    networks = [row["network"] for row in records(tables["digits-benchmark"])]
    assert networks[:2] == ["ResNet-20", "Lego-Net, pooled"]
    found = metrics(datasets)
    assert set(found) == {"digits", "svhn"}
    assert set(found["digits"]) == {"digits-S_8_1", "digits-S_4_2", "pooled_lego", "baselines"}


# -- what may be missing -----------------------------------------------------------------------


def test_without_baselines(project):
    write_run(params(baselines={"names": []}), project)
    (dataset,) = collect.collect()
    assert dataset.baselines == []
    assert "baselines" not in metrics([dataset])["digits"]
    assert not any("ResNet" in row["network"] for row in records(tables_by_name([dataset])["digits-benchmark"]))


def test_a_row_without_some_of_its_results_is_an_error_that_names_the_file(project):
    write_run(params(), project)
    gone = Path("results/digits/evaluate_finetune/digits-S_8_1/seed-0/grid.csv")
    gone.unlink()
    with pytest.raises(InputError, match=re.escape(str(gone))):
        collect.collect()


def test_rows_come_from_the_plans_and_not_from_the_folders(project):
    write_run(params("digits", {"S_8_1": {}, "S_4_1": {}}), project)
    (project / "plan" / "digits-S_4_1.yaml").unlink()
    write_yaml(project / "plan" / "digits.yaml", resolve_all(parse_params(params()))["digits"].plain())
    (dataset,) = collect.collect()
    assert [row.name for row in dataset.rows] == ["digits-S_8_1"]


def test_nothing_run_at_all(project):
    write_run(params(), project, omit=("digits-S_8_1",))
    (dataset,) = collect.collect()
    (row,) = records(tables_by_name([dataset])["digits-grid"])
    assert row["status"] == "not run"


def test_without_plans(project):
    with pytest.raises(InputError, match="no plans"):
        collect.collect()


# -- statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0), (0.9, 1000, 0.8798, 0.9171)],
)
def test_wilson_intervals(share, n, low, high):
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


def test_paired_differences():
    found = paired([0.01, 0.03, 0.02, 0.04])
    assert found.mean == pytest.approx(0.025)
    assert (found.low, found.high) == pytest.approx((0.025 - 0.02054, 0.025 + 0.02054), abs=1e-4)
    assert found.p_value == pytest.approx(0.125)
    assert paired([0.02]).low is None
    assert paired([0.0, 0.0]).p_value is None


def share_grid(**cells: float) -> dict:
    """`e8s10=0.5` as {(8/255, 10): 0.5}."""
    return {(Fraction(int(name[1 : name.index("s")]), 255), int(name[name.index("s") + 1 :])): share
            for name, share in cells.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "sign"),
    [
        ({"e2s10": 0.9, "e8s10": 0.5}, "above clean"),
        ({"e2s10": 0.5, "e8s10": 0.6}, "rises from 50.00% at 2/255"),
        ({"e8s10": 0.5, "e8s30": 0.6}, "under PGD-10 to 60.00% under PGD-30"),
        ({"e8s10": 0.6, "e8s100": 0.5}, "has not converged"),
    ],
)
def test_suspicious_accuracies(grid, sign):
    test = study.Test(0.8, share_grid(**grid), 1000, "best", "any")
    assert any(sign in line for line in suspicious(test))


def test_noise_and_sound_results_are_not_suspicious():
    grid = share_grid(e2s10=0.7, e4s10=0.702, e8s10=0.5, e8s30=0.501)
    assert suspicious(study.Test(0.8, grid, 1000, "best", "any")) == []


def test_planted_masking_and_merged_validation_are_reported(project):
    raw = params()
    raw["data"]["digits"]["merge_validation"] = True
    write_run(raw, project)

    def plant(row):
        if row["network"] == "n02" and row["eps"] == "8/255":
            row["accuracy"] = "1.0"

    edit_csv(Path("results/digits/evaluate_scratch/digits-S_8_1/seed-0/grid.csv"), plant)
    (dataset,) = collect.collect()
    lines = warnings(dataset)
    assert "selection saw the test split" in lines[0]
    assert any(line.startswith("digits-S_8_1 n02 scratch") and checks.MASKING in line for line in lines)
    assert "test images (data.merge_validation)" in markdown(tables_by_name([dataset])["digits-grid"])
    assert not any(row.name in line for row in dataset.rows for line in lines if "n01 scratch" in line)


def test_the_page_escapes_and_shortens(project):
    from tamnas.report.page import html, readme, shortened

    write_run(params(), project)
    datasets = collect.collect()
    table = Table("t", "A <b> & c", [Column("a", "<i>")], [[Value("<script>")]], dataset="digits")
    page = html(datasets, [table], [])
    assert "<script" not in page
    assert "A &lt;b&gt; &amp; c" in page
    assert "None: no accuracy under attack" in page
    assert "dvc repro --single-item tables" in page
    assert "### Warnings" not in readme(datasets, [table], [])
    assert shortened(["x"] * 32)[-1] == "… and 2 more like these."


def test_the_page_says_what_of_a_training_is_not_the_papers(project):
    from tamnas.report.page import settings

    raw = params()
    write_run(raw, project)
    assert "smoothing" not in str(settings(collect.collect()[0]))
    raw["retrain"]["scratch"].update(label_smoothing=0.1, ema=0.995)
    raw["baselines"]["training"]["awp"] = 0.005
    write_run(raw, project)
    lines = dict(settings(collect.collect()[0]))
    scratch, finetuned = lines["Row digits-S_8_1"].split("fine-tuned")
    assert "label smoothing 0.1, moving average of weights 0.995" in scratch
    assert "smoothing" not in finetuned
    assert lines["Hand-made"].endswith("weight perturbation 0.005")


# -- spread, intervals, controls ----------------------------------------------------------------


def network(clean: float, robust: float, images: int = 360, repeats: tuple[float, ...] = ()) -> study.Trained:
    def test(share: float) -> study.Test:
        return study.Test(share, {CELL: robust}, images, "best", "any")

    costs = study.Costs(100, 900, 5000)
    return study.Trained("n", None, 1000, {}, [], test(clean), costs, repeats=[test(share) for share in repeats])


CELL = (Fraction(8, 255), 10)


def test_several_seeds_give_mean_and_sample_deviation():
    value = accuracy_value(network(0.9, 0.5, repeats=(0.8, 0.85)), None)
    assert value.measured == pytest.approx(0.85)
    assert value.spread == (pytest.approx(0.05), 3)
    assert value.interval == pytest.approx(wilson(0.85, 360))
    table = Table("t", "T", [Column("clean", "Clean", "percent", "max")], [[value], [Value(0.5)]], images=360)
    assert "| **85.00 ± 5.00** [80.9, 88.3] |" in markdown(table)
    line, other = records(table)
    assert (line["images"], line["clean"], line["clean_sd"], line["clean_seeds"]) == ("360", "85.0", "5.0", "3")
    assert (other["clean"], other["clean_low"], other["clean_sd"], other["clean_seeds"]) == ("50.0", "", "", "")
    assert r"\shortstack[r]{\textbf{85.00 $\pm$ 5.00} \\ {\scriptsize [80.9, 88.3]}}" in latex(table)
    assert accuracy_value(network(0.9, 0.5), None).spread is None
    assert accuracy_value(network(0.9, 0.5), (Fraction(1, 255), 1)) == Value()


def test_difference_of_a_pair_and_of_several():
    # Newcombe (1998), method 10, 56/70 against 48/80: 0.2000, 0.0524 to 0.3339
    one = difference([(network(56 / 70, 0, 70), network(48 / 80, 0, 80))], None)
    assert (one.mean, one.low, one.high) == (
        pytest.approx(0.2), pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4)
    )  # fmt: skip
    pairs = [(network(0.9, 0.5), network(0.8, 0.6)), (network(0.7, 0.5), network(0.5, 0.2))]
    assert difference(pairs, None) == paired([0.9 - 0.8, 0.7 - 0.5])
    assert difference(pairs, CELL).mean == pytest.approx(0.1)
    assert difference(pairs, (Fraction(1, 255), 1)) is None
    assert difference([], None) is None


def test_a_network_that_survives_a_large_radius_is_warned_of(project):
    write_run(params(), project)
    (dataset,) = collect.collect()
    assert not [line for line in warnings(dataset) if "64/255" in line]
    (row,) = dataset.rows
    for survivors, warned in ((0.05, 0), (0.2, 1)):
        checked = replace(row.lego.network, checks={"any": 0.5, "last": 0.5, "restarts": 0.4, "large_eps": survivors})
        changed = replace(dataset, rows=[replace(row, lego=replace(row.lego, network=checked))])
        assert len([line for line in warnings(changed) if "20.00% survive a radius of 64/255" in line]) == warned
        (line,) = [line for line in records(tables_by_name([changed])["digits-attack-checks"]) if "Lego-Net of" in
                   line["network"]]  # fmt: skip
        assert float(line["large_eps"]) == pytest.approx(100 * survivors)


def test_controls_that_were_not_run_say_so(project):
    write_run(params(), project)
    for name, count in (("controls", 6 + 2 + 1), ("attack-checks", 4)):
        lines = records(tables_by_name(collect.collect())[f"digits-{name}"])
        assert len(lines) >= count
        assert all(line["status"].startswith("not run (") for line in lines)
