"""The fast path of a training step against the plain one; graphs need a GPU."""

import copy
import gc
import weakref
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tamnas.attacks.yopo import start_noise
from tamnas.config.images import AugmentParams
from tamnas.config.sections import RecipePlan, SchedulePlan, TrainingAttackPlan
from tamnas.data.loader import Split, steps_per_epoch
from tamnas.networks.baselines import baseline
from tamnas.networks.subnet import Subnet
from tamnas.pipeline.device import MEMORY_FORMAT, Runtime
from tamnas.pipeline.progress import Progress
from tamnas.space.space import SearchSpace
from tamnas.training import step
from tamnas.training.averaging import Average
from tamnas.training.loop import Single, train
from tamnas.training.step import Stepper, train_step

ATTACK = TrainingAttackPlan(eps=Fraction(8, 255), step_size=Fraction(2, 255), m=3, n=2)
PLAIN = RecipePlan(batch_size=8, lr=0.01, weight_decay=0, epochs=1, schedule=SchedulePlan(kind="milestones"))
CLIPPED = PLAIN.model_copy(update={"clip_norm": 1.0})
CPU = Runtime(torch.device("cpu"))


SMALL = SearchSpace(channels=(32, 40, 48), repeats=(1, 2, 2), strides=(2, 2, 1))


def networks(space: SearchSpace = SMALL) -> list[nn.Module]:
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(3)]
    models = [Subnet(space, arch, torch.Generator().manual_seed(0)) for arch in archs]
    return [*models, baseline("resnet20", 10, torch.Generator().manual_seed(0))]


def sgd(model: nn.Module, **options) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, **options)


def batch(seed: int, device="cpu", size: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(8, 3, size, size, generator=generator).to(memory_format=MEMORY_FORMAT)
    noise = start_noise(x, 8 / 255, generator)
    y = torch.randint(0, 10, (8,), generator=generator)
    return tuple(tensor.to(device) for tensor in (x, y, noise))


@pytest.fixture
def float64(monkeypatch):
    """Signs of gradients near zero turn on float32 rounding: compare where rounding is far away."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


PAPER = pytest.param(SearchSpace.paper(), marks=pytest.mark.slow)


@pytest.mark.parametrize("space", [SMALL, PAPER], ids=["small", "paper"])
@pytest.mark.parametrize("index", [0, 3, *(pytest.param(other, marks=pytest.mark.slow) for other in (1, 2))])
def test_the_fast_step_is_the_plain_step(float64, space, index):
    plain = networks(space)[index]
    fast = copy.deepcopy(plain)
    optimisers, stepper = (sgd(plain), sgd(fast)), Stepper(ATTACK, CLIPPED, CPU)
    for seed in range(3):  # weights and statistics of earlier steps reach the twin
        x, y, noise = (tensor.double() if tensor.is_floating_point() else tensor for tensor in batch(seed))
        expected = train_step(plain.train(), optimisers[0], x, y, noise, ATTACK, CLIPPED, CPU)
        assert_close(stepper(fast.train(), optimisers[1], x, y, noise, 0.01), expected)
    assert_close(fast.state_dict(), plain.state_dict(), rtol=1e-8, atol=1e-10)


def test_float32_steps_agree_to_rounding():
    # in float32 a few pixels, whose gradient is nearly zero, go the other way
    plain = baseline("resnet20", 10, torch.Generator().manual_seed(0)).train()
    fast = copy.deepcopy(plain)
    x, y, noise = batch(0)
    expected = train_step(plain, sgd(plain), x, y, noise, ATTACK, PLAIN, CPU)
    assert_close(Stepper(ATTACK, PLAIN, CPU)(fast, sgd(fast), x, y, noise, 0.01), expected, rtol=2e-3, atol=1e-4)


def test_a_twin_lasts_as_long_as_its_network(monkeypatch):
    made = []

    class Counted(step.Folded):
        def __init__(self, model):
            made.append(model)
            super().__init__(model)

    monkeypatch.setattr(step, "Folded", Counted)
    first, second = networks()[:2]
    stepper, optimisers = Stepper(ATTACK, PLAIN, CPU), {first: sgd(first), second: sgd(second)}
    for model in (first, first, second, first):
        stepper(model.train(), optimisers[model], *batch(0), 0.01)
    assert made == [first, second, first]


def test_with_batch_statistics_the_attack_is_on_the_model_itself():
    by_batch = ATTACK.model_copy(update={"bn": "batch"})
    plain, fast = networks()[0], networks()[0]
    figures = train_step(plain, sgd(plain), *batch(0), by_batch, PLAIN, CPU)
    assert torch.equal(Stepper(by_batch, PLAIN, CPU)(fast, sgd(fast), *batch(0), 0.01), figures)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True))


def test_labels_are_smoothed_on_clean_images_too():
    model, (x, y, noise) = networks()[0], batch(0)
    expected = nn.functional.cross_entropy(copy.deepcopy(model)(x), y, label_smoothing=0.2)
    smoothed = PLAIN.model_copy(update={"label_smoothing": 0.2})
    assert train_step(model, sgd(model), x, y, noise, None, smoothed, CPU)[0] == expected


def test_a_step_leaves_mode_and_gradients_to_the_model():
    model = networks()[0].train()
    Stepper(ATTACK, PLAIN, CPU)(model, sgd(model), *batch(0), 0.01)
    assert all(part.training for part in model.modules())
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())


def test_the_learning_rate_is_set_in_place_where_it_is_a_tensor():
    model = nn.Linear(2, 2)
    rate = torch.tensor(0.5)
    held = torch.optim.SGD(model.parameters(), lr=rate)
    step.set_learning_rate(held, 0.25)
    assert held.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25
    number = torch.optim.SGD(model.parameters(), lr=0.5)
    step.set_learning_rate(number, 0.25)
    assert number.param_groups[0]["lr"] == 0.25


def test_a_network_is_freed_with_its_stepper():
    """Without a wait for the garbage collector: on CUDA a graph and its memory hang on it."""
    model = networks()[0].train()
    stepper, optimiser = Stepper(ATTACK, PLAIN, CPU), sgd(model)
    stepper(model, optimiser, *batch(0), 0.01)
    step_of_it = weakref.ref(stepper._step)
    gc.disable()
    try:
        del stepper
        assert step_of_it() is None
    finally:
        gc.enable()


def on_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


@on_gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "captured"])
def test_steps_never_wait_for_the_device(graphs):
    device = torch.device("cuda")
    model = networks()[0].to(device, memory_format=MEMORY_FORMAT).train()
    optimiser = sgd(model, fused=True)
    optimiser.param_groups[0]["lr"] = torch.tensor(0.01, device=device)
    stepper = Stepper(ATTACK, CLIPPED, Runtime(device, torch.bfloat16, graphs))
    given, average = batch(0, device), Average(model, 0.9)
    for _ in range(5):  # graphs are captured on the way
        stepper(model, optimiser, *given, 0.01)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            stepper(model, optimiser, *given, 0.01)
            average.update(model)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class NoWaiting(Progress):
    """Beside two epochs of `train`: in the second, waiting for the device is an error until its last step."""

    def __init__(self):
        super().__init__("epochs", 2, show=False)

    def step(self, **figures):
        super().step(**figures)
        if self.done == 1:
            torch.cuda.set_sync_debug_mode("error")


class Steps(Single):
    """Lets the loop read the device again once the last of the second epoch's steps is queued."""

    def __init__(self, model: nn.Module, recipe: RecipePlan, last: int):
        super().__init__(model, recipe)
        self.left = last

    def stepped(self):
        super().stepped()
        self.left -= 1
        if self.left == 0:
            torch.cuda.set_sync_debug_mode("default")


@on_gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "captured"])
def test_an_epoch_waits_for_the_device_only_at_its_end(graphs):
    """Shuffling, loading, augmentation, noise, learning rate, steps, the weights' average and the sums."""
    device, recipe = torch.device("cuda"), CLIPPED.model_copy(update={"epochs": 2, "ema": 0.9})
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8, generator=generator)
    split = Split(images.to(device), torch.randint(0, 10, (50,), generator=generator).to(device), 255)
    model = networks()[0].to(device, memory_format=MEMORY_FORMAT)
    trainee, runtime = Steps(model, recipe, 2 * steps_per_epoch(split, 8)), Runtime(device, torch.bfloat16, graphs)
    try:
        train(
            trainee, split, recipe=recipe, attack=ATTACK, augment=AugmentParams(pad=2, flip=True), key=(0, "test"),
            runtime=runtime, progress=NoWaiting(),
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainee.left == 0


@on_gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bn", ["eval", "batch"])
@pytest.mark.parametrize("levers", [{}, {"awp": 0.005, "label_smoothing": 0.1}], ids=["paper", "beyond"])
def test_a_captured_step_is_the_eager_step(bn, dtype, levers, monkeypatch):
    # Else sums of gradients differ from run to run, and signs make much of little.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    attack, device = ATTACK.model_copy(update={"bn": bn}), torch.device("cuda")
    eager = networks()[0].to(device, memory_format=MEMORY_FORMAT).train()
    captured = copy.deepcopy(eager)
    found = []
    for model, graphs in ((eager, False), (captured, True)):
        optimiser = sgd(model, fused=True)
        optimiser.param_groups[0]["lr"] = torch.tensor(0.01, device=device)
        stepper = Stepper(attack, CLIPPED.model_copy(update=levers), Runtime(device, dtype, graphs))
        figures = [stepper(model, optimiser, *batch(seed, device), 0.1 / (seed + 1)) for seed in range(8)]
        found.append(torch.stack(figures))
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype is None else {"rtol": 0.05, "atol": 0.5}
    assert_close(found[1][:, 0], found[0][:, 0], **tolerance)
    assert_close(found[1][:, 1:], found[0][:, 1:], rtol=0, atol=1)  # one prediction of eight may turn
    for (name, theirs), ours in zip(eager.state_dict().items(), captured.state_dict().values(), strict=True):
        if dtype is None:
            assert_close(ours, theirs, rtol=1e-2, atol=1e-2, msg=lambda text, at=name: f"{at}: {text}")
