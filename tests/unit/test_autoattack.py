"""Entries of `eval.attacks` against direct calls of the package, killed and resumed, and on masked gradients."""

import copy
import sys
from fractions import Fraction

import pyautoattack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.square import SquareAttack
from torch import nn

from tamnas.attacks import packaged
from tamnas.attacks.ascent import under_attack
from tamnas.attacks.attack import EvalAttack, Pgd
from tamnas.attacks.listed import ApgdCe, ApgdDlr, AutoAttack, EvalPgd, Fab, PgdCw, Square
from tamnas.errors import InputError
from tamnas.evaluation.attacked import Attacked, Hits, Outcome, attack_model, attack_rows, balanced, hits, missed
from tamnas.seeding import torch_generator
from tests.helpers.attacked import CLASSES, Scaled, fewer_queries, samples, trained_network

EPS, KEY = Fraction(16, 255), (0, "key")
SEED = torch_generator(*KEY, str(EPS)).initial_seed()


QUERIES = 300


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    fewer_queries(monkeypatch, QUERIES)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained_network()


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    return samples(30, 1000)


def run(attack: EvalAttack, network: nn.Module, data, **more) -> Outcome:
    x, y = data
    return attack_model(network, lambda chosen: x[chosen], y, attack, KEY, **more)


@pytest.mark.parametrize("batch_size", [250, pytest.param(13, marks=pytest.mark.slow)])
def test_autoattack_equals_the_package_called_directly(network, data, batch_size):
    """Every image after every attack, batches of survivors included; the package's driver for the classes there are."""
    ours = run(AutoAttack(eps=EPS, batch_size=batch_size), network, data)
    theirs = pyautoattack.AutoAttack(copy.deepcopy(network), eps=float(EPS), seed=SEED)
    theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = CLASSES - 1
    theirs.square.n_queries = QUERIES
    traced = sys.gettrace()  # the package's check for dynamic defences takes it away
    attacks, left = theirs.attacks_to_run, []
    theirs.version = "custom"
    for count in range(1, len(attacks) + 1) if batch_size == 13 else [len(attacks)]:
        theirs.attacks_to_run = attacks[:count]
        _, labels = theirs.run_standard_evaluation(*data, batch_size=batch_size)
        left.append(labels == data[1])
    sys.settrace(traced)
    expected = ours.left() if batch_size == 13 else ours.left()[-1:]
    assert all(torch.equal(one, other) for one, other in zip(left, expected, strict=True))
    assert 0 < ours.accuracy < ours.correct.float().mean()


def test_apgd_and_square_equal_direct_calls_bit_for_bit(network, data):
    x, y = data
    eps, seed = float(EPS), 7
    direct = {
        "apgd_ce": APGDAttack(network, n_restarts=1, eps=eps, seed=seed, device="cpu"),
        "square": SquareAttack(network, eps=eps, n_queries=QUERIES, seed=seed, device="cpu", resc_schedule=False),
    }
    for kind, attack in direct.items():
        channels_last = x.to(memory_format=torch.channels_last)
        with under_attack(network):
            ours = packaged.adversarial(kind, network, channels_last, y, eps, seed)
        assert torch.equal(ours, attack.perturb(x, y))
        assert (ours - x).abs().max() <= eps + 1e-6
        assert 0 <= ours.min() <= ours.max() <= 1
        assert not torch.equal(ours, packaged.adversarial(kind, network, x, y, eps, seed + 1))


@pytest.mark.parametrize(
    "attack", [ApgdCe(eps=EPS), ApgdDlr(eps=EPS), Fab(eps=EPS), Square(eps=EPS), PgdCw(eps=EPS, steps=5)]
)
def test_a_part_leaves_all_as_found(network, data, attack):
    model = copy.deepcopy(network).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    outcome = run(attack, model, (data[0][:6], data[1][:6]))
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model[:3]] == [True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert [part for part, _ in outcome.parts] == [attack]


def test_one_image_and_none(network, data):
    x, y = data
    right = int((network(x).argmax(1) == y).nonzero()[0])
    for chosen in ([right], [right, right]):
        outcome = run(AutoAttack(eps="1/2550", batch_size=1), network, (x[chosen], y[chosen]))
        assert outcome.accuracy == 1
    wrong = (network(x).argmax(1) + 1) % CLASSES
    outcome = run(AutoAttack(eps=EPS), network, (x, wrong))  # nothing to attack: no part is called
    assert outcome.accuracy == 0
    assert not any(fooled.any() for _, fooled in outcome.parts)


class KilledError(Exception):
    pass


def test_a_killed_attack_goes_on_with_the_next_batch(network, data, tmp_path):
    data, attack, planned = (data[0][:9], data[1][:9]), AutoAttack(eps="8/255", batch_size=4), []
    whole = run(attack, network, data, before_batch=planned.append)
    done, killed, outcome = [], 0, None

    def kill(what: str) -> None:
        """Every third time."""
        if len(done) % 3 == 2:
            done.append(None)
            raise KilledError
        done.append(what)

    while outcome is None:
        try:
            outcome = run(attack, network, data, folder=tmp_path, before_batch=kill)
        except KilledError:
            killed += 1
            if killed == 2:
                (damaged,) = tmp_path.glob("*-0-0.json")
                damaged.write_bytes(damaged.read_bytes()[:-9])
    done = [what for what in done if what]
    assert sorted(done) == sorted([*planned, planned[0]])  # the damaged batch twice, all others once
    assert killed > 2
    assert torch.equal(outcome.left()[-1], whole.left()[-1])
    done.clear()
    run(attack, network, data, folder=tmp_path, before_batch=done.append)
    assert not done
    for other in (Square(eps="8/255"), Square(eps="9/255")):
        run(other, network, data, folder=tmp_path, before_batch=done.append)
        assert done
        done.clear()


def test_what_is_kept_of_a_batch_is_of_its_images(network, data, tmp_path):
    """Another order of attacks leaves other images to the next one."""
    attacked = Attacked(lambda: network, data[0].__getitem__, data[1], (0,), tmp_path)
    right = (network(data[0]).argmax(1) == data[1]).nonzero().flatten()
    for batch in right[:4].split(2):
        attacked.batch(EvalPgd(eps=EPS, steps=2), 0, 0, batch)
    assert len(list(tmp_path.iterdir())) == 2


def test_every_radius_has_its_own_noise_and_every_batch_the_same(network, data, monkeypatch):
    seen = []

    def survivors(attack, model, x, y, generator):
        seen.append((attack.eps, generator.initial_seed()))
        return torch.ones_like(y, dtype=torch.bool)

    monkeypatch.setattr("tamnas.evaluation.attacked._survivors", survivors)
    for eps in ("8/255", "9/255"):
        run(EvalPgd(eps=eps, steps=1, batch_size=10), network, data)
    assert len(seen) > 4
    assert len(set(seen)) == len({seed for _, seed in seen}) == 2


def test_the_first_part_is_what_it_is_alone(network, data):
    alone, total = (run(attack, network, data) for attack in (ApgdCe(eps=EPS), AutoAttack(eps=EPS)))
    assert torch.equal(alone.left()[0], total.left()[0])


@pytest.mark.parametrize("classes", [2, 3])
def test_autoattack_needs_four_classes(classes):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(48, classes)), torch.rand(8, 3, 4, 4)
    with pytest.raises(InputError, match="autoattack needs 4 classes; there are"):
        run(AutoAttack(eps=EPS), model, (x, model(x).argmax(1)))


# -- masked gradients -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_large_scale_masks_the_cross_entropy_and_neither_the_margin_nor_autoattack(network, data):
    masked = Scaled(network, 1e4)
    left = {
        name: (run(attack, network, data).accuracy, run(attack, masked, data).accuracy)
        for name, attack in {
            "pgd": EvalPgd(eps=EPS, steps=20), "cw": PgdCw(eps=EPS, steps=20), "autoattack": AutoAttack(eps=EPS)
        }.items()
    }  # fmt: skip
    assert left["pgd"][1] > left["pgd"][0] + 0.2
    assert left["cw"][0] < run(EvalPgd(eps=EPS, steps=20), network, data).correct.float().mean() - 0.2
    assert left["cw"][1] == pytest.approx(left["cw"][0], abs=0.05)
    assert left["autoattack"][1] == pytest.approx(left["autoattack"][0], abs=0.05)


# -- images ---------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=60), data=st.data())
def test_a_balanced_subset(labels, data):
    labels = torch.tensor(labels)
    count = data.draw(st.integers(1, len(labels)))
    chosen = balanced(labels, count)
    assert len(chosen) == count
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    held, there = (torch.bincount(one, minlength=6) for one in (labels[chosen], labels))
    short = held[(held < there)]  # of classes with images left, none has two fewer than another class
    assert len(short) == 0 or held.max() <= short.min() + 1
    if count > 1:
        assert set(balanced(labels, count - 1).tolist()) < set(chosen.tolist())
    assert torch.equal(balanced(labels, None), torch.arange(len(labels)))


def test_more_images_than_there_are(network, data):
    with pytest.raises(InputError, match="attack square: images is 31; there are 30 test images"):
        run(Square(eps=EPS, images=31), network, data)


# -- rows -----------------------------------------------------------------------------------------


def test_rows_of_an_attack_beside_others_by_hand():
    bits = lambda text: torch.tensor([bit == "1" for bit in text])  # noqa: E731
    attack = AutoAttack(eps="8/255")
    parts = [
        (part, bits(text)) for part, text in zip(attack.parts, ("010000", "000000", "001000", "000100"), strict=True)
    ]
    outcome = Outcome(attack, torch.tensor([0, 1, 2, 3, 5, 6]), bits("111110"), tuple(parts))
    pgd = [
        Hits(Pgd(eps=eps, steps=steps), bits("1111111"), bits(fooled))
        for eps, steps, fooled in (("4/255", 9, "1000000"), ("8/255", 9, "1001000"), ("9/255", 9, "1111111"))
    ]
    rows = attack_rows(outcome, [*pgd, *hits(outcome, 7)])
    assert [(row["role"], row["name"], round(6 * row["accuracy"]), row["missed"]) for row in rows] == [
        ("clean", "clean", 5, None),
        ("beside", "pgd9_8_255", 3, 1),  # one of its two stands under AutoAttack
        ("part", "APGD-CE", 4, None),
        ("part", "APGD-DLR targeted", 4, None),
        ("part", "FAB targeted", 3, None),
        ("part", "Square", 2, 0),  # the one it fooled PGD did, too
        ("worst", "worst", 1, None),
    ]
    (square,) = [row for row in attack_rows(outcome, hits(outcome, 7)) if row["name"] == "Square"]
    assert square["missed"] == 1
    # alone, or beside attacks with gradients of a smaller radius, it says nothing of gradients
    alone = Outcome(Square(eps="8/255"), outcome.chosen, outcome.correct, (parts[3],))
    for others in (hits(alone, 7), [pgd[0], *hits(alone, 7)]):
        assert [row["missed"] for row in attack_rows(alone, others) if row["role"] == "part"] == [None]
    # nor first in an ensemble, whose gradients never met what it fooled
    first = Outcome(attack, outcome.chosen, outcome.correct, (parts[3], parts[0]))
    for others, missed_by in ((hits(first, 7), None), ([pgd[1], *hits(first, 7)], 0)):
        assert [row["missed"] for row in attack_rows(first, others) if row["role"] == "part"] == [missed_by, None]
    # an attack that ran on some of these images alone says nothing of the worst case
    some = Hits(Square(eps="8/255"), bits("1111110"), bits("1111110"))
    assert attack_rows(outcome, [some, *hits(outcome, 7)]) == attack_rows(outcome, hits(outcome, 7))
    # what ran alone stands beside, another ensemble's part does not
    others = [
        Hits(PgdCw(eps="8/255", steps=3), given := bits("1111111"), given),
        Hits(Square(eps="8/255"), given, given, False),
    ]
    assert [row["name"] for row in attack_rows(outcome, others) if row["role"] == "beside"] == ["pgdcw3_8_255"]


def test_images_that_a_smaller_radius_finds_and_a_larger_one_misses_by_hand():
    def square(eps: int, fooled: str, given: str = "1111") -> Hits:
        return Hits(Square(eps=f"{eps}/255"), *(torch.tensor([bit == "1" for bit in text]) for text in (given, fooled)))

    small, own, large = square(4, "1100"), square(8, "1010"), square(9, "1111")
    assert [missed([hit], [small, own, large]) for hit in (small, own, large)] == [0, 1, 0]
    assert missed([own, square(8, "0100")], [small]) == 0  # of two parts, one finds it
    assert missed([square(8, "0000", "1100")], [small]) == 2
    assert missed([own], [square(8, "0111")]) == 0  # no smaller radius
    assert missed([own], [square(4, "1100", "1101")]) == 0  # did not run on all of these images
    assert missed([own], [Hits(PgdCw(eps="4/255", steps=3), small.given, small.fooled)]) == 0  # another attack
