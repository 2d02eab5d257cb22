import dataclasses
import json
from contextlib import suppress
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from tamnas.errors import InputError
from tamnas.networks.blocks import choice_block
from tamnas.networks.subnet import Subnet
from tamnas.networks.supernet import Supernet
from tamnas.space.architecture import Architecture
from tamnas.space.blocks import BLOCKS, RATIOS
from tamnas.space.space import SearchSpace

PAPER = {width: SearchSpace.paper(width=width) for width in (1, 2)}
TRANSITIONS = (0, 4, 12)
# Design section 5: (block, ratio) -> parameters at width 1 and 2.
GOLDEN = {
    (0, 0.2): (1_646_792, 1_878_086),
    (0, 1.0): (1_747_704, 2_265_486),
    (0, 2.0): (1_874_136, 2_748_750),
    (3, 1.0): (1_826_040, 2_537_094),
    (5, 2.0): (2_316_024, 4_091_142),
    (6, 1.0): (1_865_064, 2_736_426),
    (12, 1.0): (1_806_600, 2_501_394),
    (18, 1.0): (2_085_678, 3_623_994),
    (21, 1.0): (1_899_486, 2_887_578),
}

blocks = st.integers(0, len(BLOCKS) - 1)
ratios = st.floats(0, 8, exclude_min=True, allow_subnormal=False)
architectures = st.lists(st.tuples(blocks, ratios), min_size=1, max_size=20).map(
    lambda genes: Architecture(*zip(*genes, strict=True))
)


def uniform(block: int, ratio: float) -> Architecture:
    """`block` everywhere; 0 at transitions where it is not legal."""
    legal = [0 if i in TRANSITIONS and block >= 18 else block for i in range(16)]
    return Architecture(tuple(legal), (ratio,) * 16)


def counted(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def unset(monkeypatch):
    """Modules whose tensors are never filled: counting needs shapes alone, and thousands are built."""
    for kind in (nn.modules.conv._ConvNd, nn.Linear, nn.BatchNorm2d):
        monkeypatch.setattr(kind, "reset_parameters", lambda self: None)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize(("gene", "totals"), GOLDEN.items(), ids=str)
def test_golden_totals(gene, totals, width):
    assert PAPER[width].parameters(uniform(*gene)) == totals[width - 1]


@pytest.mark.parametrize(("width", "fixed"), [(1, 1_575_384), (2, 1_609_176)])
def test_golden_fixed_parameters(width, fixed):
    assert PAPER[width].fixed_parameters == fixed


def test_golden_supernet(unset):
    assert counted(Supernet(PAPER[1])) == 14_021_736


@pytest.mark.parametrize("width", [1, 2])
def test_table_equals_counted_modules(width, unset):
    space = PAPER[width]
    assert len(set(space.layers)) == 6
    for index in map(space.layers.index, set(space.layers)):
        for (j, block), (k, ratio) in product(enumerate(space.blocks), enumerate(space.ratios)):
            if BLOCKS[block].allowed(space.layers[index]):
                module = choice_block(space.layers[index], block, ratio)
                assert space.table[index, j, k] == counted(module), (space.layers[index], block, ratio)
            else:
                assert space.table[index, j, k] == -1


@pytest.mark.parametrize("width", [1, 2])
def test_parameters_of_whole_subnets(width, unset):
    space, generator = PAPER[width], np.random.default_rng(width)
    for _ in range(50):
        arch = space.sample(generator)
        assert space.parameters(arch) == counted(Subnet(space, arch))


def test_parameters_of_other_geometries(space, unset):
    variants = [
        space,
        dataclasses.replace(PAPER[1], strides=(1, 2, 2)),
        dataclasses.replace(space, num_classes=43, width=1.5, head=(10, 7, 3), blocks=tuple(range(22))),
        dataclasses.replace(space, num_classes=43, head=None),
    ]
    for variant in variants:
        arch = variant.sample(np.random.default_rng(0))
        assert variant.parameters(arch) == counted(Subnet(variant, arch))


def test_block_table():
    # Table VII as the design reads it: kernels have period 3, attention and branch period 6 and 3.
    for kind in BLOCKS[:18]:
        assert kind.kernel == (3, 5, 7)[kind.id % 3]
        assert kind.branch == ("shuffle", "xception")[kind.id // 3 % 2]
        assert kind.attention == (None, "embedded", "gaussian")[kind.id // 6]
        assert kind.family == ("pure tiny" if kind.id < 6 else "tiny robust")
    assert [(k.attention, k.attention_norm) for k in BLOCKS[18:22]] == list(
        product(("embedded", "gaussian"), (True, False))
    )
    assert {k.family for k in BLOCKS[18:22]} == {"pure robust"}
    assert [kind.id for kind in BLOCKS] == list(range(len(BLOCKS)))
    assert len({kind.name for kind in BLOCKS}) == len(BLOCKS)


def test_legality():
    space = PAPER[1]
    base = uniform(0, 1.0)
    assert space.is_legal(base)
    for layer, block in product(range(16), range(22)):
        arch = dataclasses.replace(base, blocks=(*base.blocks[:layer], block, *base.blocks[layer + 1 :]))
        legal = block < 18 or layer not in TRANSITIONS
        assert space.is_legal(arch) == legal
        if not legal:
            with pytest.raises(InputError, match=f"block {block} at layer {layer}"):
                space.require_legal(arch)


@pytest.mark.parametrize(
    "arch",
    [
        Architecture((0,) * 15, (1.0,) * 15),
        Architecture((0,) * 17, (1.0,) * 17),
        Architecture((0,) * 16, (1.0,) * 15 + (0.5,)),
        Architecture((0,) * 16, (2.2,) + (1.0,) * 15),
    ],
    ids=str,
)
def test_illegal_is_refused_everywhere(arch):
    space = PAPER[1]
    assert not space.is_legal(arch)
    for use in (space.require_legal, space.parameters, space.encode, lambda arch: Subnet(space, arch)):
        with pytest.raises(InputError, match=r"^architecture: "):
            use(arch)


def test_space_without_a_legal_block_is_refused():
    with pytest.raises(InputError, match=r"space\.blocks: layer 0"):
        dataclasses.replace(PAPER[1], blocks=(18, 20))


@pytest.mark.parametrize("channels", [(49, 96, 192), (24, 96, 192), (48, 48, 192), (48, 40, 192)])
def test_impossible_widths_are_refused(channels):
    with pytest.raises(InputError, match=r"network\.channels"):
        dataclasses.replace(PAPER[1], channels=channels)


def test_a_stage_grows_by_at_least_two_channels():
    with pytest.raises(InputError, match=r"layer 0 goes from 47 to 48 channels; widths must be even and grow"):
        dataclasses.replace(PAPER[1], stem_channels=47)


def test_widths_are_rounded_to_the_nearest():
    space = dataclasses.replace(PAPER[1], stem_channels=8, channels=(10, 20, 40), width=1.19)
    assert sorted({layer.cout for layer in space.layers}) == [12, 24, 48]


def from_json(text: str) -> Architecture:
    return Architecture.from_plain(json.loads(text))


@given(architectures)
def test_architecture_round_trips(arch):
    assert from_json(json.dumps(arch.plain())) == arch
    assert Architecture.parse(str(arch)) == arch
    assert hash(from_json(json.dumps(arch.plain()))) == hash(arch)


@given(st.integers(0, 2**32), st.sampled_from((1, 2)))
def test_encoding_round_trips(seed, width):
    space = PAPER[width]
    genes = space.sample_genes(np.random.default_rng(seed), 1)[0]
    assert np.array_equal(space.encode(space.decode(genes)), genes)
    arch = space.decode(genes)
    assert space.decode(space.encode(arch)) == arch


def test_architecture_is_a_value():
    arch = Architecture([np.int64(15), 0], [np.float64(1.8), 2])
    assert arch == Architecture((15, 0), (1.8, 2.0))
    assert str(arch) == "15@1.8 0@2"
    assert arch.plain() == {"blocks": [15, 0], "ratios": [1.8, 2.0]}
    with pytest.raises(dataclasses.FrozenInstanceError):
        arch.blocks = (1, 2)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(("blocks", "ratios", "x")), inner),
    max_leaves=10,
)


def only_input_error(read, text):
    with suppress(InputError):
        assert isinstance(read(text), Architecture)


@given(st.text(), json_values)
def test_junk_raises_input_error_only(text, plain):
    only_input_error(Architecture.from_plain, plain)
    only_input_error(Architecture.parse, text)


@given(json_values, json_values)
def test_junk_genes_raise_input_error_only(blocks, ratios):
    only_input_error(Architecture.from_plain, {"blocks": blocks, "ratios": ratios})


@given(st.text(alphabet="0123456789@. -e_+naif", max_size=30))
def test_nearly_genes_raise_input_error_only(text):
    only_input_error(Architecture.parse, text)


@pytest.mark.parametrize(
    "text",
    [
        "null",
        '{"blocks": [0]}',
        '{"blocks": [0], "ratios": [1.0], "more": 1}',
        f'{{"blocks": [{len(BLOCKS)}], "ratios": [1.0]}}',
        '{"blocks": [-1], "ratios": [1.0]}',
        '{"blocks": [true], "ratios": [1.0]}',
        '{"blocks": [0.0], "ratios": [1.0]}',
        '{"blocks": ["0"], "ratios": [1.0]}',
        '{"blocks": [0], "ratios": [NaN]}',
        '{"blocks": [0], "ratios": [1e999]}',
        '{"blocks": [0], "ratios": [0]}',
        '{"blocks": [0], "ratios": [true]}',
        '{"blocks": [0, 1], "ratios": [1.0]}',
        '{"blocks": [], "ratios": []}',
        '{"blocks": "0", "ratios": "1"}',
    ],
    ids=lambda text: text[:40],
)
def test_bad_plain_values_are_refused(text):
    with pytest.raises(InputError, match=r"^architecture: .{1,200}$"):
        from_json(text)


@pytest.mark.parametrize("text", ["", "0", "0@", "@1", "0@1@2", "22@1", "-1@1", "0@nan", "0@inf", "0@9", "0@1 1"])
def test_bad_text_is_refused(text):
    with pytest.raises(InputError, match=r"^architecture: "):
        Architecture.parse(text)


def test_sampling_follows_its_generator():
    space = PAPER[1]
    draws = [space.sample(np.random.default_rng(seed), (None, 2_000_000)) for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("budget", [(None, 1_000_000), (9_000_000, None), (2_000_000, 1_900_000)])
def test_infeasible_budget_names_both_ranges(budget):
    space = PAPER[1]
    smallest, largest = space.parameter_range()
    with pytest.raises(InputError) as error:
        space.sample(np.random.default_rng(0), budget)
    for number in (smallest, largest, *filter(None, budget)):
        assert f"{number:,}" in str(error.value)


def test_parameter_range_is_met_exactly():
    space = PAPER[1]
    for allowed in (None, (1.0,), (1.8, 2.0)):
        chosen = [space.ratios.index(ratio) for ratio in allowed or RATIOS]
        totals = []
        for pick in (np.min, np.max):
            best = [pick(table[table >= 0]) for table in space.table[:, :, chosen]]
            totals.append(space.fixed_parameters + sum(best))
        assert space.parameter_range(allowed) == tuple(totals)
    # A budget of one single size at the very border can be drawn in a small space.
    tiny = dataclasses.replace(space, channels=(48,), repeats=(1,), strides=(2,), blocks=(0, 3), ratios=(0.2, 2.0))
    for border in tiny.parameter_range():
        assert tiny.parameters(tiny.sample(np.random.default_rng(0), (border, border))) == border


def test_sampling_is_uniform_per_gene():
    space = PAPER[1]
    genes = space.sample_genes(np.random.default_rng(0), 20_000)
    for layer in range(16):
        counts = np.bincount(genes[:, layer], minlength=22)
        legal = 18 if layer in TRANSITIONS else 22
        assert not counts[legal:].any()
        assert chisquare(counts[:legal]).pvalue > 1e-4
        assert chisquare(np.bincount(genes[:, 16 + layer], minlength=10)).pvalue > 1e-4


def test_acceptance_of_the_paper_budgets():
    # Design section 5: the budgets of the paper fit width 1; at width 2, ratio 2.0 starts near 3M.
    block = PAPER[1].genes_parameters(PAPER[1].sample_genes(np.random.default_rng(0), 20_000, None, (2.0,)))
    assert abs(block.min() - 1_963_000) < 20_000
    assert abs(block.max() - 2_436_000) < 20_000
    assert abs(((block >= 1_823_000) & (block <= 2_375_000)).mean() - 0.997) < 0.002
    joint = PAPER[1].genes_parameters(PAPER[1].sample_genes(np.random.default_rng(0), 5_000))
    assert abs(joint.min() - 1_763_000) < 30_000
    assert abs(joint.max() - 2_233_000) < 30_000
    assert ((joint >= 1_610_000) & (joint <= 2_370_000)).all()
    wide = PAPER[2].genes_parameters(PAPER[2].sample_genes(np.random.default_rng(0), 5_000, None, (2.0,)))
    assert wide.min() > 2_750_000


def test_ratios_open_as_in_the_paper():
    # {2.0, 1.8} first, 1.6 at epoch 40, the next smaller every 20 epochs after that.
    space = PAPER[1]
    expected = {0: 2, 39: 2, 40: 3, 59: 3, 60: 4, 79: 4, 80: 5, 100: 6, 160: 9, 179: 9, 180: 10, 499: 10}
    for epoch, opened in expected.items():
        assert space.open_ratios(epoch, first=2, after=40, every=20) == RATIOS[-opened:]


def test_every_ratio_may_be_open_at_once():
    assert PAPER[1].open_ratios(0, first=99, after=0, every=1) == RATIOS
