"""Latency as an objective: every part of a network is timed once on this machine, a network's time is their sum.

A wall time is no figure that repeats: what such a search finds is true of one machine, and other runs differ in bits.
The table is kept beside the evaluations, so that a search that was killed goes on with it to the same end.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from tamnas.config.plan import SearchStagePlan
from tamnas.evaluation.costs import RUNS, latency, processor
from tamnas.files import FORMAT
from tamnas.networks.blocks import ACTIVATIONS, choice_block
from tamnas.networks.subnet import Subnet
from tamnas.pipeline.progress import Progress
from tamnas.pipeline.store import kept
from tamnas.space.blocks import BLOCKS
from tamnas.space.space import SearchSpace
from tamnas.space.sums import Sums


def measured_latencies(plan: SearchStagePlan, folder: Path) -> dict | None:
    """`time_parts` of the plan's space, kept in `folder`; None where its search does not optimise latency."""
    if "latency" not in plan.search.objectives:
        return None
    space = SearchSpace.from_params(plan)
    return kept(folder / "latencies.json", lambda: time_parts(space), "measuring latencies")


def time_parts(space: SearchSpace) -> dict:
    """JSON-able: milliseconds of `stem_and_head`, and of `blocks` by layer, block and ratio (null: not legal there).

    Each the median of `runs` passes of one image on one CPU thread, as `tamnas.evaluation.costs.latency` of a network.
    """
    act_layer = ACTIVATIONS[space.activation]
    places = list(zip(space.layers, space.sizes[:-1], strict=True))
    tables: dict[tuple, list] = {}  # layers that are alike are timed once
    with Progress("latencies", len(set(places))) as progress:
        for layer, size in places:
            if (layer, size) not in tables:
                tables[layer, size] = [
                    [
                        latency(choice_block(layer, block, ratio, act_layer), size, layer.cin)
                        if BLOCKS[block].allowed(layer)
                        else None
                        for ratio in space.ratios
                    ]
                    for block in space.blocks
                ]
                progress.step()
    subnet = Subnet(space, space.sample(np.random.default_rng(0)))  # all have one stem and one head
    stem = nn.Sequential(subnet.first_layer, subnet.rest.norm, subnet.rest.act)
    fixed = latency(stem, space.size) + latency(subnet.rest.head, space.sizes[-1], space.layers[-1].cout)
    blocks = [tables[place] for place in places]
    return {"format": FORMAT, "processor": processor(), "runs": RUNS, "stem_and_head": fixed, "blocks": blocks}


def search_space(plan: SearchStagePlan, latencies: Mapping | None) -> SearchSpace:
    """The plan's under `search.max_macs`, with what `time_parts` measured of it, if that is given."""
    space = replace(SearchSpace.from_params(plan), max_macs=plan.search.max_macs)
    return space if latencies is None else with_latencies(space, latencies)


def with_latencies(space: SearchSpace, measured: Mapping) -> SearchSpace:
    table = np.array(measured["blocks"], dtype=float)  # null becomes NaN
    return replace(space, latencies=Sums(measured["stem_and_head"], np.where(np.isnan(table), -1, table)))
