"""Several paths in one step of the supernet: the same as one network that holds them all."""

import pytest
import torch

from tamnas.data.loader import Split
from tamnas.errors import InputError
from tamnas.networks.paths import Paths, sum_overlaps
from tamnas.networks.supernet import Supernet
from tamnas.networks.trained import supernet_tensors
from tamnas.space.architecture import Architecture
from tamnas.training.loop import Resume
from tamnas.training.phases import train_phase
from tamnas.training.step import train_step
from tests.helpers.toy_supernet import path_mask, paths, phase_plan, supernet_with
from tests.helpers.toy_training import CPU, SPACE, recipe


@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_several_paths_step_as_one_supernet_would(split, clip_norm):
    """Against the supernet's own forward pass, path by path in place, whose gradients torch itself sums."""
    plan = phase_plan({"steps": 2}, paths=4)
    trainee, plain = paths(plan), supernet_with()
    archs = [trainee.architecture(0, path) for path in range(4)]
    assert len(set(archs)) == 4
    assert len({ratio for arch in archs for ratio in arch.ratios}) > 1
    x, y = split.images[:16] / 255, split.labels[:16]
    settings = {"attack": None, "recipe": recipe(clip_norm=clip_norm), "runtime": CPU}
    for _ in range(2):
        model, optimiser = trainee.at(0, 0)
        train_step(model, optimiser, x, y, torch.zeros_like(x), **settings)
        trainee.stepped()
        plain.zero_grad()
        parts = [plain(part, arch) for part, arch in zip(x.chunk(4), archs, strict=True)]
        torch.nn.functional.cross_entropy(torch.cat(parts), y).backward()
        if clip_norm:
            assert torch.nn.utils.clip_grad_norm_(plain.parameters(), clip_norm) > clip_norm
        in_place_step(plain, archs, optimiser.param_groups[0])
    ours, theirs = trainee.tensors(), supernet_tensors(plain)
    for name, tensor in ours.items():
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(trainee.supernet.first_layer.weight, supernet_with().first_layer.weight)


def in_place_step(net: Supernet, archs, group: dict) -> None:
    """SGD with momentum where one of the paths leads."""
    mask = path_mask(net, archs)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.grad is not None:
                on = mask[name]
                gradient = p.grad + group["weight_decay"] * p
                net.momentum[name][on] = (group["momentum"] * net.momentum[name] + gradient)[on]
                p[on] -= group["lr"] * net.momentum[name][on]


def test_copies_are_summed_where_they_overlap():
    wide, tall = torch.ones(2, 3), torch.full((3, 2), 10.0)
    whole = sum_overlaps([wide, tall])
    assert wide.tolist() == [[11, 11, 1], [11, 11, 1]]
    assert tall.tolist() == [[11, 11], [11, 11], [10, 10]]
    assert whole.tolist() == [[11, 11, 1], [11, 11, 1], [10, 10, 0]]


def test_running_statistics_of_several_paths_are_their_mean():
    supernet = supernet_with()
    archs = [Architecture((0, 6, 20), (1.0, 0.4, 1.6)), Architecture((0, 3, 20), (2.0, 0.4, 1.6))]
    subnets = [supernet.extract(arch) for arch in archs]
    both, (narrow, wide) = Paths(supernet, subnets), (subnet.rest.layers[0] for subnet in subnets)
    pairs = [
        (one.running_mean, other.running_mean)
        for one, other in zip(narrow.modules(), wide.modules(), strict=True)
        if isinstance(one, torch.nn.BatchNorm2d)
    ]
    for one, other in pairs:
        one.fill_(1), other.fill_(3)
    both.share_statistics()
    assert any(len(one) < len(other) for one, other in pairs)
    for one, other in pairs:
        assert one.tolist() == [2] * len(one)
        assert other.tolist() == [2] * len(one) + [3] * (len(other) - len(one))


@pytest.mark.parametrize("images", [9, 4])  # no divisor, and one image each
def test_paths_that_a_batch_of_few_images_does_not_feed_are_refused(tmp_path, images):
    few = Split(torch.zeros((images, 3, 8, 8), dtype=torch.uint8), torch.zeros(images, dtype=torch.int64), 255)
    with pytest.raises(InputError, match=rf"supernet\.paths is 4; .* of the {images} training images, 2 or more"):
        train_phase(phase_plan({"steps": 1}, paths=4), "supernet_joint", few, None, CPU, Resume(tmp_path / "state"))


def test_fair_draws_of_several_paths_deal_each_block_once_a_step():
    trainee = paths(phase_plan({"steps": 1}, paths=4).model_copy(update={"draw": "fair"}))
    full = [layer for layer in range(len(SPACE.layers)) if len(SPACE.allowed_blocks(layer)) == 4]
    assert full
    for draw in range(6):
        dealt = [trainee.architecture(draw, path) for path in range(4)]
        assert all({arch.blocks[layer] for arch in dealt} == {0, 3, 6, 20} for layer in full)
