import copy
import dataclasses
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from tamnas.networks.blocks import NonLocal, PureRobustBlock, TinyBlock, choice_block, initialise
from tamnas.networks.subnet import Subnet
from tamnas.networks.supernet import Supernet
from tamnas.space.architecture import Architecture
from tamnas.space.blocks import BLOCKS
from tamnas.space.space import SearchSpace

TRANSITIONS = (0, 4, 12)
EXACT = {"rtol": 0, "atol": 0}


def covering_architectures() -> list[Architecture]:
    """Six of the paper's space: all 22 blocks at stride-1 layers, 0 to 17 at stride 2, mixed ratios."""
    generator, found = np.random.default_rng(0), []
    for k in range(6):
        at_transitions, elsewhere = iter(range(3 * k, 3 * k + 3)), iter((13 * k + j) % 22 for j in range(13))
        blocks = tuple(next(at_transitions if i in TRANSITIONS else elsewhere) for i in range(16))
        found.append(Architecture(blocks, tuple(generator.choice(SearchSpace.paper().ratios, 16))))
    return found


ARCHITECTURES = covering_architectures()


def images(n: int = 4, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights, buffers and (of a supernet) momentum."""
    momentum = {f"momentum of {name}": tensor for name, tensor in getattr(model, "momentum", {}).items()}
    return {name: tensor.detach().clone() for name, tensor in (model.state_dict() | momentum).items()}


@pytest.fixture(scope="module")
def paper(randomise) -> Supernet:
    return randomise(Supernet(SearchSpace.paper()))


@pytest.fixture(scope="module")
def template(space, randomise) -> Supernet:
    supernet = randomise(Supernet(dataclasses.replace(space, blocks=tuple(range(22)))))
    for i, tensor in enumerate(supernet.momentum.values()):
        tensor.normal_(generator=torch.Generator().manual_seed(i))
    return supernet


@pytest.fixture
def small(template) -> Supernet:
    """A small geometry with all blocks and momentum everywhere."""
    return copy.deepcopy(template)


def arch_of(supernet: Supernet, seed: int) -> Architecture:
    return supernet.space.sample(np.random.default_rng(seed))


@contextmanager
def zero_masked(subnet: Subnet, arch: Architecture):
    """The paper's reading of ratios: `subnet` at the full ratio, channels beyond each slice zeroed."""

    def keep(m):
        return lambda module, args, out: out * (torch.arange(out.shape[1]) < m).to(out.dtype)[None, :, None, None]

    with ExitStack() as hooks:
        for block, layer, ratio in zip(subnet.rest.layers, subnet.space.layers, arch.ratios, strict=True):
            m, full = layer.middle(ratio), layer.middle(subnet.space.max_ratio)
            if isinstance(block, PureRobustBlock):
                targets = [part for part in (block[0].theta, block[0].phi, block[0].g) if isinstance(part, nn.Conv2d)]
            else:
                norms = [i for i, part in enumerate(block.branch) if getattr(part, "num_features", None) == full]
                acts = [i + 1 for i in norms if isinstance(block.branch[i + 1], nn.ReLU)]
                targets = [block.branch[i] for i in norms + acts]
                assert len(norms) in (2, 4)
            for module in targets:
                hooks.callback(module.register_forward_hook(keep(m)).remove)
        yield subnet


def test_the_architectures_cover_every_block():
    space = SearchSpace.paper()
    assert all(map(space.is_legal, ARCHITECTURES))
    for positions, blocks in ((TRANSITIONS, range(18)), (set(range(16)) - set(TRANSITIONS), range(22))):
        assert {arch.blocks[i] for arch in ARCHITECTURES for i in positions} == set(blocks)


@pytest.fixture(scope="module")
def paper64(paper) -> Supernet:
    return copy.deepcopy(paper).double()


@pytest.fixture
def float64():
    """16 layers of gates amplify float32 rounding to more than a comparison can bear."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("index", range(6))
def test_three_readings_of_a_path_agree(paper64, float64, index, train):
    paper = paper64
    arch, x = ARCHITECTURES[index], images(seed=index).double()
    full = Architecture(arch.blocks, (2.0,) * 16)
    before = {name: tensor.clone() for name, tensor in paper.named_buffers()}
    paper.train(train)
    subnet, masked = paper.extract(arch), paper.extract(full)
    with torch.no_grad():
        extracted = subnet(x)
        with zero_masked(masked, arch):
            zeroed = masked(x)
        in_place = paper(x, arch)
    assert extracted.std() > 0.01  # logits that tell networks apart
    assert_close(in_place, extracted, rtol=1e-12, atol=1e-12)
    assert_close(zeroed, extracted, rtol=1e-9, atol=1e-9)
    if train:
        # Running statistics reach the supernet in place, and are those of the subnet.
        assert_close(state(paper.extract(arch)), state(subnet), rtol=1e-12, atol=1e-12)
    else:
        assert_close(dict(paper.named_buffers()), before, **EXACT)


def test_the_ratio_changes_the_logits(paper):
    # The comparison above has teeth: without its masks it fails.
    arch, x = ARCHITECTURES[0], images()
    paper.eval()
    with torch.no_grad():
        unmasked = paper.extract(Architecture(arch.blocks, (2.0,) * 16))(x)
        assert (unmasked - paper.extract(arch)(x)).abs().max() > 0.1


def test_extract_copies(small):
    arch, before = arch_of(small, 0), state(small)
    subnet = small.extract(arch)
    with torch.no_grad():
        for tensor in subnet.state_dict().values():
            tensor.zero_()
    assert_close(state(small), before, **EXACT)


@pytest.mark.parametrize("train", [False, True])
def test_extract_takes_the_mode(small, train):
    assert all(part.training == train for part in small.train(train).extract(arch_of(small, 0)).modules())


def with_optimiser(supernet: Supernet, arch: Architecture) -> tuple[Subnet, torch.optim.SGD]:
    """The path of `arch`, extracted, with its momentum."""
    subnet = supernet.extract(arch)
    optimiser = torch.optim.SGD(subnet.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    supernet.lend_momentum(subnet, optimiser)
    return subnet, optimiser


@pytest.mark.parametrize("seed", range(3))
def test_extract_then_absorb_is_the_identity(small, seed):
    before = state(small)
    subnet, optimiser = with_optimiser(small, arch_of(small, seed))
    small.absorb(subnet, optimiser)
    assert_close(state(small), before, **EXACT)
    small.absorb(subnet)
    assert_close(state(small), before, **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_absorb_touches_the_path_alone(small, seed):
    arch, sentinel = arch_of(small, seed), 12_345
    before = state(small)
    subnet, optimiser = with_optimiser(small, arch)
    momenta = [optimiser.state[p]["momentum_buffer"] for p in subnet.parameters()]
    with torch.no_grad():
        for tensor in (*subnet.state_dict().values(), *momenta):
            tensor.fill_(sentinel)
    small.absorb(subnet, optimiser)

    expected = 0
    for name, tensor in subnet.state_dict().items():
        if name.startswith("rest.layers."):
            parts = name.split(".")
            name = ".".join([*parts[:3], str(arch.blocks[int(parts[2])]), *parts[3:]])
        homes = [name] + [f"momentum of {name}"] * (name in small.momentum)
        for home in homes:
            before[home][tuple(map(slice, tensor.shape))] = sentinel
            expected += tensor.numel()
    after = state(small)
    assert_close(after, before, **EXACT)
    assert sum(int((tensor == sentinel).sum()) for tensor in after.values()) == expected


def test_training_through_the_supernet_is_training_the_subnet(small):
    """Steps with extract and absorb around each one end where undisturbed steps end, bit for bit."""

    def step(subnet, optimiser, seed):
        optimiser.zero_grad()
        subnet(images(8, 8, seed)).square().mean().backward()
        optimiser.step()

    arch = arch_of(small.train(), 1)
    alone, alone_optimiser = with_optimiser(small, arch)
    for seed in range(3):
        step(alone, alone_optimiser, seed)
    for seed in range(3):
        subnet, optimiser = with_optimiser(small, arch)
        step(subnet, optimiser, seed)
        small.absorb(subnet, optimiser)
    assert_close(state(small.extract(arch)), state(alone), **EXACT)
    _, optimiser = with_optimiser(small, arch)
    for ours, theirs in zip(optimiser.state.values(), alone_optimiser.state.values(), strict=True):
        assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"])


@pytest.mark.parametrize("index", range(2))
def test_gradients_equal_the_subnets(paper, index):
    arch, x = ARCHITECTURES[index], images(seed=index)
    paper.eval()
    subnet = paper.extract(arch)
    paper.zero_grad()
    paper(x, arch).square().sum().backward()
    subnet(x).square().sum().backward()
    home = {name: (target, index) for name, target, index in paper.slices(subnet, arch)}
    found = {name: p.grad for name, p in paper.named_parameters() if p.grad is not None}
    assert found.keys() == {home[name][0] for name, _ in subnet.named_parameters()}
    for name, p in subnet.named_parameters():
        target, slices = home[name]
        scale = p.grad.abs().max().item()
        assert_close(found[target][slices], p.grad, rtol=1e-3, atol=1e-4 * scale + 1e-6)
        assert found[target].count_nonzero() == found[target][slices].count_nonzero()  # none beyond the slice
    paper.zero_grad()


def test_subnet_is_rest_of_first_layer(space, randomise):
    subnet = randomise(Subnet(space, space.sample(np.random.default_rng(0)))).eval()
    x = images(4, 8)
    assert torch.equal(subnet(x), subnet.rest(subnet.first_layer(x)))
    assert isinstance(subnet.first_layer, nn.Conv2d)
    assert subnet.first_layer.bias is None  # linear, not affine: TRADES-YOPO's closed form rests on it


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("attention", ["embedded", "gaussian"])
def test_fresh_non_local_block_is_the_identity(attention, norm, size):
    block = NonLocal(6, 4, attention, norm)
    initialise(block, torch.Generator().manual_seed(0))
    x = torch.randn(3, 6, size, size, generator=torch.Generator().manual_seed(1))
    assert torch.equal(block.eval()(x), x)
    if size > 1:
        assert torch.equal(block.train()(x), x)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("attention", ["embedded", "gaussian"])
def test_non_local_block_by_its_formula(attention, size, randomise):
    # Wang et al. 2018, Eq. 1: y_i = sum_j softmax_j(theta(x_i) . phi(x_j)) g(x_j), position by position.
    block = randomise(NonLocal(6, 4, attention)).eval()
    x = torch.randn(1, 6, size, size, generator=torch.Generator().manual_seed(1))

    def pooled(t):
        return F.max_pool2d(t, 2) if size >= 2 else t

    query, key = (block.theta(x), block.phi(x)) if attention == "embedded" else (x, x)
    query, key, value = query[0].flatten(1), pooled(key)[0].flatten(1), pooled(block.g(x))[0].flatten(1)
    columns = []
    for i in range(query.shape[1]):
        weights = torch.stack([query[:, i] @ key[:, j] for j in range(key.shape[1])]).softmax(0)
        columns.append(sum(w * value[:, j] for j, w in enumerate(weights)))
    mixed = torch.stack(columns, 1).reshape(1, 4, size, size)
    assert_close(block(x), x + block.out(mixed), rtol=1e-4, atol=1e-5)


def test_generator_decides_the_weights(space):
    def fresh(seed):
        return state(Subnet(space, arch, torch.Generator().manual_seed(seed)))

    arch = space.sample(np.random.default_rng(0))
    assert_close(fresh(1), fresh(1), **EXACT)
    assert not torch.equal(fresh(1)["first_layer.weight"], fresh(2)["first_layer.weight"])


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_stride_1_stage_transitions_work(activation):
    space = SearchSpace(
        channels=(32, 48, 64), repeats=(1, 2, 1), strides=(1, 2, 2), blocks=(0, 3, 6, 15, 20), activation=activation
    )
    supernet = Supernet(space, torch.Generator().manual_seed(0)).eval()
    first = supernet.rest.layers[0]["0"]
    assert first(torch.rand(2, 24, 8, 8)).shape == (2, 32, 8, 8)
    for block in (0, 3, 6, 15):
        arch = Architecture((block,) * 4, (0.6,) * 4)
        with torch.no_grad():
            assert_close(supernet(images(2, 8), arch), supernet.extract(arch)(images(2, 8)))
    assert not space.is_legal(Architecture((20, 0, 20, 0), (1.0,) * 4))
    assert space.is_legal(Architecture((0, 0, 20, 0), (1.0,) * 4))


def test_shapes_of_every_block():
    for layer in set(SearchSpace.paper().layers):
        for block in (block for block, kind in enumerate(BLOCKS) if kind.allowed(layer)):
            module = choice_block(layer, block, 0.2).eval()
            with torch.no_grad():
                out = module(torch.rand(1, layer.cin, 4, 4))
            assert out.shape == (1, layer.cout, 4 // layer.stride, 4 // layer.stride)
            assert isinstance(module, PureRobustBlock if block >= 18 else TinyBlock)


def test_stride_1_block_passes_one_half(randomise):
    # ShuffleNetV2's unit: the halves are interleaved first, so that each layer works on both of them in turn.
    layer = SearchSpace.paper().layers[1]
    block = randomise(choice_block(layer, 0, 1.0)).eval()
    x = torch.rand(2, 48, 4, 4)
    interleaved = torch.stack((x[:, :24], x[:, 24:]), 2).flatten(1, 2)
    assert torch.equal(block(x)[:, :24], interleaved[:, :24])
    assert_close(block(x)[:, 24:], block.branch(interleaved[:, 24:]))  # another memory layout, other rounding


def test_moving_the_supernet_moves_momentum(small):
    small.double()
    arch = arch_of(small, 0)
    subnet, optimiser = with_optimiser(small, arch)
    assert {tensor.dtype for tensor in small.momentum.values()} == {torch.float64}
    assert next(iter(optimiser.state.values()))["momentum_buffer"].dtype == torch.float64
    nn.init.zeros_(subnet.first_layer.weight)
    small.absorb(subnet)
    assert not small.first_layer.weight.any()
