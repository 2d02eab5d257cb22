"""Studies with planted accuracies, for the claims."""

from dataclasses import replace

import numpy as np

from tamnas.records import Label
from tamnas.report.study import ControlResults, TrainedNetwork
from tamnas.space.architecture import Architecture


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


def with_control(row, robust) -> ControlResults:
    """The row's networks at the common attack, beside those of another control."""
    networks = [
        another(
            replace(one, test=replace(one.test, grid=dict.fromkeys(one.test.grid, value))),
            id=f"{control}-{one.id}",
            label=Label(control, "scratch", one.id, 0),
        )
        for one, share in zip(row.scratch, robust, strict=True)
        for control, value in (("common_attack", share), ("random_networks", 0.1))
    ]
    return ControlResults({"common_attack": "run"}, networks)


def counted(several, gene, shallow, deep, votes=10):
    """A Lego-Net whose voters choose `shallow` in the first half of 16 layers and `deep` in the second."""
    lines = [
        {"layer": layer, "gene": gene, "value": value, "count": count, "rank": rank}
        for layer in range(16)
        for rank, (value, count) in enumerate(shallow(votes) if layer < 8 else deep(votes))
    ]
    return replace(several, pooled=replace(several.pooled, counts=lines))


def with_pooled(several, parameters, clean, robust, apart=0.0005):
    """`several` with this Lego-Net; every second training, with seeds that nothing else has, differs by `apart`."""
    network, again = with_tests([several.pooled.network] * 2, [clean, clean + apart], [robust, robust + apart])
    repeats = {seed: again.test if seed % 2 else network.test for seed in range(91, 100)}
    network = replace(another(network, parameters=parameters), repeats=repeats)
    return replace(several, pooled=replace(several.pooled, network=network))


def ranked(row):
    """The order after training is that of inherited weights recalibrated as the search does, reversed without."""
    ranking = [
        replace(
            one,
            trained={"clean": 0.8 + index / 100, "robust": 0.5 + index / 100},
            inherited={
                "none": {"clean": 0.3 - index / 100, "robust": 0.2 - index / 100},
                "clean": {"clean": 0.6 + index / 100, "robust": 0.4 + index / 100},
            },
        )
        for index, one in enumerate(row.ranking)
    ]
    return replace(row, ranking=ranking)
