"""Networks through the stage that evaluates them: alone and together, batch by batch, their checks."""

import copy
from fractions import Fraction

import pytest
import torch

from tamnas.attacks.listed import ApgdCe
from tamnas.attacks.survival import Attempt
from tamnas.config.compute import ComputeParams
from tamnas.config.sections import NumericsParams
from tamnas.data.loader import Split
from tamnas.errors import DeadlineError
from tamnas.evaluation.accuracy import fast_copy, robust_accuracy, survivals
from tamnas.evaluation.attacked import attack_model
from tamnas.evaluation.grid import evaluate_kind, final_ids
from tamnas.evaluation.networks import GridContext, GridTask, check_attack
from tamnas.networks.subnet import Subnet
from tamnas.pipeline import checkpoint
from tamnas.records import Label, NetworkSpec, Record, Score
from tamnas.seeding import torch_generator
from tamnas.space.architecture import Architecture
from tests.helpers.quadrants import centred, eval_plan, labelled

EPS = Fraction(8, 255)


@pytest.fixture(scope="module")
def networks(space, randomise):
    archs = [Architecture((0,) * len(space.layers), (ratio,) * len(space.layers)) for ratio in (0.2, 0.4, 0.6)]
    made = [randomise(Subnet(space, arch), seed=i) for i, arch in enumerate(archs)]
    for network in made:
        centred(network, network.rest.head.classes)
    return {f"n{i}": pair for i, pair in enumerate(zip(archs, made, strict=True))}


@pytest.fixture(scope="module")
def split(networks) -> Split:
    return labelled(networks["n0"][1])


def evaluated(space, split, networks: dict, folder, monkeypatch, kind="scratch", checks=None, attacks=()):
    """(rows of the grid, rows of the checks) per network, through the files a stage reads."""
    for index, (name, (arch, network)) in enumerate(networks.items()):
        state = {f"last.{key}": tensor for key, tensor in network.state_dict().items()}
        score = Score(1, 0.9, index / 10)
        record = Record(NetworkSpec(name, arch), space.parameters(arch), 2, score, score)
        checkpoint.write_weights(folder / "weights" / f"{name}.safetensors", state, {"record": record.plain()})
    for module in ("grid", "networks"):
        monkeypatch.setattr(
            f"tamnas.evaluation.{module}.load_split", lambda path, which, device: {"test": split}[which]
        )
    task = GridTask(
        space=space, data=folder / "none.npz",
        plan=eval_plan(final=({"eps": "8/255", "steps": 4},), checks=checks, attacks=attacks),
        numerics=NumericsParams(precision="float32", threads=1, deterministic=False),
        compute=ComputeParams(engine="inline", workers=1, device="cpu"), folder=folder / "finished",
    )  # fmt: skip
    (found,) = evaluate_kind(task, kind, folder / "weights", 0, "test").values()
    metrics = found["metrics"]
    assert set(metrics["networks"]) == set(networks)
    for row in found["grid"]:
        name = f"pgd{row['steps']}_{row['eps'].replace('/', '_')}" if row["steps"] else "clean"
        assert metrics["networks"][row["network"]][row["attack"]] == row["accuracy"]
        assert row["attack"] == name or row["steps"] is None
    return tuple(
        {name: [row for row in rows if row["network"] == name] for name in networks}
        for rows in (found["grid"], found["checks"])
    )


def test_attacks_batch_by_batch_are_those_of_one_call(space, networks, tmp_path, monkeypatch):
    test = labelled(networks["n1"][1], 24)
    attacks = ApgdCe(eps=EPS, batch_size=7, networks="all"), ApgdCe(eps=EPS, images=9, batch_size=4, networks="all")
    some = {"n1": networks["n1"]}
    grid, _ = evaluated(space, test, some, tmp_path, monkeypatch, attacks=attacks)
    for name, (arch, network) in some.items():
        for attack, row in zip(attacks, grid[name][-2:], strict=True):
            key = (0, "evaluate", NetworkSpec(name, arch).identity)
            model, x = fast_copy(copy.deepcopy(network).eval()), test.scaled(test.images)
            outcome = attack_model(model, x.__getitem__, test.labels, attack, key)
            assert (row["attack"], row["accuracy"]) == (attack.key, outcome.accuracy)


def test_what_is_kept_is_of_the_same_weights_and_checks(space, networks, tmp_path, monkeypatch):
    test = labelled(networks["n1"][1])
    more = {"kind": "legonet", "attacks": (ApgdCe(eps=EPS, images=9, networks="all"),)}
    old, trained_again = ({"n": networks[name]} for name in ("n1", "n2"))
    first, none = evaluated(space, test, old, tmp_path, monkeypatch, **more)
    second, _ = evaluated(space, test, trained_again, tmp_path, monkeypatch, **more)
    assert second == evaluated(space, test, trained_again, tmp_path / "apart", monkeypatch, **more)[0]
    assert [row["accuracy"] for row in first["n"]] != [row["accuracy"] for row in second["n"]]
    checks = {"attack": {"eps": "8/255", "steps": 3}, "restarts": 2, "large_eps": "64/255"}
    assert none == {"n": []}
    assert evaluated(space, test, trained_again, tmp_path, monkeypatch, **more, checks=checks)[1]["n"]


@pytest.mark.parametrize("finished", [(), ("PGD",)])
def test_a_deadline_before_any_network_is_evaluated(space, split, networks, tmp_path, monkeypatch, finished):
    def require_time(context, network, what):
        if what not in finished:
            raise DeadlineError(what)

    monkeypatch.setattr(GridContext, "require_time", require_time)
    with pytest.raises(DeadlineError, match=r"^test: stopped at the deadline before a network was evaluated$"):
        evaluated(space, split, networks, tmp_path, monkeypatch, attacks=(ApgdCe(eps=EPS, networks="all"),))


def test_a_network_scores_the_same_in_any_company(space, networks, tmp_path, monkeypatch):
    test = labelled(networks["n1"][1])
    together, _ = evaluated(space, test, networks, tmp_path / "all", monkeypatch)
    for name in ("n1", "n2"):
        renamed = {f"z{name}": networks[name]}
        (alone,) = evaluated(space, test, renamed, tmp_path / name, monkeypatch)[0].values()
        figures = {(row["eps"], row["steps"]): row["accuracy"] for row in alone}
        assert figures.items() >= {(row["eps"], row["steps"]): row["accuracy"] for row in together[name]}.items()
        assert ("0/255", 0) in figures
    assert len({row["accuracy"] for rows in together.values() for row in rows}) > 2


@pytest.mark.parametrize(("kind", "final"), [("scratch", ["n2"]), ("finetune", []), ("legonet", ["n0", "n1", "n2"])])
def test_final_networks_get_the_extra_cells(space, split, networks, tmp_path, monkeypatch, kind, final):
    rows, _ = evaluated(space, split, networks, tmp_path, monkeypatch, kind)
    for name, own in rows.items():
        assert all(row["final"] == (name in final) for row in own)
        cells = [("0/255", 0), ("4/255", 1), ("4/255", 3), ("8/255", 1), ("8/255", 3)]
        assert [(row["eps"], row["steps"]) for row in own] == cells + [("8/255", 4)] * (name in final)
        assert [row["missed"] is None for row in own] == [True] + [False] * (len(own) - 1)
        assert all(row["images"] == 60 and row["parameters"] == space.parameters(networks[name][0]) for row in own)


def test_the_best_network_is_final_by_the_weights_that_are_shown():
    low, high = Score(0, 0.5, 0.4), Score(1, 0.5, 0.6)
    records = [
        Record(NetworkSpec("late"), 1, 2, last=high, best=high),
        Record(NetworkSpec("early"), 1, 2, last=low, best=Score(0, 0.5, 0.7)),
    ]
    assert final_ids("scratch", records, "last") == {"late"}
    assert final_ids("scratch", records, "best") == {"early"}


def test_of_repeats_those_of_final_networks_are_final():
    score = Score(0, 0.5, 0.5)
    labels = [("seeds", "scratch"), ("seeds", "finetune"), ("seeds", "legonet"), ("common_attack", "scratch")]
    labels += [("lego_reversed", "legonet"), ("seeds", "baselines")]
    records = [
        Record(NetworkSpec(f"{control}-{kind}"), 1, 1, score, score, Label(control, kind, "n", 1))
        for control, kind in labels
    ]
    expected = {"seeds-scratch", "seeds-legonet", "lego_reversed-legonet", "seeds-baselines"}
    assert final_ids("controls", records, "last") == expected


def test_checks_of_the_attack_on_final_networks(space, networks, tmp_path, monkeypatch):
    test = labelled(networks["n2"][1])
    planned = {"attack": {"eps": "8/255", "steps": 3}, "restarts": 4, "large_eps": "64/255"}
    grid, checks = evaluated(space, test, networks, tmp_path, monkeypatch, checks=planned)
    assert {name for name, rows in checks.items() if rows} == {"n2"}  # the best by validation
    found = {row["check"]: row for row in checks["n2"]}
    cell = next(row["accuracy"] for row in grid["n2"] if (row["eps"], row["steps"]) == ("8/255", 3))
    assert found["any"]["accuracy"] == cell  # the grid's own noise
    assert found["last"]["accuracy"] >= found["any"]["accuracy"] >= found["restarts"]["accuracy"]
    noise = torch_generator(0, "evaluate", str(networks["n2"][0]), str(Fraction(64, 255)))
    alone = robust_accuracy(networks["n2"][1], test, Attempt(64 / 255, 16 / 255, (3,), "any", noise))
    assert found["large_eps"]["accuracy"] == alone < found["any"]["accuracy"]
    assert (found["restarts"]["restarts"], found["large_eps"]["eps"], found["last"]["success"]) == (4, "64/255", "last")
    assert evaluated(space, test, networks, tmp_path / "off", monkeypatch)[1] == {name: [] for name in networks}


@pytest.mark.parametrize("success", ["any", "last"])
def test_an_image_is_lost_if_any_random_start_succeeds(networks, success):
    network = networks["n2"][1]
    test = labelled(network)
    planned = eval_plan(success=success, checks={"attack": {"eps": "8/255", "steps": 2}, "restarts": 6, "large_eps": 1})
    key = (0, "key")
    keys = [(*key, str(EPS)), *((*key, str(EPS), "restart", index) for index in range(1, 6))]
    masks = [
        survivals(network, test, [Attempt(8 / 255, 2 / 255, (2,), success, torch_generator(*one))])[0][0]
        for one in keys
    ]
    found = {row["check"]: row["accuracy"] for row in check_attack(network, test, planned, key)}
    alone = [int(mask.sum()) / len(test) for mask in masks]
    assert found[success] == alone[0]
    assert found["restarts"] == int(torch.stack(masks).all(0).sum()) / len(test) <= min(alone)
    assert found["restarts"] < max(alone)
