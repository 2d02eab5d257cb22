"""Hand-made networks: sizes, the contract that training and folding rely on, one tiny training each."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tamnas.attacks.ascent import under_attack
from tamnas.config.compute import ComputeParams
from tamnas.config.plan import DatasetPlan, dataset_stages
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.config.sections import BASELINES, TrainingPlan
from tamnas.data.prepare import prepare
from tamnas.networks.baselines import baseline
from tamnas.networks.folding import Folded
from tamnas.networks.trained import load_network
from tamnas.pipeline import checkpoint
from tamnas.pipeline.device import MEMORY_FORMAT
from tamnas.records import Job, NetworkSpec
from tamnas.report.terms import NAMES
from tamnas.training.networks import TrainingTask, train_network
from tests.helpers.tiny import tiny_params

# Published: ResNet-18 11.17M on CIFAR; ResNet-20 0.27M, ResNet-32 0.46M (He et al.); WRN-34-2 1.86M. The two mobile
# networks are torchvision's 2,278,604 and 5,483,032 with 10 classes in place of 1,000. MLPerf Tiny's ResNet-8:
# 78,186 trainable ones, 336 of them biases in front of BatchNorms.
SIZES = {
    "resnet18": 11_173_962,
    "shufflenetv2": 2_278_604 - 990 * 1025,
    "mobilenetv3": 5_483_032 - 990 * 1281,
    "resnet8": 78_186 - 336,
    "resnet8_silu": 78_186 - 336,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "wrn34_2": 1_855_578,
}
UNFOLDED = {"wrn34_2": 15}  # BatchNorms that see a sum of two branches


def images(size: int, count: int = 4) -> torch.Tensor:
    x = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=MEMORY_FORMAT)


@pytest.fixture(scope="module", params=BASELINES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name, randomise) -> nn.Module:
    """With no weight or statistic at 0 or 1, channels-last, eval mode."""
    return randomise(baseline(name, 10)).to(memory_format=MEMORY_FORMAT).eval()


def test_the_two_resnet8_differ_in_activation_alone(randomise):
    relu, silu = (randomise(baseline(name, 10)).eval() for name in ("resnet8", "resnet8_silu"))
    silu.load_state_dict(relu.state_dict())
    assert not torch.equal(silu(images(32)), relu(images(32)))
    for module in silu.modules():
        for child, part in module.named_children():
            if isinstance(part, nn.SiLU):
                setattr(module, child, nn.ReLU())
    assert torch.equal(silu(images(32)), relu(images(32)))


def test_every_baseline_is_known_by_its_size_and_name(name):
    assert sum(p.numel() for p in baseline(name, 10).parameters()) == SIZES[name]
    assert name in NAMES


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("training", [False, True])
def test_output_shapes(name, size, training):
    model = baseline(name, 7, torch.Generator().manual_seed(0)).train(training)
    with torch.no_grad():
        assert model(images(size)).shape == (4, 7)
        assert model.first_layer(images(size)).shape[2:] == (size, size)  # no pixel is lost in the stem


def test_the_first_layer_is_a_bare_convolution(model):
    x, eta = images(16), 0.1 * images(16).flip(0)
    assert type(model.first_layer) is nn.Conv2d
    assert model.first_layer.bias is None
    with torch.no_grad():
        assert_close(model.first_layer(x + eta), model.first_layer(x) + model.first_layer(eta))
        h = model.first_layer(x)
        before = h.clone()
        assert torch.equal(model.rest(h), model(x))
        assert torch.equal(h, before)


def test_weights_come_from_the_generator_alone(name):
    models = []
    for seed, noise in ((5, 1), (5, 2), (6, 1)):
        torch.manual_seed(noise)
        models.append(baseline(name, 10, torch.Generator().manual_seed(seed)).state_dict())
    first, same, other = models
    assert all(torch.equal(first[key], same[key]) for key in first)
    weights = [key for key, tensor in first.items() if tensor.dim() > 1]
    assert not any(torch.equal(first[key], other[key]) for key in weights)


def test_a_fresh_network_is_not_sure_of_anything(name):
    # Logits far apart start with a loss of 20 and more, and end in NaN where a softmax underflows.
    model = baseline(name, 10, torch.Generator().manual_seed(0)).train()
    with torch.no_grad():
        logits = model(images(32, 16))
    spread = (logits.max(1).values - logits.min(1).values).mean().item()
    assert spread < (40 if name in ("resnet20", "resnet32") else 12)


def test_training_draws_no_random_numbers(name):
    model = baseline(name, 10, torch.Generator().manual_seed(0)).train()
    state = torch.random.get_rng_state()
    model(images(8)).sum().backward()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_folded_copies_compute_the_same_function(name, model):
    fast = Folded(model).network.to(memory_format=MEMORY_FORMAT)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in fast.modules()) == UNFOLDED.get(name, 0)
    assert any(isinstance(part, nn.BatchNorm2d) for part in model.modules())  # the original is left as found
    x = images(32)
    with torch.no_grad():
        logits = model(x)
        assert_close(fast(x), logits, rtol=1e-3, atol=1e-4 * logits.abs().max().item())
        assert logits.std(0).min() > 1e-4 * logits.abs().max()  # the images differ, so the comparison says something


def test_input_gradients_under_attack(model):
    x = images(16).requires_grad_(True)
    with under_attack(model, "batch"):
        (gradient,) = torch.autograd.grad(model(x).logsumexp(1).sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.99


def test_torchvision_is_imported_only_for_its_own_networks():
    code = (
        "import sys; from tamnas.networks.baselines import baseline, FACTORIES;"
        "[baseline(name, 10) for name in ('resnet20', 'resnet32', 'wrn34_2')];"
        "assert 'torchvision' not in sys.modules; baseline('resnet18', 10); assert 'torchvision' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def plan() -> DatasetPlan:
    raw = tiny_params()
    raw["baselines"].update(names=list(BASELINES))
    raw["baselines"]["training"].update(epochs=1, attack={"eps": "8/255", "attack_steps": 1})
    raw["baselines"]["training"]["schedule"]["warmup"] = 0
    raw["retrain"]["validation"]["attack"]["steps"] = 1
    raw["data"]["digits"].update(train=64, validation=20, test=20)
    plan = resolve_study(parse_params(raw)).datasets["digits"]
    assert plan.baselines.names == BASELINES
    return plan


@pytest.fixture(scope="module")
def task(plan, tmp_path_factory) -> TrainingTask:
    folder = tmp_path_factory.mktemp("baselines")
    prepare("digits", plan.data, folder / "digits.npz")
    compute = ComputeParams(engine="inline", workers=1, device="cpu")
    task = TrainingTask.of(dataset_stages(plan)["baselines"], folder)
    return replace(task, data=folder / "digits.npz", compute=compute)


def job(name: str, training: TrainingPlan) -> Job:
    return Job(NetworkSpec(name, baseline=name), training, (0, "baselines", "digits"))


def test_the_average_is_written_where_there_is_one(plan, task, tmp_path):
    training = plan.baselines.training
    averaged = training.model_copy(update={"recipe": training.recipe.model_copy(update={"ema": 0.9})})
    states = {}
    for name, own in (("plain", training), ("averaged", averaged)):
        folder = tmp_path / name
        folder.mkdir()
        train_network(job("resnet20", own), replace(task, folder=folder).context())
        states[name] = checkpoint.load(folder / "resnet20.safetensors")[0]["last.first_layer.weight"]
    assert not torch.equal(states["plain"], states["averaged"])


def test_one_tiny_training(name, plan, task):
    context = task.context()
    record = train_network(job(name, plan.baselines.training), context)
    assert record.parameters == SIZES[name]
    assert 0 <= record.best.robust <= record.best.clean <= 1
    model, loaded = load_network(task.space, task.folder / f"{name}.safetensors", "last", context.runtime)
    assert loaded == record
    fresh = baseline(name, 10, torch.Generator().manual_seed(0))
    assert not torch.equal(model.first_layer.weight, fresh.first_layer.weight)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
