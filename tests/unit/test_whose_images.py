"""A dataset that says whose images it holds: published values beside it, and what is smaller or fewer."""

from dataclasses import replace

from tamnas.report import collect
from tamnas.report.claims.claims import caveats
from tamnas.report.tables.table import markdown
from tests.helpers.small_results import params, records, tables_by_name, write_run


def test_published_values_stand_beside_the_images_they_are_of(folder):
    raw = params("small", {"S_8_10": {}})
    raw["data"]["small"] |= {"source": "npz", "path": "small.npz", "images": "cifar10"}
    write_run(raw, folder)
    tables = tables_by_name(collect.collect())
    assert not any(name.endswith("table-02") for name in tables)
    (row,) = (row for row in records(tables["table-02-small"]) if row["network"] == "S_8_10")
    assert (row["status"], row["pgd10_8_255_paper"]) == ("measured", "31.01")
    (row,) = records(tables["small-grid"])
    assert row["clean_paper"]
    for name in ("table-02-small", "small-grid", "small-search"):
        text = markdown(tables[name])
        assert "CIFAR-10 at 8x8 pixels, 1,437 of its 50,000 training images, 360 of its 10,000 test images" in text


def test_claims_say_whose_images_and_how_many_of_them(folder):
    write_run(params("cifar10", {"S_8_10": {}}), folder)
    (dataset,) = collect.collect()
    for data, caveat in (
        ({}, "source digits"),
        ({"source": "npz", "images": "cifar10", "size": 16}, "CIFAR-10 at 16x16 pixels"),
        (
            {"source": "npz", "images": "svhn-subset"},
            "a subset of SVHN at 8x8 pixels, not comparable with published figures",
        ),
        ({"source": "cifar10", "size": 32}, "CIFAR-10, 1,437 of its 50,000 training images"),
    ):
        plan = dataset.plan.model_copy(update={"data": dataset.plan.data.model_copy(update=data)})
        (_, line) = caveats(replace(dataset, plan=plan))
        assert line.startswith(f"not the paper's images ({caveat}")
    merged = dataset.plan.data.model_copy(update={"source": "cifar10", "size": 32, "merge_validation": True})
    counts = {"train": 42_000, "validation": 10_000, "test": 10_000}
    both = dataset.card | {"splits": {name: {"images": count} for name, count in counts.items()}}
    told = caveats(replace(dataset, plan=plan.model_copy(update={"data": merged}), card=both))
    assert "42,000 of its 50,000 training images" in str(told)
    whole = dataset.card | {"splits": {name: {"images": 50_000} for name in ("train", "validation", "test")}}
    assert "the paper's images" not in str(caveats(replace(dataset, plan=plan, card=whole)))
