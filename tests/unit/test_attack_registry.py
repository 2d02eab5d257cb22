"""Attacks as values, and one of a user's own from params.yaml to the reports."""

import csv
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from pydantic import Field

from tamnas.attacks.listed import EvalPgd
from tamnas.attacks.registry import EvalAttack, Pgd, register
from tamnas.config.resolve import parse_params
from tamnas.config.sections import EvalParams
from tamnas.errors import InputError
from tamnas.report import collect
from tests.helpers.small_results import params, records, tables_by_name, write_run
from tests.helpers.tiny import invoke, tiny_params, write_params


@register
class Corners(EvalAttack):
    """The worst of `tries` random corners of the eps-box."""

    kind: Literal["corners"] = "corners"
    tries: Annotated[int, Field(ge=1)]

    @property
    def name(self) -> str:
        return f"Corners-{self.tries}"

    def survivors(self, model, x, y, generator):
        assert not model.training
        standing = torch.ones(len(x), dtype=torch.bool)
        for _ in range(self.tries):
            corner = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
            standing &= model((x + float(self.eps) * corner).clamp(0, 1)).argmax(1) == y
        return standing


CORNERS = {"kind": "corners", "eps": "8/255", "tries": 3}


def planned(*attacks: dict) -> EvalParams:
    return EvalParams(eps=("8/255",), steps=(10,), success="any", weights="best", attacks=attacks)


def test_a_value_with_its_names():
    attack = Pgd(eps="2.5/255", steps=20)
    assert (attack.text, attack.key) == ("PGD-20 at 2.5/255", "pgd20_2.5_255")
    assert (attack.heading, attack.latex) == ("PGD-20 2.5/255 (%)", "$P_{2.5/255}^{20}$")
    own = Corners(eps="8/255", tries=3)
    assert (own.text, own.key, own.heading) == ("Corners-3 at 8/255", "corners3_8_255", "Corners-3 8/255 (%)")
    assert own.latex is None
    assert {own: 1}[Corners(eps=Fraction(8, 255), tries=3)] == 1
    assert own != Corners(eps="8/255", tries=4)


@pytest.mark.parametrize("entry", [CORNERS, {"kind": "pgd", "eps": "8/255", "steps": 7, "step_size": "1/255"}])
def test_a_plan_keeps_all_of_an_attack(entry):
    plan = planned(entry)
    for again in (EvalParams.model_validate_json(plan.model_dump_json()), pickle.loads(pickle.dumps(plan))):
        assert again == plan
        (attack,) = again.attacks
        assert type(attack) is {"corners": Corners, "pgd": EvalPgd}[entry["kind"]]
        assert attack.plain().items() >= entry.items()
    assert plan.planned() == [Pgd(eps="8/255", steps=10), *plan.attacks]
    assert plan.listed(final=False) == []


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("corners", "eval.attacks.0 is 'corners': Input should be"),
        ({"eps": "8/255"}, "eval.attacks.0.kind: is missing"),
        (
            CORNERS | {"kind": "corner"},
            "eval.attacks.0.kind is 'corner': no such attack; allowed: pgd, pgd_cw, apgd_ce, apgd_dlr, fab",
        ),
        (CORNERS | {"kind": ["pgd"]}, "eval.attacks.0.kind is ['pgd']: no such attack"),
        ({"kind": "corners", "eps": "8/255"}, "eval.attacks.0.tries: is missing"),
        (CORNERS | {"trys": 3}, "eval.attacks.0.trys: no such parameter; did you mean 'tries'?"),
        (CORNERS | {"momentum": 3}, "eval.attacks.0.momentum: no such parameter; allowed: kind, eps, networks, images"),
        (CORNERS | {"tries": 0}, "eval.attacks.0.tries is 0: Input should be greater"),
        (CORNERS | {"eps": "8"}, "eval.attacks.0.eps is '8': must be a fraction"),
        ({"kind": "pgd", "eps": "8/255", "steps": 10, "step_size": "1/255"}, "final and attacks: pgd10_8_255: must"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_the_key(entry, line):
    raw = params()
    raw["eval"]["attacks"] = [entry]
    with pytest.raises(InputError) as error:
        parse_params(raw)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_kind_has_one_class_and_a_name():
    with pytest.raises(ValueError, match="which is EvalPgd's"):

        @register
        class Other(EvalAttack):
            kind: Literal["pgd"] = "pgd"

    with pytest.raises(ValueError, match="a default"):

        @register
        class Nameless(EvalAttack):
            tries: int


def test_from_params_to_the_final_grid(tmp_path, monkeypatch):
    """Of final networks alone, and PGD's bits are what they are without it."""
    monkeypatch.chdir(tmp_path)
    raw = tiny_params()
    raw["baselines"]["training"].update(epochs=1, schedule={"kind": "cosine"})
    write_params(tmp_path, raw)
    for script, *arguments in (("plan",), ("prepare", "digits"), ("baselines", "digits")):
        assert invoke(script, *arguments).exit_code == 0
    file = Path("results/digits/evaluate_baselines/seed-0/grid.csv")
    grids = []
    for attacks in ([], [CORNERS], [CORNERS | {"tries": 2**31}]):
        raw["eval"]["attacks"] = attacks
        if attacks and attacks[0]["tries"] > 3:
            monkeypatch.setattr(Corners, "survivors", lambda self, model, x, y, generator: y)
        write_params(tmp_path, raw)
        assert invoke("plan").exit_code == 0
        done = invoke("evaluate", "baselines", "digits")
        grids.append(list(csv.DictReader(file.open())))
    assert "survivors gave torch.int64" in done.output or "survivors gave torch.int64" in done.stderr
    without, with_own, unchanged = grids
    assert with_own[:-1] == without
    assert unchanged == with_own
    own = with_own[-1]
    assert (own["attack"], own["eps"], own["steps"], own["success"]) == ("corners3_8_255", "8/255", "", "")
    assert 0 <= float(own["accuracy"]) <= float(without[0]["accuracy"])


def test_in_the_reports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = params()
    raw["eval"]["attacks"] = [CORNERS]
    write_run(raw, tmp_path)
    (dataset,) = collect.collect()
    lego = dataset.lego.network
    assert lego.test.grid[Corners(eps="8/255", tries=3)] < lego.test.clean
    assert all(attack.kind == "pgd" for attack in lego.test.pgd)
    tables = tables_by_name([dataset])
    table = tables["digits-benchmark"]
    assert [column.title for column in table.columns[-2:]] == ["Corners-3 8/255 (%)", "Worst case 8/255 (%)"]
    assert any(note == "Corners-3 at 8/255: batch_size 250, tries 3." for note in table.notes)
    assert float(records(table)[0]["corners3_8_255"]) > 50
    assert "corners3_8_255" not in records(tables["digits-grid"])[0]
