"""Studies with planted accuracies, for the claims."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from tamnas.report import collect
from tamnas.report.study import Dataset, TrainedNetwork
from tamnas.space.architecture import Architecture
from tests.helpers.small_results import params, write_run

MODES = {"S_8_10": {}, "S_8_1": {}, "S_6_10": {}, "S_2_10": {}}


@contextmanager
def four_modes(tmp_path_factory) -> Iterator[Dataset]:
    """A dataset with four modes of six networks each, in a project that tests may not change."""
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_run(params("cifar10", MODES, eval={"steps": [10, 30, 50]}), folder, networks=6)
        (dataset,) = collect.collect()
        yield dataset


def with_tests(networks, clean, robust, images=10_000):
    """`networks` with these accuracies, one each; the grid loses `robust` at 8/255, less at smaller radii."""
    found = []
    for one, a, b in zip(networks, clean, robust, strict=True):
        grid = {attack: a - (a - b) * float(attack.eps * 255 / 8) for attack in one.test.grid}
        found.append(replace(one, test=replace(one.test, clean=a, grid=grid, images=images)))
    return found


def around(mean, count=6, spread=0.004):
    """`count` values with this mean, symmetric about it."""
    return list(mean + spread * np.linspace(-1, 1, count))


def rows_with(dataset, **robust):
    """`dataset` with the scratch-trained networks of a mode at these robust accuracies (by mode)."""
    rows = [replace(row, scratch=with_tests(row.scratch, [0.9] * 6, robust[row.plan.mode])) for row in dataset.rows]
    return replace(dataset, rows=rows)


def retrained_alike(dataset):
    """`dataset` with one retraining attack for all modes."""
    attack = dataset.rows[0].plan.retrain.scratch.attack

    def patched(plan):
        scratch = plan.retrain.scratch.model_copy(update={"attack": attack})
        return plan.model_copy(update={"retrain": plan.retrain.model_copy(update={"scratch": scratch})})

    return replace(dataset, rows=[replace(row, plan=patched(row.plan)) for row in dataset.rows])


def verdict(judge, dataset):
    finding = judge(dataset)
    assert finding.numbers
    return finding.verdict


def another(network: TrainedNetwork, id: str | None = None, architecture: Architecture | None = None, **changes):
    """`network` with another id or architecture, or other fields of its record."""
    spec = network.record.network
    spec = replace(spec, id=id or spec.id, architecture=architecture or spec.architecture)
    return replace(network, record=replace(network.record, network=spec, **changes))
