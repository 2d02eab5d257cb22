"""What the page's charts show is what the results say; one network, one subnet and one row read well."""

import csv
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from scipy.stats import binomtest

from tamnas.config.resolve import load_params, resolve_study
from tamnas.release.trained import networks as releasable
from tamnas.report import collect
from tamnas.report.build import report_files
from tamnas.report.figures import pictures
from tamnas.report.page.charts import views
from tamnas.report.page.explore import attack_names, best_keys, networks, searches
from tamnas.report.page.page import html
from tamnas.report.page.words import key_numbers, summary
from tamnas.report.tables.contents import all_tables
from tests.helpers.small_results import ROOT, edit_csv, leave_unwritten, params, records, tables_by_name, write_run

MODES = {"S_8_1": {}, "S_4_2": {}}


def test_every_tested_network_is_there_with_its_numbers_and_weights(folder):
    write_run(params("digits", MODES), folder)
    (dataset,) = collect.collect()
    found, names = networks([dataset]), [*attack_names([dataset])]
    assert len({network["key"] for network in found}) == len(found) == len(list(dataset.tested()))
    for network in found:
        kind = {"from scratch": "scratch", "fine-tuned": "finetune", "Lego-Net": "legonet", "hand-made": "baselines"}
        stage = kind[network["kind"]] + "_pooled" * (network["row"] == "pooled")
        place = network["row"] if network["row"].startswith("digits-") else ""
        grid = Path("results/digits") / f"evaluate_{stage}" / place / "seed-0" / "grid.csv"
        ident = Path(network["weights"]).stem
        lines = [line for line in csv.DictReader(grid.open()) if line["network"] == ident]
        accuracies = {line["attack"]: f"{100 * float(line['accuracy']):.2f}" for line in lines}
        shown = {names[attack]: text.split(" (")[0] for attack, text in network["accuracies"]}
        assert accuracies.items() <= shown.items()
        assert network["parameters"] == int(lines[0]["parameters"])
        training = stage.removesuffix("_pooled")
        training = f"retrain_{training}" if training in ("scratch", "finetune") else training
        assert network["weights"] == f"runs/{place or 'digits'}/{training}/{ident}.safetensors"
        low, high = (network[f"robust_{end}"] for end in ("low", "high"))
        assert low < network["robust"] < high
        assert network["curve"]["eps"][0] == 0
        assert network["curve"]["accuracy"][0] == network["clean"]


def test_the_names_are_those_of_the_release(folder):
    write_run(params("digits", MODES), folder)
    (dataset,) = collect.collect()
    known = {name: str(tested.file) for name, tested in releasable(dataset).items()}
    shown = {network["key"]: network["weights"] for network in networks([dataset])}
    assert shown.items() <= known.items()
    assert set(known.values()) == set(shown.values())
    assert {f"{row.name}/lego" for row in dataset.rows} | {"digits/lego", "digits/lego-pooled"} < set(known)


@pytest.fixture
def committed(monkeypatch):
    """The dataset of the committed results."""
    monkeypatch.chdir(ROOT)
    (dataset,) = collect.collect(resolve_study(load_params()))
    return dataset


def test_the_front_of_the_last_generation_is_that_of_the_search(committed):
    (row,) = committed.rows
    (search,) = searches([committed])
    final = search["generations"]
    shown = {line["architecture"] for line, last in zip(row.individuals, search["front"], strict=True) if last == final}
    assert shown == {str(subnet.architecture) for subnet in row.fronts["archive"]}
    assert set(filter(None, search["key"])) == {f"digits-base/{one.id}" for one in row.scratch}


def test_what_a_search_evaluated_has_the_size_and_macs_of_the_networks_trained_from_it(committed):
    (search,), trained = searches([committed]), {network["key"]: network for network in networks([committed])}
    columns = [search[name] for name in ("key", "parameters", "macs")]
    for key, *figures in zip(*columns, strict=True):
        assert not key or figures == [trained[key][name] for name in ("parameters", "macs")]
    parts = [views([*trained.values()], [search | macs], "PGD-10", "PGD-30")["search"] for macs in ({}, {"macs": None})]
    assert ["macs" in str(view.spec) for part in parts for view in part] == [True, True, False, False]


@pytest.mark.parametrize("generation", [0, 3, 6])
def test_the_front_of_each_generation_is_that_of_pymoo(committed, generation):
    (search,) = searches([committed])
    costs = np.array([[-value for value in search[which]] for which in ("clean", "robust")] + [search["parameters"]]).T
    until = np.flatnonzero(np.array(search["born"]) <= generation)
    front = until[NonDominatedSorting().do(costs[until], only_non_dominated_front=True)]
    assert {i for i in until if search["front"][i] >= generation} == set(front)


def test_the_first_screen_has_what_was_searched_and_three_numbers(committed):
    assert "1 supernet (mode base)" in summary(committed)
    assert "112 subnets evaluated with its weights, 4 of them retrained" in summary(committed)
    with (ROOT / "results/digits/evaluate_scratch/digits-base/seed-0/grid.csv").open() as file:
        final = {line["attack"]: line for line in csv.DictReader(file) if line["final"] == "True"}
    (clean, clean_is, _), (robust, robust_is, interval), (_, size, _) = key_numbers(committed)
    under = float(final["autoattack_8_255_n100"]["accuracy"])
    assert (clean, clean_is) == ("clean accuracy", f"{100 * float(final['clean']['accuracy']):.2f}%")
    assert size == f"{int(final['clean']['parameters']):,}"
    assert (robust, robust_is) == ("under AutoAttack at 8/255 on 100 images", f"{100 * under:.2f}%")
    low, high = (100 * bound for bound in binomtest(round(100 * under), 100).proportion_ci(method="wilson"))
    assert interval == f"95% interval {low:.1f} to {high:.1f}, n = 100"


def test_without_autoattack_the_key_attack_stands_for_robustness(folder):
    write_run(params(eval={"attacks": []}), folder)
    (dataset,) = collect.collect()
    assert key_numbers(dataset)[1][0] == f"under {dataset.key_attack.text}"


@pytest.mark.slow
def test_the_page_is_small_and_its_bytes_depend_on_no_hash_seed(folder):
    write_run(params("digits", MODES), folder)
    code = (
        "import hashlib; from tamnas.report import collect; from tamnas.report.page.page import html;"
        "from tamnas.report.tables.contents import all_tables; found = collect.collect();"
        "print(hashlib.sha256(html(found, all_tables(found), []).encode()).hexdigest())"
    )
    digests = set()
    for seed in "12":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    datasets = collect.collect()
    page = html(datasets, all_tables(datasets), []).encode()
    assert digests == {hashlib.sha256(page).hexdigest() + "\n"}
    assert len(page) < 1.3e6  # without figures


def test_the_committed_page_is_at_most_three_megabytes():
    assert (ROOT / "reports" / "index.html").stat().st_size < 3e6


def test_the_scripts_of_the_page_are_there_once(folder):
    write_run(params("digits", MODES), folder)
    page = html(collect.collect(), [], [])
    assert page.count("window.vegaEmbed=") == 1
    assert page.count('id="data"') == 1
    assert len(set(re.findall(r' id="([^"]+)"', page))) == len(re.findall(r' id="([^"]+)"', page))


def test_one_network_one_subnet_one_row(folder, monkeypatch):
    leave_unwritten(monkeypatch)
    raw = params(baselines={"names": []})
    raw["retrain"]["max_subnets"] = 1
    write_run(raw, folder, networks=1)
    (dataset,) = collect.collect()
    names = {one.name for one in pictures.pictures([dataset])}
    assert not [name for name in names if re.search("rank|figure-0", name)]
    assert {"overview", "digits-robustness", "digits-architectures", "digits-S_8_1-supernet"} <= names
    files = report_files([dataset])
    for name, contents in files.items():
        if name.endswith((".md", ".html", ".tex")):
            text = re.sub(r"<(script|style).*?</\1>", "", contents.decode(), flags=re.DOTALL)
            text = text.replace("1 points to", "")  # 5.1 points to a side
            assert not re.search(r"(?<![\d.,–-])1 (?!has|is|was|pixels)[a-z]+s\b", text), name
    assert dataset.lego is dataset.rows[0].lego
    assert not [name for name, contents in files.items() if name.endswith(".md") and b"pooled" in contents.lower()]


def test_a_pooled_lego_net_has_its_own_lines(folder):
    write_run(params("digits", MODES), folder)
    (dataset,) = collect.collect()
    assert dataset.lego is dataset.pooled is not None
    assert {"pooled"} < {line["scope"] for line in records(tables_by_name([dataset])["digits-layers"])}


def test_a_network_without_the_key_attack_or_at_chance_is_shown(folder):
    modes = {"S_8_1": {}, "S_4_2": {"eval": {"eps": ["2/255"]}}}
    write_run(params("digits", modes), folder)
    path = Path("results/digits/evaluate_scratch/digits-S_8_1/seed-0/grid.csv")
    edit_csv(path, lambda line: line.update(accuracy=0.1) if line["network"] == "n02" else None)
    datasets = collect.collect()
    found = {network["key"]: network for network in networks(datasets)}
    assert found["digits-S_8_1/n02"]["name"].endswith("at chance")
    without = found["digits-S_4_2/n01"]
    assert without["robust"] is without["robust_low"] is None
    assert without["curve"]["eps"] == [0, 2]
    assert best_keys(datasets)["digits"] in found
    assert views(list(found.values()), searches(datasets), "PGD-10", "PGD-30")["networks"]


def test_nothing_run_has_no_charts(folder):
    write_run(params(baselines={"names": []}), folder, omit=("digits-S_8_1",))
    page = html(collect.collect(), [], [])
    assert "vegaEmbed=" not in page
    assert 'id="data"' not in page
