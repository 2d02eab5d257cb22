"""Bad parameters: tried in an interpreter of their own (helpers/bad_params.py), to see that torch is not needed."""

import json
import os
import subprocess
import sys

import pytest

from tamnas.config.resolve import parse_params, resolve_study
from tests.helpers import bad_params, every_param
from tests.helpers.refusals import SECONDS
from tests.helpers.tiny import ROOT


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("params")
    command = [sys.executable, "-m", "tests.helpers.bad_params", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def fault(found: dict, left: list[str]) -> str:
    """What is wrong with a refusal: not one line that names the file, slow, or something left; empty if nothing is."""
    line = found["err"]
    checks = {
        f"exit code {found['code']}": found["code"] == 2,
        f"not one line: {line!r}": line.startswith("error: ") and line.endswith("\n") and line.count("\n") == 1,
        f"does not name the file: {line!r}": "params.yaml: " in line,
        f"{len(line)} characters": len(line) < 500,
        f"{found['seconds']:.1f} s": found["seconds"] < SECONDS,
        f"wrote {found['out']!r}": found["out"] == "",
        f"left {found['left']}": found["left"] == left,
    }
    return "; ".join(text for text, good in checks.items() if not good)


@pytest.mark.parametrize("name", bad_params.NAMES)
def test_parameters(answers, name):
    found = answers["answers"][name]
    assert not fault(found, left=["params.yaml"])
    if not name.startswith("text: "):
        # A section's check may name the section first, a mode's check the mode: the last part is always there.
        assert name.split()[1].split(".")[-1] in found["err"]


@pytest.mark.parametrize("kind", every_param.KINDS)
def test_every_parameter(answers, kind):
    faults = {}
    for name, found in answers["every"][kind].items():
        faults[name] = fault(found, left=[])
        # The parameter in full, and not only the section that it is in.
        begins, line = f"error: params.yaml: {found['told']}", found["err"]
        if not (line.startswith(begins) and line[len(begins)] in " .:" and line.endswith(f"{found['end']}\n")):
            faults[name] += f"; begins otherwise than {begins!r}, or ends otherwise than {found['end']!r}: {line!r}"
    assert not {name: told for name, told in faults.items() if told}


def test_every_parameter_of_the_schema_has_its_place():
    resolve_study(parse_params(every_param.FULL))  # nothing but the case itself is wrong with a case
    assert {every_param.typed(path)[0] for path in every_param.paths(every_param.FULL)} == set(every_param.shapes())
    assert set(every_param.paths(bad_params.RAW)) <= set(every_param.paths(every_param.FULL))


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@pytest.mark.parametrize("kind", every_param.KINDS)
def test_every_value_of_params_yaml_has_its_cases(kind):
    """Told by the values in the file, not by the schema that the cases are made from."""
    told = {case.told for case in every_param.KINDS[kind]().values()}
    for path in every_param.paths(bad_params.RAW):
        value, key = every_param.value_at(bad_params.RAW, path), every_param.dotted(path)
        single = value[0] if isinstance(value, list) and value else value
        if kind == "wrong type":
            assert key in told
        elif kind == "misspelt" and path == ("eval", "attacks", 0, "kind"):  # without it nothing is known of an attack
            continue
        elif kind == "misspelt" and path[:-1] not in (("data",), ("modes",), ("run", "rows")):  # the user's names
            assert key + key[-1] in told
        elif kind == "out of range" and (is_number(single) or (isinstance(single, str) and "/255" in single)):
            assert key in told


def test_parameters_need_no_torch(answers):
    assert answers["heavy"] == []
    assert list(answers["answers"]) == bad_params.NAMES
    assert {kind: len(cases) for kind, cases in answers["every"].items()} == {
        kind: len(make()) for kind, make in every_param.KINDS.items()
    }
