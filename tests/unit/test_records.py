"""Records of trained networks: what is written is what is read, and damage is told in one line."""

import json

import pytest

from tamnas.errors import InputError
from tamnas.files import write_json
from tamnas.records import Label, NetworkSpec, Record, Score, read_records
from tamnas.space.architecture import Architecture

SUBNET = NetworkSpec("n01", Architecture((0, 20), (0.4, 2.0)))
HAND_MADE = NetworkSpec("seed-3-resnet20", baseline="resnet20")
SCORES = {"last": Score(9, 0.5, 0.25), "best": Score(4, 0.4, 0.3)}
RECORDS = {
    "subnet": Record(SUBNET, 1000, 10, **SCORES),
    "control": Record(HAND_MADE, 269_722, 10, **SCORES, label=Label("seeds", "baselines", "resnet20", 3)),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_round_trip_through_files(tmp_path, name):
    path = tmp_path / "validation.json"
    write_json(path, {"format": 1, "networks": [RECORDS[name].plain()]})
    assert read_records(path) == [RECORDS[name]]


def test_a_plain_record_says_what_results_say():
    assert RECORDS["control"].plain() == {
        "id": "seed-3-resnet20",
        "architecture": None,
        "baseline": "resnet20",
        "control": "seeds",
        "kind": "baselines",
        "of": "resnet20",
        "seed": 3,
        "parameters": 269_722,
        "epochs": 10,
        "last": {"epoch": 9, "clean": 0.5, "robust": 0.25},
        "best": {"epoch": 4, "clean": 0.4, "robust": 0.3},
    }
    assert "control" not in RECORDS["subnet"].plain()


def test_the_score_asked_for():
    assert [RECORDS["subnet"].score(weights).epoch for weights in ("last", "best")] == [9, 4]


DAMAGE = {
    "no parameters": (lambda plain: plain.pop("parameters"), "'parameters'"),
    "no score": (lambda plain: plain.pop("best"), "'best'"),
    "half a score": (lambda plain: plain["last"].pop("robust"), "'robust'"),
    "a score that is a number": (lambda plain: plain.update(last=0.5), "not subscriptable"),
    "half a label": (lambda plain: plain.pop("seed"), "'seed'"),
    "no network": (lambda plain: plain.pop("architecture"), "needs id, architecture and baseline"),
    "two networks": (lambda plain: plain.update(architecture={"blocks": [0], "ratios": [1.0]}), "and not both"),
    "neither network": (lambda plain: plain.update(baseline=None), "and not both"),
    "a network that nobody made": (lambda plain: plain.update(baseline="resnet999"), "baseline 'resnet999'; allowed: "),
    "an id that leaves its folder": (lambda plain: plain.update(id="../n01"), "without folders"),
    "an id that is a number": (lambda plain: plain.update(id=7), "plain name"),
    "half an architecture": (lambda plain: plain.update(architecture={"blocks": [0]}), "'blocks' and 'ratios'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_record_is_told_in_one_line(tmp_path, name):
    change, words = DAMAGE[name]
    plain = json.loads(json.dumps(RECORDS["control"].plain()))
    change(plain)
    path = tmp_path / "validation.json"
    write_json(path, {"format": 1, "networks": [plain]})
    with pytest.raises(InputError) as caught:
        read_records(path)
    assert str(caught.value).startswith(f"{path}: record of a trained network: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_is_known_by_what_it_is_and_not_by_its_id():
    renamed = NetworkSpec("lego", SUBNET.architecture)
    assert renamed.identity == SUBNET.identity == "0@0.4 20@2"
    assert HAND_MADE.identity == "resnet20"
    assert [NetworkSpec.from_plain(one.plain()) for one in (SUBNET, HAND_MADE)] == [SUBNET, HAND_MADE]
