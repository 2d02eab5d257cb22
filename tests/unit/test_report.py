"""The whole stage from small results: the same bytes twice, what may be missing, the page."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tamnas.config.fields import write_yaml
from tamnas.config.plan import STUDY
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.controls import RUN
from tamnas.errors import InputError
from tamnas.files import read_json, write_json
from tamnas.records import Label
from tamnas.report import collect
from tamnas.report.metrics import metrics
from tamnas.report.page.words import settings
from tamnas.report.study import ControlResults
from tamnas.report.tables.controls import controls_table
from tamnas.report.tables.table import Column, Table, Value
from tests.helpers.planted import another
from tests.helpers.small_results import ROOT, leave_unwritten, params, records, tables_by_name, write_run


def test_the_stage_writes_the_same_bytes_twice_and_forgets_earlier_runs(folder):
    from stages.tables import main

    write_run(params(), folder)
    stale = folder / "reports" / "tables" / "gone-grid.md"
    stale.parent.mkdir(parents=True)
    stale.write_text("from an earlier run")
    runs = []
    for _ in range(2):
        main.run()
        files = [path for path in Path("reports").rglob("*") if path.is_file()]
        runs.append({path.relative_to("reports"): path.read_bytes() for path in files})
    found, again = runs
    assert found == again
    assert not stale.exists()
    names = {str(path) for path in found}
    assert {"index.html", "README.md", "metrics.json", "plots/hypervolume.csv", "figures/overview.svg"} <= names
    for form in ("md", "csv", "tex"):
        assert f"tables/digits-grid.{form}" in names

    page = found[Path("index.html")].decode()
    assert page.count("window.vegaEmbed=") == 1
    markup = re.sub(r"<script.*?</script>|base64,[^\"]*", "", page, flags=re.DOTALL)
    assert not re.search(r"https?:|//[a-z]|@import|src=|<link", markup.replace('src="data:image/webp;', ""))
    assert page.count("data:image/webp;base64,") == sum(name.endswith(".png") for name in names)
    readme = found[Path("README.md")].decode()
    for link in re.findall(r"\]\(([^)]+)\)", readme):
        assert Path(link) in found, link
    for name, contents in found.items():
        if name.suffix == ".svg":
            assert not re.search(rb"<metadata|<dc:date>|Created", contents), name
        if name.suffix == ".png":
            assert b"matplotlib" not in contents.lower(), name


def test_every_figure_can_be_drawn_for_several_rows_and_without_baselines(folder, monkeypatch):
    from tamnas.report.figures import pictures

    leave_unwritten(monkeypatch)
    # One row's grid lacks the attack that stands for robustness.
    modes = {"S_8_1": {}, "S_4_2": {"network": {"width": 2}, "eval": {"eps": ["2/255"]}}}
    write_run(params("digits", modes, baselines={"names": []}), folder, networks=2)
    names = [one.name for one in pictures.pictures(collect.collect())]
    of_dataset = ("robustness", "architectures", "hypervolume", "figure-05", "figure-06-07", "figure-08-09", "rank",
                  "supernet", "retraining")  # fmt: skip
    assert sorted(names) == sorted(["overview", *(f"digits-{one}" for one in of_dataset)])


def test_the_overview_has_no_interval_of_what_was_not_measured(folder):
    from tamnas.report.figures.datasets import draw_overview

    write_run(params("digits", {"S_8_1": {}, "S_4_2": {"eval": {"eps": ["2/255"]}}}), folder, networks=2)
    (clean, robust) = draw_overview(collect.collect()).axes[:2]
    bars = [sum(type(one).__name__ == "LineCollection" for one in axes.collections) for axes in (clean, robust)]
    assert bars[0] == bars[1] + 1


def test_votes_for_what_the_pooled_space_lacks_are_drawn(folder):
    from tamnas.report.figures.architectures import draw_layers

    write_run(params(), folder)
    (dataset,) = collect.collect()
    space, lego = replace(dataset.space, blocks=dataset.space.blocks[:1]), dataset.rows[0].lego
    voted = {line["value"] for line in lego.counts if line["gene"] == "block"}
    assert voted > set(space.blocks)
    left = draw_layers(space, lego).axes[0]
    assert {int(label.get_text()) for label in left.get_yticklabels()} == voted | set(space.blocks)


def test_settings_say_which_epochs_of_the_supernet_were_clean(folder):
    write_run(params(), folder)
    (dataset,) = collect.collect()
    assert "clean images" not in str(settings(dataset))
    plan = dataset.rows[0].plan
    block = plan.supernet.block.model_copy(update={"clean_epochs": 1})
    plan = plan.model_copy(update={"supernet": plan.supernet.model_copy(update={"block": block})})
    text = str(settings(replace(dataset, rows=[replace(dataset.rows[0], plan=plan)])))
    assert "over blocks (1 of them on clean images), " in text


def test_the_overview_has_random_and_uniform_networks_where_they_were_trained(folder, monkeypatch):
    from tamnas.report.figures import pictures
    from tamnas.report.figures.datasets import draw_overview

    leave_unwritten(monkeypatch)
    write_run(params(), folder)
    (dataset,) = collect.collect()
    (row,) = dataset.rows
    plain = draw_overview([dataset]).axes
    controls = [
        another(row.scratch[0], label=Label(control, "scratch", "n01", 0))
        for control in ("random_networks", "lego_random", "lego_uniform")
    ]
    row = replace(row, controls=replace(row.controls, networks=controls))
    beside = replace(dataset, rows=[row])
    for axes, before in zip(draw_overview([beside]).axes, plain, strict=True):
        assert len(axes.collections) > len(before.collections)
        (crosses,) = (one for one in axes.collections if one.get_label() == "random networks")
        assert len(crosses.get_offsets()) == 2
        assert "uniform" in {text.get_text() for text in axes.texts}
    assert "Crosses" in pictures.pictures([beside])[0].caption
    assert "Crosses" not in pictures.pictures([dataset])[0].caption


def test_the_figure_of_a_supernet_leaves_clean_epochs_out_of_robust_accuracy(folder):
    from tamnas.report.figures.rows import draw_supernet

    write_run(params(), folder)
    (row,) = collect.collect()[0].rows
    clean = [line | {"train_robust": None} for line in row.block_curve]
    figure = draw_supernet([replace(row, block_curve=clean)])
    (robust,) = (line for line in figure.axes[0].lines if line.get_label() == "under the training attack")
    missing = np.isnan(robust.get_ydata())
    assert missing.tolist() == [True] * len(clean) + [False] * len(row.joint_curve)


def test_labels_are_clear_of_all_points_and_texts_and_have_lines_to_their_own_points():
    from matplotlib.transforms import Bbox

    from tamnas.report.figures import style

    names = ["near", "ShuffleNetV2", "MobileNetV3", "twin", "other twin", "", "alone", "not measured"]
    nan = float("nan")
    points = [(0.2, 10), (1.26, 10), (4.2, 10), (0.005, 10), (0.0051, 10), (0.15, 10), (0.5, 30), (0.5, nan)]
    with style.styled():
        figure = style.new(style.PAGE / 2, 2.9)
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.scatter(*zip(*points, strict=True))
        style.freeze(figure)
        limits = axes.viewLim.frozen()
        style.label_points(axes, points, names, [4.5] * len(points))
        boxes = [text.get_window_extent() for text in axes.texts]
        markers = [Bbox.from_bounds(*axes.transData.transform(point), 0, 0).padded(4) for point in points[:-1]]
        ends = [axes.transData.transform(line.get_xydata()[0]) for line in axes.lines]
    labels = {text.get_text(): line.get_xydata()[1] for text, line in zip(axes.texts, axes.lines, strict=True)}
    assert labels == {name: pytest.approx(point) for name, point in list(zip(names, points, strict=True))[:-1] if name}
    assert all(box.padded(1).contains(*end) for box, end in zip(boxes, ends, strict=True))
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in [*boxes[:i], *markers])
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))
    assert axes.viewLim.frozen().bounds == limits.bounds


@pytest.mark.parametrize(("low", "most"), [(4_000, 6), (100_000, 9), (2_000_000, 9)])
def test_labels_of_a_log_axis_do_not_run_together(low, most):
    from tamnas.report.figures import style
    from tamnas.report.figures.datasets import _size_axis

    counts = [low, 11_173_962]
    with style.styled():
        figure = style.new(style.PAGE / 2, 2.9)
        axes = figure.subplots()
        axes.scatter([count / 1e6 for count in counts], [1, 2])
        _size_axis(axes, "millions", counts)
        style.freeze(figure)
        renderer = figure.canvas.get_renderer()
        left, right = axes.get_xlim()
        boxes = [tick.label1.get_window_extent(renderer) for tick in axes.xaxis.get_major_ticks()
                 if left <= tick.get_loc() <= right and tick.label1.get_text()]  # fmt: skip
    assert 2 <= len(boxes) <= most
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_rank_panel_of_a_single_network_has_whole_ranks(folder):
    from tamnas.report.figures import rows, style

    write_run(params("digits", {"S_8_1": {}, "S_4_2": {}}), folder, networks=1)
    (dataset,) = collect.collect()
    with style.styled():
        figure = rows.draw_ranks(dataset.rows)
        style.freeze(figure)
        for axes in figure.axes[:2]:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = axis.get_view_interval()
                assert [tick for tick in axis.get_ticklocs() if low <= tick <= high] == [1]
                assert high - low >= 1


def test_tables_alone_need_neither_torch_nor_matplotlib(folder):
    write_run(params(), folder)
    code = (
        "import sys; from tamnas.report import collect, metrics; from tamnas.report.tables.contents import all_tables;"
        "found = collect.collect(); all_tables(found); metrics.metrics(found);"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_baselines(folder):
    write_run(params(baselines={"names": []}), folder)
    (dataset,) = collect.collect()
    assert dataset.baselines == []
    assert "baselines" not in metrics([dataset])["digits"]
    assert not any("ResNet" in row["network"] for row in records(tables_by_name([dataset])["digits-benchmark"]))


def test_a_row_without_some_of_its_results_is_an_error_that_names_the_file(folder):
    write_run(params(), folder)
    gone = Path("results/digits/evaluate_finetune/digits-S_8_1/seed-0/grid.csv")
    gone.unlink()
    with pytest.raises(InputError, match=re.escape(str(gone))):
        collect.collect()


def test_rows_come_from_the_plans_and_not_from_the_folders(folder):
    write_run(params("digits", {"S_8_1": {}, "S_4_1": {}}), folder)
    write_yaml(folder / STUDY, resolve_study(parse_params(params())).plain())
    (dataset,) = collect.collect()
    assert [row.name for row in dataset.rows] == ["digits-S_8_1"]


def test_nothing_run_at_all(folder):
    write_run(params(), folder, omit=("digits-S_8_1",))
    (dataset,) = collect.collect()
    (row,) = records(tables_by_name([dataset])["digits-grid"])
    assert row["status"] == "not run"


def test_without_plans(folder):
    with pytest.raises(InputError, match="no such plan"):
        collect.collect()


def test_the_page_escapes_and_shortens(folder, monkeypatch):
    from tamnas.report.page import words
    from tamnas.report.page.page import html, readme

    write_run(params(), folder)
    datasets = collect.collect()
    table = Table("t", "A <b> & c", [Column("a", "<i>")], [[Value("<script>")]], dataset="digits")
    page = html(datasets, [table], [])
    assert '<td class="text">&lt;script&gt;</td>' in page
    assert "A &lt;b&gt; &amp; c" in page
    assert "None: no accuracy under attack" in page
    assert "dvc repro --single-item tables" in page
    assert "### Warnings" not in readme(datasets, [table], [])
    monkeypatch.setattr(words, "warnings", lambda dataset: ["x"] * 32)
    assert words.warning_lines(datasets[0])[-1] == "… and 2 more like these."


def test_the_page_says_what_of_a_training_is_not_the_papers(folder):
    from tamnas.report.page.words import settings

    raw = params()
    write_run(raw, folder)
    assert "smoothing" not in str(settings(collect.collect()[0]))
    raw["retrain"]["scratch"].update(label_smoothing=0.1, ema=0.995)
    raw["baselines"]["training"]["awp"] = 0.005
    write_run(raw, folder)
    lines = dict(settings(collect.collect()[0]))
    scratch, finetuned = lines["Row digits-S_8_1"].split("fine-tuned")
    assert "label smoothing 0.1, moving average of weights 0.995" in scratch
    assert "smoothing" not in finetuned
    assert lines["Hand-made"].endswith("weight perturbation 0.005")


def test_what_was_left_out_of_the_images_is_said_and_copies_are_warned_of(folder):
    from tamnas.report.page.page import html, readme

    write_run(params(), folder)
    card = Path("results/digits/prepare/card.json")
    said = {
        "notes": ["left out: 2 files of suffix .heic, such as a/<i>.heic"],
        "warnings": ["7 test images are copies."],
    }
    write_json(card, read_json(card) | said)
    (dataset,) = collect.collect()
    text, page = readme([dataset], [], []), html([dataset], [], [])
    assert "source digits; left out: 2 files of suffix .heic, such as a/<i>.heic" in text
    assert "a/&lt;i&gt;.heic" in page
    assert "- images: 7 test images are copies." in text
    assert "images: 7 test images are copies." in page


def test_controls_that_were_not_run_say_so(folder):
    write_run(params(), folder)
    for name, count in (("controls", 6 + 2 + 1), ("attack-checks", 3)):
        lines = records(tables_by_name(collect.collect())[f"digits-{name}"])
        assert len(lines) >= count
        assert all(line["status"].startswith("not run (") for line in lines)


def test_what_no_row_ran_is_one_line(folder):
    write_run(params("digits", {"S_8_10": {}, "S_8_1": {}}), folder)
    (dataset,) = collect.collect()
    first, second = dataset.rows
    second = replace(second, controls=ControlResults({"finetune_lr_0.01": RUN}, []))
    lines = records(controls_table(replace(dataset, rows=[first, second])))
    rows = {line["control"]: line["row"] for line in lines if line["status"].startswith("not run")}
    assert rows["random networks of matching size, from scratch"] == "every row"
    assert rows["the same subnets, fine-tuned at another lr"] == "digits-S_8_10"
    assert len(rows) == sum(line["status"].startswith("not run") for line in lines)
