"""The training loop on tiny networks: one step by hand, bits, resuming, the best epoch, divergence."""

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from tamnas.attacks.ascent import uniform_start
from tamnas.config.sections import TrainingAttackPlan
from tamnas.data.loader import batches
from tamnas.errors import DivergenceError
from tamnas.pipeline import checkpoint
from tamnas.seeding import torch_generator
from tamnas.training import loop as loop_module
from tamnas.training import step as step_module
from tamnas.training.awp import at_worst_weights
from tamnas.training.loop import Resume, Single
from tamnas.training.step import train_step
from tests.helpers.toy_training import ATTACK, AUGMENT, CPU, QUICK, StopAfter, StopError, equal, network, recipe, run

PGD_AT = {"loss": "pgd_at", "lam": None}


def written_out_attack(model, x, y, noise, attack):
    """Of two steps: x + eta."""
    model, eps = copy.deepcopy(model).train(attack.bn == "batch"), 8 / 255
    with torch.no_grad():
        soft = model(x).softmax(1)
    moved = x + noise
    for _ in range(2):
        moved = moved.detach().requires_grad_(True)
        logits = model(moved)
        kl = F.kl_div(logits.log_softmax(1), soft, reduction="sum")
        objective = F.cross_entropy(logits, y, reduction="sum") if attack.loss == "pgd_at" else kl
        (gradient,) = torch.autograd.grad(objective, moved)
        moved = moved.detach() + 5 / 255 * gradient.sign()
        moved = torch.max(torch.min(moved, x + eps), x - eps).clamp(0, 1)
    return moved


@pytest.mark.parametrize(
    ("clip_norm", "smoothing", "awp", "changes"),
    [
        (None, 0.0, None, {}),
        (0.05, 0.1, None, {}),
        (1e6, 0.0, None, {"bn": "batch"}),
        (None, 0.0, 0.05, {}),
        (None, 0.0, None, PGD_AT),
        (None, 0.1, None, PGD_AT | {"bn": "batch"}),
        (None, 0.0, 0.05, PGD_AT),
    ],
)
def test_a_step_is_its_method_written_out(split, clip_norm, smoothing, awp, changes, monkeypatch):
    """TRADES, and PGD-AT (Madry et al. 2018), both attacked with either statistics of BatchNorm."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    eps, lam = 8 / 255, 0.5
    attack = TrainingAttackPlan(**({"eps": "8/255", "step_size": "5/255", "m": 2, "n": 1, "lam": lam} | changes))
    model = network().double()
    setting = {"clip_norm": clip_norm, "label_smoothing": smoothing, "awp": awp}
    twin, plan = copy.deepcopy(model), recipe(momentum=0.8, weight_decay=0.01, **setting)
    trainee, theirs = Single(model, plan), torch.optim.SGD(twin.parameters(), 0.05, 0.8, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)

    def losses():
        if attack.loss == "pgd_at":
            clean, robust = copy.deepcopy(twin.train())(x), twin(moved)
            return F.cross_entropy(robust, y, label_smoothing=smoothing), clean, robust
        clean, robust = twin.train()(x), twin(moved)
        p = clean.softmax(1)
        kl = (p * (p.log() - robust.log_softmax(1))).sum(1).mean()
        return F.cross_entropy(clean, y, label_smoothing=smoothing) + kl / lam, clean, robust

    for start in (0, 16, 32):
        x = split.images[start : start + 16].double() / 255
        y, noise = split.labels[start : start + 16], uniform_start(x, eps, generator)
        figures = train_step(*trainee.at(0, 0), x, y, noise, attack, plan, CPU)

        moved = written_out_attack(twin, x, y, noise, attack)
        with at_worst_weights(twin.train(), losses, awp) if awp else nullcontext():
            loss, clean, robust = losses()
            theirs.zero_grad()
            loss.backward()
        if clip_norm is not None:
            total = torch.cat([q.grad.flatten() for q in twin.parameters()]).norm()
            assert (total > clip_norm) == (clip_norm == 0.05)
            for q in twin.parameters():
                q.grad *= min(1, clip_norm / total)
        theirs.step()
        hits = [(logits.argmax(1) == y).sum().item() for logits in (clean, robust)]
        classes = len(set(clean.argmax(1).tolist()))
        assert figures.tolist() == pytest.approx([loss.item(), *hits, classes])
    for name, tensor in twin.state_dict().items():
        assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=1e-8)
    assert not figures.requires_grad


def test_loss_falls(split):
    outcome = run(Single(network(), recipe(8)), split, recipe=recipe(8))
    losses = [row["loss"] for row in outcome.history]
    assert losses[-1] < 0.8 * losses[0]
    assert outcome.history[-1]["train_clean"] > max(0.5, outcome.history[0]["train_clean"])
    assert all(row["train_robust"] <= row["train_clean"] + 0.1 for row in outcome.history)
    assert [row["epoch"] for row in outcome.history] == list(range(8))
    assert outcome.best_epoch is None
    assert not outcome.best


def test_training_curve_is_the_mean_over_steps(split, monkeypatch):
    figures = iter(torch.tensor([[1.0, 16, 8, 2], [2, 8, 0, 3], [6, 0, 4, 1]] * 2))
    monkeypatch.setattr(step_module, "train_step", lambda *args: next(figures))
    outcome = run(Single(network(), recipe(2)), split, recipe=recipe(2))
    for row in outcome.history:
        assert (row["loss"], row["train_clean"], row["train_robust"], row["train_classes"]) == (3, 0.5, 0.25, 3)


def test_same_key_same_bits(split):
    states, histories = [], []
    for key in ((0, "test"), (0, "test"), (1, "test")):
        model = network()
        histories.append(run(Single(model, recipe()), split, recipe=recipe(2), key=key).history)
        states.append(model.state_dict())
    assert equal(states[0], states[1])
    assert histories[0] == histories[1]
    assert not equal(states[0], states[2])


def test_every_epoch_has_its_own_order_and_noise(split, monkeypatch):
    seen = []

    def spy(model, optimiser, x, y, noise, *args):
        seen.append((x, y, noise))
        return torch.ones(4)

    monkeypatch.setattr(step_module, "train_step", spy)
    for _ in range(2):
        run(Single(network(), recipe(2)), split, recipe=recipe(2))
    first, second, again = seen[:3], seen[3:6], seen[6:]
    for one, other, same in zip(first, second, again[:3], strict=True):
        assert all(map(torch.equal, one, same))
        assert not any(map(torch.equal, one, other))
    epoch = torch.cat([y for _, y, _ in first])
    assert (epoch.bincount() - 16).abs().max() <= 2  # 48 of the 52 images, each once
    assert all(noise.abs().max() <= 8 / 255 for _, _, noise in first)
    assert len({noise.sum().item() for _, _, noise in seen[:6]}) == 6


@pytest.mark.parametrize(
    ("validated_at", "within"), [(None, True), (8 / 255, True), (4 / 255, True), (16 / 255, False)]
)
def test_overfitting_is_looked_for_within_the_training_radius(split, monkeypatch, validated_at, within):
    seen = []

    class Watched:
        def __init__(self, who, share, images, within):
            seen.append(within)

        def __call__(self, history):
            pass

    monkeypatch.setattr(loop_module, "Watch", Watched)
    run(Single(network(), recipe(1)), split, recipe=recipe(1), validated_at=validated_at)
    assert seen == [within]


@pytest.mark.parametrize(("changes", "spread"), [({}, 0.001), (PGD_AT, 8 / 255 / 3**0.5)])
def test_where_the_perturbation_starts(split, monkeypatch, changes, spread):
    """TRADES: normal noise of 0.001; PGD-AT: anywhere in the ball. Pixels at 0 and 1 take half of it."""
    seen = []

    def spy(model, optimiser, x, y, noise, *args):
        seen.append(noise[(x > 0.1) & (x < 0.9)])
        return torch.ones(4)

    monkeypatch.setattr(step_module, "train_step", spy)
    run(Single(network(), recipe(1)), split, recipe=recipe(1), attack=ATTACK.model_copy(update=changes))
    assert torch.cat(seen).std().item() == pytest.approx(spread, rel=0.1)


class Validation:
    """Pretends to validate; stops the run in epoch `stop`, before its checkpoint is written."""

    FIGURES = ((None, 0.9), (0.5, 0.5), (0.7, 0.6), (0.6, 0.9))  # (robust, clean) of each epoch

    def __init__(self, stop: int | None = None):
        self.stop, self.states = stop, {}

    def __call__(self, model, epoch):
        if epoch == self.stop:
            raise StopError
        self.states[epoch] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        robust, clean = self.FIGURES[epoch]
        return {"validation_robust": robust, "validation_clean": clean}


@pytest.fixture(scope="module")
def undisturbed(split):
    trainee = Single(network(), QUICK)
    outcome = run(trainee, split, recipe=QUICK, validate=Validation())
    return trainee.tensors(), outcome


EVERY_STOP = [(stop, when, 0) for stop in range(4) for when in ("before", "after")]
SELDOM_SAVED = [(1, "after", 1000), (3, "before", 1000)]


@pytest.mark.parametrize(("stop", "when", "seconds"), EVERY_STOP + SELDOM_SAVED)
def test_interrupted_and_resumed_gives_the_same_bits(undisturbed, split, tmp_path, stop, when, seconds):
    resume = Resume(tmp_path / "state.safetensors", seconds)
    with pytest.raises(StopError):
        run(
            Single(network(), QUICK), split, recipe=QUICK, resume=resume,
            validate=Validation(stop if when == "before" else None),
            progress=StopAfter(stop) if when == "after" else None,
        )  # fmt: skip
    # a new process: other weights until the checkpoint is read, or the same fresh start
    fresh = network(seed=0 if checkpoint.load_latest(resume.path) is None else 99)
    trainee, validation = Single(fresh, QUICK), Validation()
    outcome = run(trainee, split, recipe=QUICK, resume=resume, validate=validation)
    tensors, expected = undisturbed
    assert equal(trainee.tensors(), tensors)
    assert (outcome.history, outcome.best_epoch) == (expected.history, expected.best_epoch)
    assert equal(outcome.best, expected.best)
    repeated = 4 - stop - (when == "after")
    if seconds == 0:
        assert len(validation.states) == repeated
    else:
        assert len(validation.states) == 4  # nothing but the last epoch was to be saved


@pytest.mark.parametrize("stop", [0, 1, 2])
@pytest.mark.parametrize(
    ("changes", "more"), [({"ema": 0.9}, {}), ({"momentum": 0.0}, {}), ({}, {"clean_epochs": 2})], ids=str
)
def test_what_is_cut_off_goes_on_with_the_same_bits(split, tmp_path, changes, more, stop):
    plan, resume = QUICK.model_copy(update=changes), Resume(tmp_path / "state.safetensors", seconds=0)
    whole, rest = Single(network(), plan), Single(network(seed=99), plan)
    history = run(whole, split, recipe=plan, **more).history
    with pytest.raises(StopError):
        run(Single(network(), plan), split, recipe=plan, resume=resume, progress=StopAfter(stop), **more)
    assert run(rest, split, recipe=plan, resume=resume, **more).history == history
    assert equal(rest.tensors(), whole.tensors())


def test_a_finished_run_is_not_trained_again(undisturbed, split, tmp_path, monkeypatch):
    resume = Resume(tmp_path / "state.safetensors", 1000)
    run(Single(network(), QUICK), split, recipe=QUICK, resume=resume, validate=Validation())
    monkeypatch.setattr(step_module, "train_step", None)
    trainee = Single(network(seed=99), QUICK)
    outcome = run(trainee, split, recipe=QUICK, resume=resume, validate=Validation())
    assert equal(trainee.tensors(), undisturbed[0])
    assert outcome.history == undisturbed[1].history


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        (((None, 0.9), (0.5, 0.5), (0.7, 0.6), (0.6, 0.9)), 2),
        (((0.7, 0.6), (0.7, 0.8), (0.7, 0.7), (0.5, 1.0)), 1),  # then clean accuracy
        (((0.1, 0.1), (0.7, 0.8), (0.7, 0.8), (0.7, 0.7)), 2),  # then the later
        (((0.7, 0.8), (None, 1.0), (None, 1.0), (0.0, 0.0)), 0),
        (((None, 1.0),) * 4, None),
    ],
)
def test_best_epoch(split, monkeypatch, figures, best):
    monkeypatch.setattr(Validation, "FIGURES", figures)
    validation = Validation()
    outcome = run(Single(network(), recipe()), split, validate=validation)
    assert outcome.best_epoch == best
    # a copy of that epoch, not the weights that went on changing
    assert equal(outcome.best, validation.states[best] if best is not None else {})
    assert not equal(validation.states[0], validation.states[3])


class Poisoned(Single):
    """One weight becomes infinite just before the step `when`."""

    when = (1, 2)

    def at(self, epoch, step):
        if (epoch, step) == self.when:
            with torch.no_grad():
                self.model.rest.head.classes.bias[0] = math.inf
        return super().at(epoch, step)


@pytest.mark.parametrize("when", [(0, 0), (1, 2), (3, 1)])
def test_divergence_names_epoch_and_step(split, tmp_path, when):
    trainee = Poisoned(network(), recipe())
    trainee.when = when
    path = tmp_path / "state.safetensors"
    with pytest.raises(DivergenceError, match=f"epoch {when[0]}, step {when[1]} of 3"):
        run(trainee, split, resume=Resume(path, 0))
    state = checkpoint.load_latest(path)  # the last good state is kept, finite
    assert (state is None) == (when[0] == 0)
    if state is not None:
        tensors, meta = state
        assert meta["epoch"] == when[0]
        assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_the_first_epochs_train_on_clean_images_alone(split, monkeypatch):
    attacked = []
    monkeypatch.setattr(step_module, "perturb", lambda *given, **more: attacked.append(1))
    ours, theirs = network(), network()
    history = run(Single(ours, QUICK), split, recipe=QUICK, clean_epochs=QUICK.epochs).history
    assert not attacked
    assert {row["train_robust"] for row in history} == {None}
    trainee = Single(theirs, QUICK)
    for epoch in range(QUICK.epochs):
        for x, y in batches(split, QUICK.batch_size, AUGMENT, torch_generator(0, "test", "epoch", epoch)):
            model, optimiser = trainee.at(epoch, 0)
            optimiser.zero_grad()
            F.cross_entropy(model(x.to(memory_format=torch.channels_last)), y).backward()
            optimiser.step()
    assert equal(ours.state_dict(), theirs.state_dict())
