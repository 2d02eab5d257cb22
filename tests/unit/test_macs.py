"""Multiply-accumulates from the space alone, against torch's counter on the networks themselves."""

import dataclasses

import numpy as np
import pytest

from tamnas.config.resolve import parse_params
from tamnas.errors import InputError
from tamnas.evaluation import costs
from tamnas.networks.subnet import Subnet
from tamnas.space.blocks import BLOCKS, BlockKind, register_block
from tamnas.space.space import SearchSpace
from tests.helpers.tiny import tiny_params

SMALL = SearchSpace(
    num_classes=3, stem_channels=6, channels=(10, 14), repeats=(2, 2), strides=(2, 1), head=(8, 17, 16),
    ratios=(0.2, 1.4),
)  # fmt: skip


@pytest.mark.parametrize("size", [4, 5, 7, 9, 16, 33])
@pytest.mark.parametrize("strides", [(2, 1), (2, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("repeats", [(2, 2), (2, 1)], ids=str)
def test_odd_sizes_and_maps_of_one_pixel(size, strides, repeats):
    space = dataclasses.replace(SMALL, size=size, strides=strides, repeats=repeats)
    generator = np.random.default_rng(size)
    for _ in range(6):
        arch = space.sample(generator)
        assert space.macs(arch) == costs.macs(Subnet(space, arch), size)


@pytest.mark.parametrize("size", [8, 9])
def test_pooling_and_the_classifier_alone_as_head(size):
    space = dataclasses.replace(SMALL, head=None, size=size)
    arch = space.sample(np.random.default_rng(0))
    assert space.macs(arch) == costs.macs(Subnet(space, arch), size)


def test_rows_of_genes_and_the_range():
    generator = np.random.default_rng(0)
    genes = SMALL.sample_genes(generator, 500)
    counts = SMALL.mac_sums.of(genes)
    assert counts.tolist() == [SMALL.macs(SMALL.decode(row)) for row in genes]
    low, high = SMALL.mac_sums.range()
    assert low <= counts.min() < counts.max() <= high
    table = SMALL.mac_sums.table
    legal = [layer[layer >= 0] for layer in table.reshape(len(table), -1)]
    assert (low, high) == tuple(SMALL.mac_sums.fixed + sum(int(end(layer)) for layer in legal) for end in (min, max))
    assert (table < 0).tolist() == (SMALL.table < 0).tolist()


def test_a_block_without_a_count_is_refused_where_macs_are_an_objective():
    register_block(BlockKind(len(BLOCKS), "B", "pure tiny", "nowhere:B", lambda layer, ratio: 7))
    try:
        raw = tiny_params()
        raw["space"]["blocks"] = [0, 22]
        parse_params(raw)
        raw["search"]["objectives"] = ["robust_error", "macs"]
        with pytest.raises(InputError) as caught:
            parse_params(raw)
    finally:
        del BLOCKS[22:]
    assert str(caught.value) == (
        "params.yaml: modes.base: search.objectives: macs, search.max_macs: choice block 22, 'B', counts no macs"
    )
