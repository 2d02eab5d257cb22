"""Multiply-accumulates against counts by hand, parameters apart, and latencies as files of their own."""

import dataclasses
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from tamnas.config.sections import BASELINES
from tamnas.evaluation import costs
from tamnas.evaluation.costs import head_of, latency, macs
from tamnas.networks.baselines import baseline
from tamnas.networks.blocks import NonLocal
from tamnas.networks.subnet import Subnet
from tamnas.networks.trained import build
from tamnas.pipeline import checkpoint
from tamnas.records import NetworkSpec, Record, Score
from tamnas.space.architecture import Architecture
from tamnas.space.blocks import BLOCKS
from tamnas.space.space import SearchSpace
from tests.helpers.tiny import copy_of, invoke, tiny_params, write_params

# Published, in millions at 32x32: ResNet-18 0.56 G, ResNet-20 40.6, ResNet-32 68.9 (counted with option A).
KNOWN = {"resnet18": 555_422_720, "resnet20": 40_551_040, "resnet32": 68_862_592}


def by_hand(model: nn.Module, size: int) -> int:
    """From shapes alone: every convolution and linear layer, and what attention multiplies."""
    total = 0

    def count(module, args, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            each = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            total += each * output[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.in_features * module.out_features
        elif isinstance(module, NonLocal):
            channels, positions = args[0].shape[1], args[0].shape[2] * args[0].shape[3]
            keys = positions // 4 if min(args[0].shape[2:]) >= 2 else positions
            inner = module.g.out_channels
            total += positions * keys * ((inner if isinstance(module.theta, nn.Conv2d) else channels) + inner)

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # theta, phi, g, then every position with a quarter of them, twice, then the output
        (NonLocal(3, 5, "embedded"), 256 * (3 * 3 * 5) + 2 * 256 * 64 * 5 + 256 * 5 * 3),
        (NonLocal(3, 5, "gaussian"), 256 * 3 * 5 + 256 * 64 * (3 + 5) + 256 * 5 * 3),
    ],
)
def test_one_layer_of_16x16_images(layer, expected):
    assert macs(layer, 16) == expected


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_every_block_by_hand_and_from_the_space_alone(block, size):
    space = dataclasses.replace(SearchSpace.paper(), size=size)
    blocks = tuple(block if BLOCKS[block].allowed(layer) else 3 for layer in space.layers)
    for ratio in (0.2, 1.6):
        arch = Architecture(blocks, (ratio,) * 16)
        model = Subnet(space, arch).train()
        assert space.macs(arch) == macs(model, size) == by_hand(model, size)


@pytest.mark.parametrize(("block", "ratio", "millions"), [(0, 1.0, 9.9), (5, 2.0, 36.2)])
def test_known_subnets(block, ratio, millions):
    model = Subnet(SearchSpace.paper(), Architecture((block,) * 16, (ratio,) * 16))
    assert round(macs(model, 32) / 1e6, 1) == millions


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_by_hand(name):
    model = baseline(name, 10)
    counted = macs(model, 32)
    assert counted == by_hand(model, 32)
    assert counted == KNOWN.get(name, counted)


def test_the_model_is_left_as_found():
    model = baseline("resnet20", 10, torch.Generator().manual_seed(0)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    macs(model, 8)
    latency(model, 8)
    assert model.training
    assert all(part.training for part in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_head_and_body():
    for space in (SearchSpace.paper(), SearchSpace(head=None)):
        subnet = Subnet(space, Architecture((0,) * 16, (1.0,) * 16))
        assert sum(p.numel() for p in head_of(subnet).parameters()) == space.head_parameters
    for name, expected in (("resnet20", 64 * 10 + 10), ("mobilenetv3", 960 * 1280 + 1280 + 1280 * 10 + 10)):
        assert sum(p.numel() for p in head_of(baseline(name, 10)).parameters()) == expected


def test_latency_is_the_median_pass_on_one_thread(monkeypatch):
    seen, times = [], iter([0] * 11 + [1] * 45 + [100] * 45)  # the first warms up
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())

    class Stopped:
        def __init__(self, statement, globals, num_threads):
            self.run = lambda: eval(statement, globals)
            self.globals, self.threads = globals, num_threads

        def timeit(self, number):
            self.run()
            seen.append((number, self.globals["model"], self.globals["image"], self.threads))
            return SimpleNamespace(median=next(times))

    monkeypatch.setattr(costs, "Timer", Stopped)
    assert latency(model, 8) == 1000
    assert [number for number, *_ in seen] == [costs.WARM_UP] + [1] * costs.RUNS
    _, fast, image, threads = seen[0]
    assert threads == 1
    assert image.shape == (1, 3, 8, 8)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fast.modules())


def test_more_work_takes_longer():
    small, large = (nn.Conv2d(3, channels, 7, padding=3) for channels in (1, 512))
    assert 0 < latency(small, 32) < latency(large, 32)


# -- the evaluate stage --------------------------------------------------------------------------

FOLDER = "results/digits/evaluate_baselines/seed-0"


def test_the_stage_writes_costs(finished_run):
    (row,) = pd.read_csv(finished_run / FOLDER / "costs.csv").to_dict("records")
    expected = {"network": "resnet8", "parameters": 77850, "head": 650, "body": 77200, "size": 8, "macs": 781952}
    assert row == expected
    assert not (finished_run / FOLDER / "latency.csv").exists()


def test_asking_for_latencies_evaluates_nothing_again_and_changes_no_other_file(finished_run, folder, monkeypatch):
    copy_of(finished_run, folder, "plan", "code", "data", "runs", "results", ".checkpoints")
    raw, found = tiny_params(), folder / FOLDER
    before = {path.name: path.read_bytes() for path in found.iterdir()}
    monkeypatch.setattr("tamnas.evaluation.networks.evaluate_pgd", None)
    for asked in (True, False):
        raw["eval"]["latency"] = asked
        write_params(folder, raw)
        for arguments in (("plan",), ("evaluate", "baselines", "digits")):
            assert invoke(*arguments).exit_code == 0
        after = {path.name: path.read_bytes() for path in found.iterdir()}
        assert {name: after[name] for name in before} == before
        assert set(after) - set(before) == ({"latency.csv"} if asked else set())
        if asked:
            (timed,) = pd.read_csv(found / "latency.csv").to_dict("records")
            assert (timed["network"], timed["runs"]) == ("resnet8", costs.RUNS)
            assert timed["milliseconds"] > 0
            assert timed["processor"]


def test_only_the_networks_named_are_timed(tmp_path):
    space = SearchSpace.paper()
    specs = [NetworkSpec(f"n{i}", Architecture((block,) * 16, (0.2,) * 16)) for i, block in enumerate((0, 6))]
    for spec in specs:
        model = build(spec, space, torch.Generator().manual_seed(0))
        score = Score(0, 0.5, 0.5)
        record = Record(spec, space.parameters(spec.architecture), 1, last=score, best=score)
        tensors = {f"last.{name}": tensor for name, tensor in model.state_dict().items()}
        checkpoint.write_weights(tmp_path / f"{spec.id}.safetensors", tensors, {"record": record.plain()})
    rows = costs.cost_rows(tmp_path, space, 16)
    assert [row["network"] for row in rows] == ["n0", "n1"]
    for row, spec in zip(rows, specs, strict=True):
        assert row["head"] == space.head_parameters
        assert row["body"] == space.parameters(spec.architecture) - space.head_parameters
        assert row["macs"] == by_hand(Subnet(space, spec.architecture), 16)
    assert [row["network"] for row in costs.latency_rows(tmp_path, {"n1"}, space, "last", 16)] == ["n1"]
