"""The profile `smoke`: the paper's whole study through the runner, in a folder of its own.

`make test` fills its tables from made-up results instead, one for every network that the study trains.
"""

import csv
import shutil

import pytest

from stages.tables import main as tables_stage
from tamnas.config.resolve import load_params
from tamnas.data import synthetic
from tamnas.pipeline import profiles as profile
from tamnas.pipeline import runner
from tamnas.report.claims.claims import CLAIMS
from tests.helpers.small_results import leave_unwritten, write_run
from tests.helpers.tiny import ROOT, smoke_params

QUOTED = {"RobNet-medium", "RobNet-small"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """reports/ of the finished study; what `docs/profiles.md` tells a person to type, in one process."""
    folder = tmp_path_factory.mktemp("smoke")
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        synthetic.write()
        profile.apply("smoke")
        assert load_params().compute.workers == 2
        runner.run()
        yield folder / "reports"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """reports/ of results that never were, with figures that are not written."""
    folder = tmp_path_factory.mktemp("made-up")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        leave_unwritten(patch)
        write_run(smoke_params(), folder)
        tables_stage.run()
        yield folder / "reports"


@pytest.fixture(
    params=[pytest.param("made_up", marks=pytest.mark.system), pytest.param("study", marks=pytest.mark.slow)]
)
def reports(request):
    return request.getfixturevalue(request.param)


def table(reports, name):
    with (reports / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_table_of_the_paper_is_filled(reports):
    own = [f"{dataset}-{kind}" for dataset in ("cifar10", "svhn")
           for kind in ("grid", "lego", "benchmark", "subnets", "search", "layers")]  # fmt: skip
    for name in [*(f"table-{number:02d}" for number in range(1, 11)), *own]:
        for form in ("md", "csv", "tex"):
            assert (reports / "tables" / f"{name}.{form}").stat().st_size > 0, name
        for row in table(reports, name):
            if row.get("status", "measured") == "measured":
                assert all(text for key, text in row.items() if key.startswith(("clean", "pgd")) and "paper" not in key)
            else:
                assert row["network"] in QUOTED, (name, row)
    assert len(table(reports, "cifar10-grid")) == 7
    assert len(table(reports, "svhn-grid")) == 8
    assert [row["network"] for row in table(reports, "table-09")] == ["Lego-Net 2S_8_5", "2S_8_1"]


@pytest.mark.slow
def test_controls_stand_beside_the_row_that_asks_for_them(study):
    rows = table(study, "cifar10-controls")
    counted = {row["control"] for row in rows if row["row"] == "cifar10-S_8_2" and row["networks"]}
    assert len(counted) >= 5, rows  # fine-tuning for as long as from scratch is what the row does itself
    assert not any(row["networks"] for row in rows if row["row"] == "cifar10-S_8_10")


def test_every_figure_is_drawn(reports):
    kinds = ("robustness", "architectures", "hypervolume", "figure-05", "figure-06-07", "figure-08-09", "rank",
             "supernet", "retraining")  # fmt: skip
    for name in ["overview", *(f"{dataset}-{kind}" for dataset in ("cifar10", "svhn") for kind in kinds)]:
        assert (reports / "figures" / f"{name}.svg").read_bytes().startswith(b"<?xml"), name
        assert (reports / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_the_claims_are_judged_on_both_datasets(reports):
    lines = (reports / "claims.md").read_text().splitlines()
    for claim in CLAIMS:
        assert sum(f" | {claim.text} | " in line for line in lines) == 2
    assert (reports / "index.html").stat().st_size > 0


@pytest.mark.slow
def test_the_page_of_375_networks_is_at_most_three_megabytes(folder):
    write_run(smoke_params(), folder, networks=12)
    tables_stage.run()
    page = (folder / "reports" / "index.html").read_bytes()
    assert len(page) < 3e6
    assert page.count(b'"weights":"') >= 375


@pytest.mark.slow
def test_its_images_can_be_learnt(study):
    """Chance is 10% of 30 images; networks see sixteen steps of training."""
    for dataset in ("cifar10", "svhn"):
        shares = [row["test_scratch_clean"] for row in table(study, f"{dataset}-subnets")]
        shares += [row["clean"] for row in table(study, f"{dataset}-benchmark")]
        assert max(map(float, shares)) > 25


def test_the_images_are_the_same_bytes_every_time(tmp_path):
    first, second = synthetic.write(tmp_path / "a"), synthetic.write(tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
