"""Accuracies against a brute-force attack, one image at a time, and the grid against its cells."""

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tamnas.attacks.listed import ApgdCe, Square
from tamnas.attacks.registry import Pgd
from tamnas.attacks.survival import Attempt
from tamnas.config.compute import ComputeParams
from tamnas.config.sections import EvalParams, NumericsParams, ValidationParams
from tamnas.data.loader import Split
from tamnas.errors import DeadlineError
from tamnas.evaluation import accuracy as evaluation
from tamnas.evaluation.accuracy import (
    Validator,
    accuracy,
    evaluate_pgd,
    fast_copy,
    pgd_accuracy,
    robust_accuracy,
    share,
    survivals,
)
from tamnas.evaluation.attacked import attack_model
from tamnas.evaluation.grid import evaluate_kind, final_ids
from tamnas.evaluation.networks import GridContext, GridTask, check_attack
from tamnas.networks.subnet import Subnet
from tamnas.pipeline import checkpoint
from tamnas.records import Label, NetworkSpec, Record, Score
from tamnas.seeding import torch_generator
from tamnas.space.architecture import Architecture

EPS = Fraction(8, 255)


def plan(**changed) -> EvalParams:
    setting = {"eps": ("4/255", "8/255"), "steps": (1, 3), "success": "any", "weights": "last"}
    return EvalParams(**(setting | changed))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """60 images of four quadrants, each with a brightness of its own, and some noise."""
    generator = torch.Generator().manual_seed(0)
    quadrants = (
        torch.randint(0, 200, (60, 3, 2, 2), generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    )
    return (quadrants + torch.randint(0, 56, (60, 3, 8, 8), generator=generator)).to(torch.uint8)


@torch.no_grad()
def centred(model: nn.Module, last: nn.Linear, images: torch.Tensor) -> nn.Module:
    """So that all classes are guessed: an untrained network favours one."""
    last.bias -= copy.deepcopy(model).eval()(images / 255).mean(0)
    return model


@pytest.fixture(scope="module")
def model(randomise, images) -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip
    return centred(randomise(layers), layers[-1], images).train()


def labelled(model: nn.Module, images: torch.Tensor) -> Split:
    """The label is what the network says, another one for every fifth image."""
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(images / 255)
    labels = logits.argmax(1)
    assert len(labels.unique()) > 2
    labels[::5] = logits[::5].argmin(1)
    return Split(images, labels, 255)


@pytest.fixture(scope="module")
def split(model, images) -> Split:
    return labelled(model, images)


def brute_force(model, split, eps, step_size, steps, success, generator) -> float:
    """PGD written out, one image after another; the noise is drawn as one block."""
    model = copy.deepcopy(model).eval()
    noise = (2 * torch.rand(split.images.shape, generator=generator) - 1) * eps
    held = 0
    for image, label, start in zip(split.images, split.labels, noise, strict=True):
        x = image[None] / 255
        moved = (x + start).clamp(0, 1)
        right = []
        for _ in range(steps + 1):
            moved.requires_grad_(True)
            logits = model(moved)
            right.append(logits.argmax(1).item() == label)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, label[None]), moved)
            moved = (moved.detach() + step_size * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
        held += all(right) if success == "any" else right[-1]
    return held / len(split)


def test_accuracy_by_brute_force(model, split):
    with torch.no_grad():
        guesses = [copy.deepcopy(model).eval()(image[None] / 255).argmax().item() for image in split.images]
    expected = sum(guess == label for guess, label in zip(guesses, split.labels.tolist(), strict=True)) / 60
    assert accuracy(model, split) == expected == 0.8


def test_what_is_no_number_is_no_class(split):
    """`argmax` takes NaN for the largest logit."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(split.images[0].numel(), 10))
    nn.init.constant_(model[1].bias[:1], float("nan"))  # of class 0 alone
    assert 0 in split.labels
    assert accuracy(model, split) == 0
    found = attack_model(model, lambda batch: split.scaled(split.images[batch]), split.labels, Square(eps=0.1), (0,))
    assert not found.correct.any()
    validator = evaluation.Validator(
        split, ValidationParams(start=1.0, attack=Pgd(eps=0.1, step_size=0.1, steps=1)), 2, (0,)
    )
    assert validator(model, 1) == {"validation_clean": 0, "validation_robust": 0, "validation_classes": 1}


@pytest.mark.parametrize("success", ["any", "last"])
@pytest.mark.parametrize("steps", [1, 4])
def test_robust_accuracy_by_brute_force(model, split, steps, success):
    attack = {"eps": 8 / 255, "step_size": 4 / 255, "steps": steps, "success": success}
    one = Attempt(**attack | {"steps": (steps,)}, generator=torch_generator("noise"))
    ours = robust_accuracy(model, split, one)
    theirs = brute_force(model, split, **attack, generator=torch_generator("noise"))
    assert ours == pytest.approx(theirs)
    assert 0.1 < ours < 0.75


def test_planned_attack(model, split):
    attack = Pgd(eps="8/255", step_size="2/255", steps=3)
    one = Attempt(8 / 255, 2 / 255, (3,), generator=torch_generator(0, "key"))
    expected = robust_accuracy(model, split, one)
    assert pgd_accuracy(model, split, attack, (0, "key")) == expected


def test_noise_is_drawn_alike_however_many_attacks_share_passes(model, split, monkeypatch):
    drawn = []
    start = evaluation.uniform_start
    monkeypatch.setattr(evaluation, "uniform_start", lambda x, *rest: (drawn.append(len(x)), start(x, *rest))[1])
    monkeypatch.setattr(evaluation, "PIXELS", {"cpu": 16 * split.size**2})
    several = [Attempt(8 / 255, 2 / 255, (1,), generator=torch_generator(seed)) for seed in range(3)]
    evaluation.survivals(model, split, several)
    together = drawn[::3]
    drawn.clear()
    robust_accuracy(model, split, several[0])
    assert drawn == together


@pytest.mark.parametrize("chunk", [1, 7, 16, 60])
def test_chunks_do_not_change_results(model, split, monkeypatch, chunk):
    def shares():
        one = Attempt(8 / 255, 2 / 255, (0, 2, 4), generator=torch_generator(0))
        (standing,) = evaluation.survivals(model, split, [one])
        return standing.tolist(), accuracy(model, split)

    whole = shares()
    sizes = []
    chunks = evaluation.chunks
    monkeypatch.setattr(evaluation, "PIXELS", {"cpu": chunk * split.size**2})
    monkeypatch.setattr(evaluation, "chunks", lambda split, size: (sizes.append(size), chunks(split, size))[1])
    assert shares() == whole
    assert sizes == [chunk] * 2


# -- the grid -----------------------------------------------------------------------------------


def pgds(*pairs) -> list[Pgd]:
    return [Pgd(eps=eps, steps=steps) for eps, steps in pairs]


def test_the_grid_and_the_final_attacks_are_merged():
    setting = plan(
        eps=("8/255", "2/255"), steps=(30, 10),
        final=({"eps": "8/255", "steps": 20}, {"eps": "8/255", "steps": 10}, {"eps": "16/255", "steps": 100}),
    )  # fmt: skip
    small = ("2/255", 10), ("2/255", 30)
    assert setting.pgd(final=False) == pgds(*small, ("8/255", 10), ("8/255", 30))
    final = pgds(*small, ("8/255", 10), ("8/255", 20), ("8/255", 30), ("16/255", 100))
    assert setting.planned() == final


@pytest.mark.parametrize("success", ["any", "last"])
def test_the_grid_equals_every_attack_alone(model, split, success):
    grid = plan(success=success, final=({"eps": "8/255", "steps": 5},), step_divisor=0.5)
    own = Pgd(eps="8/255", steps=4, step_size="1/255")
    attacks = [*grid.pgd(final=True), own]
    shares = {attack: share(mask) for attack, mask in evaluate_pgd(model, split, grid, attacks, (0, "key")).items()}
    expected = pgds(("4/255", 1), ("4/255", 3), (EPS, 1), (EPS, 3), (EPS, 5))
    assert list(shares) == [*expected, own]
    for attack, robust in shares.items():
        eps, step_size = float(attack.eps), float(attack.step_size or attack.eps * 2)
        noise = torch_generator(0, "key", str(attack.eps))
        alone = robust_accuracy(model, split, Attempt(eps, step_size, (attack.steps,), success, noise))
        assert robust == alone
    other = evaluate_pgd(model, split, plan(success={"any": "last", "last": "any"}[success]), attacks[:4], (0, "key"))
    assert [share(mask) for mask in other.values()] != [*shares.values()][:4]  # the rule makes a difference here
    # it does not depend on which others there are
    (mask,) = evaluate_pgd(model, split, grid, expected[3:4], (0, "key")).values()
    assert share(mask) == shares[expected[3]]
    assert shares[expected[0]] > shares[expected[4]]


@pytest.mark.parametrize("which", ["accuracy", "robust", "grid", "validator"])
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_found(model, split, which, training):
    model = copy.deepcopy(model).train(training)
    model[1].eval()  # a part in another mode than the whole
    modes = [part.training for part in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attack = Pgd(eps="8/255", step_size="2/255", steps=1)
    {
        "accuracy": lambda: accuracy(model, split),
        "robust": lambda: pgd_accuracy(model, split, attack, (0,)),
        "grid": lambda: evaluate_pgd(model, split, plan(), plan().pgd(False), (0,)),
        "validator": lambda: Validator(split, ValidationParams(attack=attack, start=0.0), 2, (0,))(model, 1),
    }[which]()
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# -- validation during training -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "epochs", "first"), [(0.0, 4, 0), (0.25, 4, 1), (0.67, 10, 7), (1.0, 4, 3), (1.0, 1, 0), (0.9, 2, 1)]
)
def test_validator_attacks_from_start_on_and_at_the_end(model, split, monkeypatch, start, epochs, first):
    attacked = []
    monkeypatch.setattr(evaluation, "pgd_accuracy", lambda *args: attacked.append(args[3]) or 0.25)
    attack = Pgd(eps="8/255", step_size="2/255", steps=1)
    validator = Validator(split, ValidationParams(attack=attack, start=start), epochs, (0, "key"))
    rows = [validator(model, epoch) for epoch in range(epochs)]
    assert [row["validation_robust"] for row in rows] == [None] * first + [0.25] * (epochs - first)
    assert [row["validation_clean"] for row in rows] == [0.8] * epochs
    assert len(set(attacked)) == 1  # the same noise in every epoch


# -- many networks ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks(space, randomise, images):
    archs = [Architecture((0,) * len(space.layers), (ratio,) * len(space.layers)) for ratio in (0.2, 0.4, 0.6)]
    made = [randomise(Subnet(space, arch), seed=i) for i, arch in enumerate(archs)]
    for network in made:
        centred(network, network.rest.head.classes, images)
    return {f"n{i}": pair for i, pair in enumerate(zip(archs, made, strict=True))}


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
        plan=plan(final=({"eps": "8/255", "steps": 4},), checks=checks, attacks=attacks),
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


def test_attacks_batch_by_batch_are_those_of_one_call(space, split, networks, tmp_path, monkeypatch):
    test = labelled(networks["n1"][1], split.images[:24])
    attacks = ApgdCe(eps=EPS, batch_size=7, networks="all"), ApgdCe(eps=EPS, images=9, batch_size=4, networks="all")
    some = {"n1": networks["n1"]}
    grid, _ = evaluated(space, test, some, tmp_path, monkeypatch, attacks=attacks)
    for name, (arch, network) in some.items():
        for attack, row in zip(attacks, grid[name][-2:], strict=True):
            key = (0, "evaluate", NetworkSpec(name, arch).identity)
            model, x = fast_copy(copy.deepcopy(network).eval()), test.scaled(test.images)
            outcome = attack_model(model, x.__getitem__, test.labels, attack, key)
            assert (row["attack"], row["accuracy"]) == (attack.key, outcome.accuracy)


def test_what_is_kept_is_of_the_same_weights_and_checks(space, split, networks, tmp_path, monkeypatch):
    test = labelled(networks["n1"][1], split.images)
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


def test_a_network_scores_the_same_in_any_company(space, split, networks, tmp_path, monkeypatch):
    test = labelled(networks["n1"][1], split.images)
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


def test_checks_of_the_attack_on_final_networks(space, split, networks, tmp_path, monkeypatch):
    test = labelled(networks["n2"][1], split.images)
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
def test_an_image_is_lost_if_any_random_start_succeeds(split, networks, success):
    network = networks["n2"][1]
    test = labelled(network, split.images)
    planned = plan(success=success, checks={"attack": {"eps": "8/255", "steps": 2}, "restarts": 6, "large_eps": 1})
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
