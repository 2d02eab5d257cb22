"""The training loop on tiny networks: bits, schedules, the best epoch, and sampled paths."""

import copy
import itertools
import math

import pytest
import torch
from tiny import tiny_params
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from tamnas import checkpoint, supernet
from tamnas import step as step_module
from tamnas.awp import at_worst_weights
from tamnas.data import Split
from tamnas.device import Runtime
from tamnas.errors import DivergenceError
from tamnas.network import Subnet, Supernet
from tamnas.params import parse_params, resolve_row
from tamnas.plan import Attack, Augment, Recipe, RowPlan, Schedule
from tamnas.space import Architecture, SearchSpace
from tamnas.step import train_step
from tamnas.supernet import SampledPaths, supernet_tensors, train_phase
from tamnas.training import Outcome, Resume, Single, learning_rate, train
from tamnas.yopo import start_noise

CPU = Runtime(torch.device("cpu"), None)
SPACE = SearchSpace(
    num_classes=3, stem_channels=4, channels=(8, 12), repeats=(1, 2), strides=(2, 1), head=(8, 16, 16),
    blocks=(0, 3, 6, 20), ratios=(0.4, 1.0, 1.6, 2.0),
)  # fmt: skip
ARCH = Architecture((0, 6, 20), (1.0, 0.4, 1.6))
ATTACK = Attack(eps="8/255", step_size="5/255", m=1, n=2)
AUGMENT = Augment(pad=1, flip=True)


def recipe(epochs: int = 4, schedule: dict | None = None, **changed) -> Recipe:
    setting = {"batch_size": 16, "lr": 0.05, "weight_decay": 5e-4, "epochs": epochs}
    return Recipe(**(setting | changed), schedule=Schedule(**(schedule or {"kind": "milestones"})))


@pytest.fixture(scope="module")
def split() -> Split:
    """Three classes told apart by where they are bright; 52 images are 3 batches of 16 and a rest."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(52) % 3
    images = torch.randint(0, 120, (52, 3, 8, 8), generator=generator)
    for label in range(3):
        images[labels == label, :, 2 * label : 2 * label + 3] += 130
    return Split(images.to(torch.uint8), labels, 255)


def network(seed: int = 0, arch: Architecture = ARCH) -> Subnet:
    return Subnet(SPACE, arch, torch.Generator().manual_seed(seed))


def run(trainee, split, steps=None, **changed) -> Outcome:
    setting = {"recipe": recipe(), "attack": ATTACK, "augment": AUGMENT, "key": (0, "test"), "runtime": CPU}
    return train(trainee, split, **(setting | changed))


def equal(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- learning rate ------------------------------------------------------------------------------


def scheduled(make, epochs: int, lr: float = 0.1) -> list[float]:
    """Learning rates of a torch scheduler that steps once an epoch."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = make(optimiser), []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def ours(plan: Recipe) -> list[float]:
    return [learning_rate(plan, epoch) for epoch in range(plan.epochs)]


def test_milestones():
    plan = recipe(10, {"kind": "milestones", "milestones": (2, 4, 8), "factor": 0.1}, lr=0.1)
    expected = scheduled(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4, 8], gamma=0.1), 10)
    assert ours(plan) == pytest.approx(expected)
    assert learning_rate(plan, 1.99) == 0.1
    assert learning_rate(plan, 2) == pytest.approx(0.01)


def test_cosine():
    plan = recipe(7, {"kind": "cosine"}, lr=0.1)
    expected = scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 7), 7)
    assert ours(plan) == pytest.approx(expected)
    assert learning_rate(plan, 3.5) == pytest.approx(0.05)


def test_one_cycle():
    steps, warmup = 2000, 6
    plan = recipe(20, {"kind": "one_cycle", "warmup": warmup}, lr=0.1)
    found = [learning_rate(plan, 20 * step / steps) for step in range(steps)]
    expected = scheduled(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, steps, pct_start=warmup / 20, cycle_momentum=False), steps
    )  # its phases end one step early
    assert found == pytest.approx(expected, rel=0.01, abs=1e-4)
    assert learning_rate(plan, 0) == pytest.approx(0.1 / 25)
    assert learning_rate(plan, warmup) == pytest.approx(0.1)
    assert learning_rate(plan, 20) == pytest.approx(0.1 / 25e4)


def test_warm_up_is_linear_then_the_schedule_runs():
    plan = recipe(12, {"kind": "cosine", "warmup": 4}, lr=0.1)
    assert [learning_rate(plan, epoch) for epoch in (0, 1, 2.5)] == pytest.approx([0, 0.025, 0.0625])
    rest = scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8), 8)
    assert ours(plan)[4:] == pytest.approx(rest)
    stepped = recipe(12, {"kind": "milestones", "milestones": (2, 6), "warmup": 4}, lr=0.1)
    assert [learning_rate(stepped, epoch) for epoch in (3.9, 4, 5.9, 6)] == pytest.approx([0.0975, 0.01, 0.01, 0.001])


@pytest.mark.parametrize(
    "schedule",
    [
        {"kind": "cosine"},
        {"kind": "cosine", "warmup": 3},
        {"kind": "one_cycle", "warmup": 6},
        {"kind": "milestones", "milestones": (2, 9), "warmup": 1},
    ],
    ids=str,
)
def test_two_phases_share_one_schedule(schedule):
    whole = recipe(12, schedule)
    first = recipe(5, schedule | {"start": 0, "total": 12})
    second = recipe(7, schedule | {"start": 5, "total": 12})
    assert ours(first) + ours(second) == pytest.approx(ours(whole))
    assert len(set(ours(whole))) > 2


def test_paper_schedules_restart_with_the_joint_phase():
    block = recipe(500, {"kind": "milestones", "milestones": (200, 400, 450), "total": 500}, lr=0.1)
    joint = recipe(500, {"kind": "milestones", "milestones": (100, 200, 300), "total": 500}, lr=0.1)
    assert [learning_rate(block, e) for e in (199, 200, 449, 499)] == pytest.approx([0.1, 0.01, 0.001, 1e-4])
    assert [learning_rate(joint, e) for e in (0, 99, 100, 499)] == pytest.approx([0.1, 0.1, 0.01, 1e-4])


def test_every_step_uses_its_learning_rate(split, monkeypatch):
    used = []

    def spy(model, optimiser, *args):
        used.append([group["lr"] for group in optimiser.param_groups])
        return torch.ones(3)

    monkeypatch.setattr(step_module, "train_step", spy)
    plan = recipe(3, {"kind": "cosine", "warmup": 1})
    outcome = run(Single(network(), plan), split, recipe=plan)
    assert used == [[learning_rate(plan, epoch + step / 3)] for epoch in range(3) for step in range(3)]
    assert [row["lr"] for row in outcome.history] == [learning_rate(plan, epoch) for epoch in range(3)]


# -- beyond the paper ---------------------------------------------------------------------------


def test_label_smoothing_by_hand(split):
    model, (x, y) = network(), (split.images[:16] / 255, split.labels[:16])
    plan = recipe(label_smoothing=0.3)
    found = train_step(copy.deepcopy(model), sgd_of(model), x, y, torch.zeros_like(x), ATTACK, plan, CPU)[0]
    plain = train_step(copy.deepcopy(model), sgd_of(model), x, y, torch.zeros_like(x), ATTACK, recipe(), CPU)[0]
    logits = model.train()(x).log_softmax(1)
    difference = 0.3 * (-logits.mean() - F.nll_loss(logits, y))
    assert (found - plain).item() == pytest.approx(difference.item(), abs=1e-5)


def sgd_of(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def test_the_average_follows_by_its_decay(split):
    plan = recipe(ema=0.15)
    trainee = Single(network(), plan)
    expected = {name: value.clone() for name, value in trainee.model.state_dict().items() if value.is_floating_point()}
    for step, start in enumerate((0, 16, 32, 0)):
        x, y = split.images[start : start + 16] / 255, split.labels[start : start + 16]
        train_step(*trainee.at(0, 0), x, y, torch.zeros_like(x), ATTACK, plan, CPU)
        trainee.stepped()
        now = {
            name: tensor.clone() for name, tensor in trainee.model.state_dict().items() if tensor.is_floating_point()
        }
        decay = min(0.15, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in now}
    for name, tensor in expected.items():
        assert_close(trainee.network.state_dict()[name], tensor)
    assert not torch.equal(trainee.network.first_layer.weight, trainee.model.first_layer.weight)


def test_the_average_is_what_is_validated_and_kept(split):
    trainee = Single(network(), recipe(ema=0.9))
    validated = []

    def validate(model, epoch):
        validated.append(model)
        return {"validation_clean": 0.5, "validation_robust": 0.5}

    outcome = run(trainee, split, recipe=recipe(ema=0.9), validate=validate)
    assert all(model is trainee.average.network for model in validated)
    assert equal(outcome.best, dict(trainee.network.state_dict()))
    assert not torch.equal(outcome.best["first_layer.weight"], trainee.model.first_layer.weight)


def test_worst_weights_by_hand(split):
    model, (x, y) = network(), (split.images[:16] / 255, split.labels[:16])
    reference, before = copy.deepcopy(model).train(), {k: v.clone() for k, v in model.state_dict().items()}
    F.cross_entropy(reference(x), y).backward()
    plain = F.cross_entropy(model.train()(x), y).item()
    model.load_state_dict(before)

    def objective():
        return (F.cross_entropy(model(x), y),)

    with at_worst_weights(model, objective, 0.01):
        for (name, moved), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
            if moved.dim() > 1:
                direction = theirs.grad / theirs.grad.norm().clamp_min(1e-12)  # layers behind dead units have none
                away = 0.01 * before[name].norm() * direction
                assert_close(moved.detach(), before[name] + away, rtol=1e-4, atol=1e-6)
            else:
                assert torch.equal(moved, before[name])
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())  # by the pass for g
        assert objective()[0].item() > plain
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_a_step_at_worst_weights_takes_their_gradient(split):
    start, (x, y) = network().train(), (split.images[:16] / 255, split.labels[:16])
    ends = {}
    for awp in (None, 1e-9, 0.05):
        model = copy.deepcopy(start)
        train_step(model, sgd_of(model), x, y, torch.zeros_like(x), ATTACK, recipe(awp=awp), CPU)
        ends[awp] = model.first_layer.weight.detach()
    assert_close(ends[1e-9], ends[None])
    assert not torch.allclose(ends[0.05], ends[None], rtol=1e-3, atol=1e-5)


# -- one step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6])
def test_a_step_is_trades_written_out(split, clip_norm, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    eps, step, lam = 8 / 255, 5 / 255, 0.5
    attack = Attack(eps="8/255", step_size="5/255", m=2, n=1, lam=lam)
    model = network().double()
    twin, plan = copy.deepcopy(model), recipe(clip_norm=clip_norm)
    trainee, theirs = Single(model, plan), torch.optim.SGD(twin.parameters(), 0.05, 0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)
    for start in (0, 16, 32):
        x = split.images[start : start + 16].double() / 255
        y, noise = split.labels[start : start + 16], start_noise(x, eps, generator)
        figures = train_step(*trainee.at(0, 0), x, y, noise, attack, plan, CPU)

        twin.eval()
        with torch.no_grad():
            soft = twin(x).softmax(1)
        moved = x + noise
        for _ in range(2):
            moved = moved.detach().requires_grad_(True)
            kl = F.kl_div(twin(moved).log_softmax(1), soft, reduction="sum")
            (gradient,) = torch.autograd.grad(kl, moved)
            moved = moved.detach() + step * gradient.sign()
            moved = torch.max(torch.min(moved, x + eps), x - eps).clamp(0, 1)
        twin.train()
        clean, robust = twin(x), twin(moved)
        p = clean.softmax(1)
        kl = (p * (p.log() - robust.log_softmax(1))).sum(1).mean()
        loss = F.cross_entropy(clean, y) + kl / lam
        theirs.zero_grad()
        loss.backward()
        if clip_norm is not None:
            total = torch.cat([q.grad.flatten() for q in twin.parameters()]).norm()
            assert (total > clip_norm) == (clip_norm == 0.05)
            for q in twin.parameters():
                q.grad *= min(1, clip_norm / total)
        theirs.step()
        hits = [(logits.argmax(1) == y).sum().item() for logits in (clean, robust)]
        assert figures.tolist() == pytest.approx([loss.item(), *hits])
    for name, tensor in twin.state_dict().items():
        assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=1e-8)
    assert not figures.requires_grad


def test_momentum_and_weight_decay_by_hand(split):
    model, plan = network(), recipe(lr=0.1, momentum=0.8, weight_decay=0.01)
    trainee = Single(model, plan)
    weight, velocity = model.first_layer.weight, torch.zeros_like(model.first_layer.weight)
    x, y = split.images[:16] / 255, split.labels[:16]
    for _ in range(3):
        before = weight.detach().clone()
        train_step(*trainee.at(0, 0), x, y, torch.zeros_like(x), ATTACK, plan, CPU)
        velocity = 0.8 * velocity + weight.grad + 0.01 * before
        assert_close(weight.detach(), before - 0.1 * velocity)


# -- the loop -----------------------------------------------------------------------------------


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
    figures = iter(torch.tensor([[1.0, 16, 8], [2, 8, 0], [6, 0, 4]] * 2))
    monkeypatch.setattr(step_module, "train_step", lambda *args: next(figures))
    outcome = run(Single(network(), recipe(2)), split, recipe=recipe(2))
    for row in outcome.history:
        assert (row["loss"], row["train_clean"], row["train_robust"]) == (3, 0.5, 0.25)


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
        return torch.ones(3)

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


class StopError(Exception):
    """As if the process had been killed."""


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


class StopAfter:
    """A progress bar that stops the run in epoch `stop`, after its checkpoint was written."""

    def skip(self, done):
        pass

    def __init__(self, stop: int):
        self.left = stop

    def step(self, **figures):
        if self.left == 0:
            raise StopError
        self.left -= 1


QUICK = recipe(batch_size=26)  # two steps an epoch


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


@pytest.mark.parametrize("stop", [0, 2])
def test_an_interrupted_average_goes_on(split, tmp_path, stop):
    averaged = QUICK.model_copy(update={"ema": 0.9})
    whole, trainee = Single(network(), averaged), Single(network(), averaged)
    run(whole, split, recipe=averaged)
    resume = Resume(tmp_path / "state.safetensors", 0)
    with pytest.raises(StopError):
        run(trainee, split, recipe=averaged, resume=resume, progress=StopAfter(stop))
    again = Single(network(seed=99), averaged)
    run(again, split, recipe=averaged, resume=resume)
    assert equal(again.tensors(), whole.tensors())
    assert any(name.startswith("average.") for name in again.tensors())


def test_a_finished_run_is_not_trained_again(undisturbed, split, tmp_path, monkeypatch):
    resume = Resume(tmp_path / "state.safetensors", 1000)
    run(Single(network(), QUICK), split, recipe=QUICK, resume=resume, validate=Validation())
    monkeypatch.setattr(step_module, "train_step", None)
    trainee = Single(network(seed=99), QUICK)
    outcome = run(trainee, split, recipe=QUICK, resume=resume, validate=Validation())
    assert equal(trainee.tensors(), undisturbed[0])
    assert outcome.history == undisturbed[1].history


def test_training_without_momentum_can_be_saved(split, tmp_path):
    plan = recipe(2, momentum=0.0)
    expected, trainee = Single(network(), plan), Single(network(), plan)
    run(expected, split, recipe=plan)
    run(trainee, split, recipe=plan, resume=Resume(tmp_path / "state.safetensors", 0))
    assert equal(trainee.model.state_dict(), expected.model.state_dict())


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


# -- paths of a supernet ------------------------------------------------------------------------


def row_plan(every: dict, phase: str = "joint", budget=None, span: str = "both") -> RowPlan:
    """A plan with SPACE's geometry; both phases have 4 epochs with batches of 16."""
    raw = tiny_params()
    raw["data"]["digits"].update(classes=3)
    raw["network"].update(stem_channels=4, channels=[8, 12], repeats=[1, 2], strides=[2, 1])
    raw["network"]["head"] = {"conv": 8, "hidden": 16, "out": 16}
    raw["space"] = {"blocks": [0, 3, 6, 20], "ratios": [0.4, 1.0, 1.6, 2.0]}
    raw["supernet"].update(batch_size=16, resample_every=every, lr=0.05)
    raw["supernet"]["schedule"] = {"kind": "cosine", "warmup": 1, "span": span}
    raw["supernet"]["block"] = {"epochs": 4}
    raw["supernet"]["joint"] = {"epochs": 4, "open_ratios": {"first": 2, "after": 2, "every": 1}}
    raw["supernet"][phase]["budget"] = budget
    raw["run"]["rows"], raw["modes"] = {"one": {"dataset": "digits", "mode": "base"}}, {"base": {}}
    plan = resolve_row(parse_params(raw), "one")
    assert SearchSpace.from_params(plan) == SPACE
    return plan


def supernet_with(seed: int = 0) -> Supernet:
    """A supernet whose momentum is not zero."""
    generator = torch.Generator().manual_seed(seed)
    made = Supernet(SPACE, generator)
    for tensor in made.momentum.values():
        tensor.normal_(0, 0.01, generator=generator)
    return made


def paths(plan: RowPlan, phase: str = "joint", steps: int = 3, seed: int = 0) -> SampledPaths:
    return SampledPaths(supernet_with(seed), plan, phase, steps, (0, "paths"))


def visited(trainee: SampledPaths, epochs: int = 4) -> list[Architecture]:
    """The architecture of every step of a phase, without training."""
    found = []
    for epoch in range(epochs):
        for step in range(trainee.steps):
            subnet, optimiser = trainee.at(epoch, step)
            assert subnet.training
            assert [id(p) for p in optimiser.param_groups[0]["params"]] == [id(p) for p in subnet.parameters()]
            found.append(subnet.arch)
    return found


@pytest.mark.parametrize(
    ("every", "run_length"), [({"steps": 1}, 1), ({"steps": 5}, 5), ({"epochs": 1}, 3), ({"epochs": 2}, 6)], ids=str
)
def test_architecture_changes_when_it_should(every, run_length):
    archs = visited(paths(row_plan(every)))
    runs = [archs[start : start + run_length] for start in range(0, 12, run_length)]
    assert all(len(set(one)) == 1 for one in runs)
    # 4 x 4 x 4 genes per layer: neighbours of equal architecture would be a coincidence
    assert all(one[0] != other[0] for one, other in itertools.pairwise(runs))
    assert visited(paths(row_plan(every))) == archs
    assert all(SPACE.is_legal(arch) for arch in archs)


def test_a_draw_depends_on_its_number_alone():
    trainee = paths(row_plan({"steps": 1}))
    archs = visited(trainee)
    late = paths(row_plan({"steps": 1}))
    assert late.at(3, 1)[0].arch == archs[10]
    other = SampledPaths(supernet_with(), row_plan({"steps": 1}), "joint", 3, (0, "other"))
    assert visited(other) != archs


def test_block_phase_uses_the_largest_ratio():
    archs = visited(paths(row_plan({"steps": 1}), "block"))
    assert {ratio for arch in archs for ratio in arch.ratios} == {2.0}
    assert {block for arch in archs for block in arch.blocks} == {0, 3, 6, 20}


@pytest.mark.parametrize("every", [{"steps": 1}, {"epochs": 1}], ids=str)
def test_joint_phase_opens_ratios(every):
    opened = [{1.6, 2.0}, {1.6, 2.0}, {1.0, 1.6, 2.0}, {0.4, 1.0, 1.6, 2.0}]
    used: list[set] = [set() for _ in opened]
    for key in range(5):
        trainee = SampledPaths(supernet_with(), row_plan(every), "joint", 8, (key, "paths"))
        for epoch, step in itertools.product(range(4), (0, 3, 7)):
            used[epoch] |= set(trainee.at(epoch, step)[0].arch.ratios)
    assert used == opened


@pytest.mark.parametrize("phase", ["block", "joint"])
def test_paths_stay_within_the_phase_budget(phase):
    low, high = SPACE.parameter_range(SPACE.ratios[-1:] if phase == "block" else SPACE.ratios[-2:])
    budget = [low + (high - low) // 3, low + (high - low) * 2 // 3]

    def sizes_under(budget):
        trainee = paths(row_plan({"steps": 1}, phase, budget), phase, steps=10)
        return [SPACE.parameters(trainee.architecture(draw)) for draw in range(30)]

    sizes, free = sizes_under(budget), sizes_under(None)
    assert all(budget[0] <= size <= budget[1] for size in sizes)
    assert not all(budget[0] <= size <= budget[1] for size in free)


def path_mask(net: Supernet, archs) -> dict[str, torch.Tensor]:
    """Of every tensor of the supernet: which numbers lie on one of the paths."""
    mask = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in net.state_dict().items()}
    for arch in archs:
        for _, home, index in net.slices(Subnet(SPACE, arch), arch):
            mask[home][index] = True
    return mask


def test_off_the_path_nothing_changes(split):
    plan = row_plan({"steps": 2})
    trainee = paths(plan)
    before = {name: tensor.clone() for name, tensor in supernet_tensors(trainee.supernet).items()}
    setting = plan.supernet.joint.recipe.model_copy(update={"epochs": 1})
    archs = {trainee.architecture(0), trainee.architecture(1)}
    run(trainee, split, recipe=setting)
    after = trainee.tensors()
    mask = path_mask(trainee.supernet, archs)
    assert 0.02 < torch.cat([one.flatten() for one in mask.values()]).double().mean() < 0.6
    for name, tensor in after.items():
        on = mask[name.partition(".")[2]]
        assert torch.equal(tensor[~on], before[name][~on]), name
        if on.any():
            assert (tensor != before[name])[on].double().mean() > 0.5, name
    assert any(not on.all() and on.any() for on in mask.values())


def test_one_fixed_path_trains_like_a_network_of_its_own(split, monkeypatch):
    plan = row_plan({"steps": 1})
    setting = plan.supernet.joint.recipe
    trainee = paths(plan)
    for tensor in trainee.supernet.momentum.values():
        tensor.zero_()
    alone = Single(trainee.supernet.extract(ARCH), setting)
    monkeypatch.setattr(trainee, "architecture", lambda draw: ARCH)
    histories = [run(one, split, recipe=setting).history for one in (trainee, alone)]
    trainee.tensors()
    assert histories[0] == histories[1]
    assert equal(trainee.supernet.extract(ARCH).state_dict(), alone.model.state_dict())


def test_momentum_of_a_path_goes_on_when_it_returns(split, monkeypatch):
    one, other = Architecture((0, 3, 6), (1.0, 2.0, 0.4)), Architecture((3, 6, 20), (2.0, 1.6, 1.0))
    plan = row_plan({"epochs": 1})
    trainee = paths(plan)
    monkeypatch.setattr(trainee, "architecture", lambda draw: (one, other, one)[draw])

    def buffers(epoch):
        subnet, optimiser = trainee.at(epoch, 0)
        return {name: optimiser.state[p]["momentum_buffer"].clone() for name, p in subnet.named_parameters()}

    met: list[dict] = []  # at the start and end of every epoch
    noise_free = {"attack": ATTACK, "recipe": recipe(), "runtime": CPU}
    for epoch in range(3):
        met.append(buffers(epoch))
        model, optimiser = trainee.at(epoch, 0)
        for step in range(3):
            x, y = split.images[16 * step : 16 * step + 16] / 255, split.labels[16 * step : 16 * step + 16]
            train_step(model, optimiser, x, y, torch.zeros_like(x), **noise_free)
        met.append(buffers(epoch))
    _, first_end, _, second_end, third_start, _ = met
    layers = [name for name in third_start if name.startswith("rest.layers.")]
    assert layers
    for name in layers:
        # no block in common: what the first visit left is found again
        assert torch.equal(third_start[name], first_end[name])
        assert third_start[name].any()
    for name in set(third_start) - set(layers):
        # stem and head are shared and have moved on
        assert torch.equal(third_start[name], second_end[name])
        assert not torch.equal(third_start[name], first_end[name])


@pytest.mark.parametrize(("every", "stop"), [({"steps": 2}, 0), ({"steps": 2}, 2), ({"epochs": 3}, 1)], ids=str)
def test_interrupted_phase_ends_with_the_same_bits(split, tmp_path, every, stop):
    # neither 2 steps nor 3 epochs divide the phase: a path is cut in two by the interruption
    plan = row_plan(every)
    setting = plan.supernet.joint.recipe
    undisturbed = paths(plan)
    expected = run(undisturbed, split, recipe=setting).history
    resume = Resume(tmp_path / "state.safetensors", 0)
    with pytest.raises(StopError):
        run(paths(plan), split, recipe=setting, resume=resume, progress=StopAfter(stop))
    resumed = paths(plan, seed=99)
    assert run(resumed, split, recipe=setting, resume=resume).history == expected
    assert equal(resumed.tensors(), undisturbed.tensors())


@pytest.mark.parametrize("span", ["both", "phase"])
def test_momentum_at_the_start_of_the_joint_phase(split, tmp_path, monkeypatch, span):
    start, seen = tmp_path / "block.safetensors", {}
    stored = supernet_with(7)
    checkpoint.write_weights(start, supernet_tensors(stored), {})

    def spy(trainee, *args, recipe, key, **kwargs):
        seen.update(momentum=trainee.supernet.momentum, weights=trainee.supernet.state_dict())
        seen.update(buffers=trainee.at(0, 0)[1].state.values(), recipe=recipe)
        return Outcome()

    monkeypatch.setattr(supernet, "train", spy)
    plan = row_plan({"epochs": 1}, span=span)
    assert plan.supernet.joint.keep_momentum == (span == "both")
    train_phase(plan, "joint", split, start, CPU, Resume(tmp_path / "state.safetensors"))
    assert equal(seen["weights"], stored.state_dict())
    if span == "both":
        assert equal(seen["momentum"], stored.momentum)
    assert any(state["momentum_buffer"].any() for state in seen["buffers"]) == (span == "both")
    assert all(tensor.any() for tensor in seen["momentum"].values()) == (span == "both")
    assert seen["recipe"] == plan.supernet.joint.recipe


def test_a_resumed_joint_phase_does_not_lose_its_momentum(split, tmp_path):
    # without keep_momentum it is zeroed where the phase begins, not where it goes on
    plan, start = row_plan({"steps": 2}, span="phase"), tmp_path / "block.safetensors"
    checkpoint.write_weights(start, supernet_tensors(supernet_with(7)), {})
    whole, _ = train_phase(plan, "joint", split, start, CPU, Resume(tmp_path / "whole.safetensors", 0))
    resume = Resume(tmp_path / "state.safetensors", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supernet.Progress, "step", StopAfter(1).step)
        with pytest.raises(StopError):
            train_phase(plan, "joint", split, start, CPU, resume)
    resumed, outcome = train_phase(plan, "joint", split, start, CPU, resume)
    assert equal(supernet_tensors(resumed), supernet_tensors(whole))
    assert len(outcome.history) == 4


def test_block_phase_starts_from_seeded_weights(split, tmp_path, monkeypatch):
    monkeypatch.setattr(supernet, "train", lambda *args, **kwargs: Outcome())
    plan, resume = row_plan({"steps": 1}), Resume(tmp_path / "state.safetensors")
    nets = [
        train_phase(plan.model_copy(update={"seed": seed}), "block", split, None, CPU, resume)[0] for seed in (0, 0, 1)
    ]
    assert equal(supernet_tensors(nets[0]), supernet_tensors(nets[1]))
    assert not equal(supernet_tensors(nets[0]), supernet_tensors(nets[2]))
    assert not any(tensor.any() for tensor in nets[0].momentum.values())
