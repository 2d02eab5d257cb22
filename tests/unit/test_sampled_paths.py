"""Training a supernet along sampled paths: which ones, and the same bits as a network of its own."""

import itertools

import pytest
import torch

from tamnas.data.loader import Split
from tamnas.errors import DeadlineError, DivergenceError
from tamnas.networks.trained import supernet_tensors
from tamnas.pipeline import checkpoint
from tamnas.pipeline.device import Runtime
from tamnas.space.architecture import Architecture
from tamnas.training import loop
from tamnas.training import phases as supernet
from tamnas.training.loop import Resume, Single, TrainingOutcome
from tamnas.training.phases import SampledPaths, train_phase
from tamnas.training.step import train_step
from tests.helpers.toy_supernet import path_mask, paths, phase_plan, supernet_with, visited
from tests.helpers.toy_training import ARCH, ATTACK, CPU, SPACE, StopAfter, StopError, equal, network, recipe, run


@pytest.mark.parametrize(
    ("every", "run_length"), [({"steps": 1}, 1), ({"steps": 5}, 5), ({"epochs": 1}, 3), ({"epochs": 2}, 6)], ids=str
)
def test_architecture_changes_when_it_should(every, run_length):
    archs = visited(paths(phase_plan(every)))
    runs = [archs[start : start + run_length] for start in range(0, 12, run_length)]
    assert all(len(set(one)) == 1 for one in runs)
    # 4 x 4 x 4 genes per layer: neighbours of equal architecture would be a coincidence
    assert all(one[0] != other[0] for one, other in itertools.pairwise(runs))
    assert visited(paths(phase_plan(every))) == archs
    assert all(SPACE.is_legal(arch) for arch in archs)


def test_what_a_deadline_cut_off_goes_on_where_it_stopped(monkeypatch, split, tmp_path):
    """Checkpoints are written every so many seconds; at a deadline at once."""
    resume = Resume(tmp_path / "state.safetensors", 1e9)
    left = iter([None, None, DeadlineError("epoch 2")])
    monkeypatch.setattr(loop, "_deadline_error", lambda *args: next(left))
    with pytest.raises(DeadlineError, match="epoch 2"):
        run(Single(network(), recipe()), split, resume=resume)
    assert len(checkpoint.load(resume.path)[1]["history"]) == 2


def test_a_draw_depends_on_its_number_alone():
    trainee = paths(phase_plan({"steps": 1}))
    archs = visited(trainee)
    late = paths(phase_plan({"steps": 1}))
    assert late.at(3, 1)[0].arch == archs[10]
    other = SampledPaths(supernet_with(), phase_plan({"steps": 1}), 3, (0, "other"))
    assert visited(other) != archs


def test_block_phase_uses_the_largest_ratio():
    archs = visited(paths(phase_plan({"steps": 1}, "block")))
    assert {ratio for arch in archs for ratio in arch.ratios} == {2.0}
    assert {block for arch in archs for block in arch.blocks} == {0, 3, 6, 20}


@pytest.mark.parametrize("every", [{"steps": 1}, {"epochs": 1}], ids=str)
def test_joint_phase_opens_ratios(every):
    opened = [{1.6, 2.0}, {1.6, 2.0}, {1.0, 1.6, 2.0}, {0.4, 1.0, 1.6, 2.0}]
    used: list[set] = [set() for _ in opened]
    for key in range(5):
        trainee = SampledPaths(supernet_with(), phase_plan(every), 8, (key, "paths"))
        for epoch, step in itertools.product(range(4), (0, 3, 7)):
            used[epoch] |= set(trainee.at(epoch, step)[0].arch.ratios)
    assert used == opened


def test_a_path_of_several_steps_has_the_ratios_open_where_it_begins():
    trainee = SampledPaths(supernet_with(), phase_plan({"steps": 2}), 4, (0, "paths"))
    assert {ratio for draw in range(4) for ratio in trainee.architecture(draw).ratios} == {1.6, 2.0}
    assert {ratio for draw in range(6, 8) for ratio in trainee.architecture(draw).ratios} & {0.4, 1.0}


@pytest.mark.parametrize("phase", ["block", "joint"])
def test_paths_stay_within_the_phase_budget(phase):
    low, high = SPACE.parameter_range(SPACE.ratios[-1:] if phase == "block" else SPACE.ratios[-2:])
    budget = [low + (high - low) // 3, low + (high - low) * 2 // 3]

    def sizes_under(budget):
        trainee = paths(phase_plan({"steps": 1}, phase, budget), steps=10)
        return [SPACE.parameters(trainee.architecture(draw)) for draw in range(30)]

    sizes, free = sizes_under(budget), sizes_under(None)
    assert all(budget[0] <= size <= budget[1] for size in sizes)
    assert not all(budget[0] <= size <= budget[1] for size in free)


def test_off_the_path_nothing_changes(split):
    plan = phase_plan({"steps": 2})
    trainee = paths(plan)
    before = {name: tensor.clone() for name, tensor in supernet_tensors(trainee.supernet).items()}
    setting = plan.recipe.model_copy(update={"epochs": 1})
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
    plan = phase_plan({"steps": 1})
    setting = plan.recipe
    trainee = paths(plan)
    for tensor in trainee.supernet.momentum.values():
        tensor.zero_()
    alone = Single(trainee.supernet.extract(ARCH), setting)
    monkeypatch.setattr(trainee, "architecture", lambda draw, path: ARCH)
    histories = [run(one, split, recipe=setting).history for one in (trainee, alone)]
    trainee.tensors()
    assert histories[0] == histories[1]
    assert equal(trainee.supernet.extract(ARCH).state_dict(), alone.model.state_dict())


def test_momentum_of_a_path_goes_on_when_it_returns(split, monkeypatch):
    one, other = Architecture((0, 3, 6), (1.0, 2.0, 0.4)), Architecture((3, 6, 20), (2.0, 1.6, 1.0))
    plan = phase_plan({"epochs": 1})
    trainee = paths(plan)
    monkeypatch.setattr(trainee, "architecture", lambda draw, path: (one, other, one)[draw])

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


def layout(tensor: torch.Tensor) -> list[int]:
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def test_momentum_lies_in_memory_as_its_parameter_does(split):
    """What fused SGD on CUDA checks before its every step, for parameters, gradients and momentum."""
    trainee = paths(phase_plan({"epochs": 1}))
    for epoch in range(2):
        model, optimiser = trainee.at(epoch, 0)
        x, y = split.images[:16] / 255, split.labels[:16]
        train_step(model, optimiser, x, y, torch.zeros_like(x), attack=ATTACK, recipe=recipe(), runtime=CPU)
        for p in model.parameters():
            assert layout(p) == layout(p.grad) == layout(optimiser.state[p]["momentum_buffer"])
    assert any(p.dim() == 4 and not p.is_contiguous() for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "captured"])
def test_paths_change_on_a_gpu(split, graphs, number):
    """Two visits of every path with enough steps to capture it; weights and momentum go back to the supernet."""
    device = torch.device("cuda")
    trainee = SampledPaths(supernet_with().to(device), phase_plan({"epochs": 1}, paths=number), 6, (0, "paths"))
    images = Split(split.images.to(device), split.labels.to(device), 255)
    setting = recipe(batch_size=8)
    found = run(trainee, images, recipe=setting, runtime=Runtime(device, torch.bfloat16, graphs))
    assert len(found.history) == setting.epochs
    assert all(tensor.isfinite().all() for tensor in trainee.tensors().values() if tensor.is_floating_point())


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(("every", "stop"), [({"steps": 2}, 0), ({"steps": 2}, 2), ({"epochs": 3}, 1)], ids=str)
def test_interrupted_phase_ends_with_the_same_bits(split, tmp_path, every, stop, number):
    # 2 steps do not divide an epoch, nor 3 epochs the phase: a path is cut in two by the interruption
    plan = phase_plan(every, paths=number)
    setting = plan.recipe
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
        return TrainingOutcome()

    monkeypatch.setattr(supernet, "train", spy)
    plan = phase_plan({"epochs": 1}, span=span)
    assert plan.keep_momentum == (span == "both")
    train_phase(plan, "supernet_joint", split, start, CPU, Resume(tmp_path / "state.safetensors"))
    assert equal(seen["weights"], stored.state_dict())
    if span == "both":
        assert equal(seen["momentum"], stored.momentum)
    assert any(state["momentum_buffer"].any() for state in seen["buffers"]) == (span == "both")
    assert all(tensor.any() for tensor in seen["momentum"].values()) == (span == "both")
    assert seen["recipe"] == plan.recipe


def test_a_resumed_joint_phase_does_not_lose_its_momentum(split, tmp_path):
    # without keep_momentum it is zeroed where the phase begins, not where it goes on
    plan, start = phase_plan({"steps": 2}, span="phase"), tmp_path / "block.safetensors"
    checkpoint.write_weights(start, supernet_tensors(supernet_with(7)), {})
    whole, _ = train_phase(plan, "supernet_joint", split, start, CPU, Resume(tmp_path / "whole.safetensors", 0))
    resume = Resume(tmp_path / "state.safetensors", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supernet.Progress, "step", StopAfter(1).step)
        with pytest.raises(StopError):
            train_phase(plan, "supernet_joint", split, start, CPU, resume)
    checkpoint.write_weights(start, supernet_tensors(supernet_with(8)), {})  # what began anew would not be `whole`
    resumed, outcome = train_phase(plan, "supernet_joint", split, start, CPU, resume)
    assert equal(supernet_tensors(resumed), supernet_tensors(whole))
    assert len(outcome.history) == 4


def test_block_phase_starts_from_seeded_weights(split, tmp_path, monkeypatch):
    monkeypatch.setattr(supernet, "train", lambda *args, **kwargs: TrainingOutcome())
    plan, resume = phase_plan({"steps": 1}, "block"), Resume(tmp_path / "state.safetensors")
    nets = [
        train_phase(plan.model_copy(update={"seed": seed}), "supernet_block", split, None, CPU, resume)[0]
        for seed in (0, 0, 1)
    ]
    assert equal(supernet_tensors(nets[0]), supernet_tensors(nets[1]))
    assert not equal(supernet_tensors(nets[0]), supernet_tensors(nets[2]))
    assert not any(tensor.any() for tensor in nets[0].momentum.values())


def test_fair_draws_train_every_block_of_a_layer_equally_often():
    trainee = paths(phase_plan({"steps": 1}).model_copy(update={"draw": "fair"}))
    drawn = [trainee.architecture(draw) for draw in range(24)]
    assert all(SPACE.is_legal(arch) for arch in drawn)
    for layer in range(len(SPACE.layers)):
        deck = SPACE.allowed_blocks(layer)
        assert len(deck) in (3, 4)
        dealt = [tuple(arch.blocks[layer] for arch in drawn[i : i + len(deck)]) for i in range(0, 24, len(deck))]
        assert {tuple(sorted(hand)) for hand in dealt} == {deck}
        assert len({*dealt}) > 1
    assert [paths(trainee.plan).architecture(draw) for draw in range(24)] == drawn


def test_weights_that_no_later_path_uses_are_seen_to_be_broken(split):
    class Broken(SampledPaths):
        def stepped(self):
            if self._draw == 5:  # the last of the second epoch's
                used = {home for _, home, _ in self.supernet.slices(self.network, self.network.arch)}
                next(p for name, p in self.supernet.named_parameters() if name not in used).data.fill_(torch.nan)

    plan = phase_plan({"steps": 1})
    with pytest.raises(DivergenceError, match="at epoch 1, step 2 of 3"):
        run(Broken(supernet_with(), plan, 3, (0, "paths")), split, recipe=plan.recipe)
