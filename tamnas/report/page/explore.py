"""What the page's charts show, as plain JSON: every tested network, and every subnet that a search evaluated.

The `key` of a network is its name on the command line. Accuracies are in percent. Networks come one by one; a search
comes as columns, which take half the bytes.
"""

from collections.abc import Sequence

import numpy as np

from tamnas.attacks.registry import Attack
from tamnas.config.plan import RowPlan
from tamnas.report.accuracy import accuracy_value
from tamnas.report.figures.architectures import block_label
from tamnas.report.page.words import accuracy_text
from tamnas.report.study import HAND_MADE, LEGO, Dataset, RowResults, Tested, TrainedNetwork
from tamnas.report.terms import listed_attacks, name_of
from tamnas.search.objectives import OBJECTIVES
from tamnas.space.architecture import Architecture
from tamnas.space.blocks import BLOCKS
from tamnas.space.space import SearchSpace

CLEAN = "clean"


def networks(datasets: Sequence[Dataset]) -> list[dict]:
    """All tested networks of the study itself."""
    numbers = {attack: number for number, attack in enumerate(attack_names(datasets))}
    return [_network(dataset, numbers, one) for dataset in datasets for one in dataset.tested()]


def best_keys(datasets: Sequence[Dataset]) -> dict[str, str]:
    """By dataset, of the network that the page shows first: the best subnet of the best row by validation."""
    rows = {dataset.name: dataset.best_row for dataset in datasets if dataset.best_row}
    return {dataset: f"{row.name}/{row.best.id}" for dataset, row in rows.items()}


def attack_names(datasets: Sequence[Dataset]) -> dict[str, str]:
    """What `accuracies` of the networks are of, which name it by its place here: the bytes of many networks count."""
    ran = {
        attack.key: attack.text
        for dataset in datasets
        for tested in dataset.tested()
        for attack in tested.network.test.grid
    }
    return {CLEAN: "None (clean)", **ran}


def blocks() -> list[dict]:
    """What the drawing of an architecture says of each choice block."""
    return [{"block": kind.id, "family": kind.family, "text": block_label(kind)} for kind in BLOCKS]


def _network(dataset: Dataset, numbers: dict[str, int], tested: Tested) -> dict:
    network, plan, kind = tested.network, tested.plan, tested.kind
    of_row = isinstance(plan, RowPlan)
    place = plan.row if of_row else HAND_MADE if kind == HAND_MADE else "pooled"
    names = {LEGO: f"Lego-Net of {place}" if of_row else "Lego-Net, pooled", HAND_MADE: name_of(network.id)}
    name = names.get(kind, f"{place} {network.id}, {kind}")
    listed = listed_attacks(dataset, [network])
    attacks = [None, *listed, *(attack for attack in network.test.grid if attack not in listed)]
    return {
        "key": tested.name,
        "name": name + ", at chance" * network.at_chance,
        "dataset": dataset.name,
        "row": place,
        "mode": plan.mode if of_row else place,
        "kind": kind,
        "parameters": network.parameters,
        "macs": network.costs.macs,
        **_with_interval("clean", network, None),
        **_with_interval("robust", network, dataset.key_attack),
        "accuracies": [
            [numbers[attack.key if attack else CLEAN], accuracy_text(network, attack)] for attack in attacks
        ],
        "curve": _curve(dataset, network),
        "layers": _layers(network, SearchSpace.from_params(plan)) if network.architecture else None,
        "weights": str(tested.file),
    }


def _with_interval(name: str, network: TrainedNetwork, attack: Attack | None) -> dict[str, float | None]:
    value = accuracy_value(network, attack)
    low, high = value.interval or (None, None)
    return {name: _percent(value.measured), f"{name}_low": _percent(low), f"{name}_high": _percent(high)}


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _curve(dataset: Dataset, network: TrainedNetwork) -> dict[str, list[float]]:
    """Accuracy over the radius of the PGD with the most steps that ran at every radius of the grid."""
    steps = max(dataset.plan.eval.steps)
    attacks = {0.0: None, **{float(attack.eps) * 255: attack for attack in network.test.pgd if attack.steps == steps}}
    points = [_with_interval("accuracy", network, attack) for attack in attacks.values()]
    return {"eps": [round(eps, 3) for eps in attacks]} | {name: [one[name] for one in points] for name in points[0]}


def _layers(network: TrainedNetwork, space: SearchSpace) -> dict[str, list]:
    """One value a choice block; of `largest`, the largest ratio of the space, one in all."""
    arch = network.architecture
    return {
        "layer": list(range(len(arch.blocks))),
        "block": list(arch.blocks),
        "ratio": list(arch.ratios),
        "channels": [layer.middle(ratio) for layer, ratio in zip(space.layers, arch.ratios, strict=True)],
        "largest": space.max_ratio,
    }


def searches(datasets: Sequence[Dataset]) -> list[dict]:
    """One for each row that was searched: its subnets as columns.

    `born`: generation that evaluated a subnet; `front`: the last generation in which no subnet evaluated until then
    dominates it, one less than `born` if never. `key`: of the network trained from it from scratch, else empty. `macs`:
    None where a choice block counts none.
    """
    return [_search(dataset, row) for dataset in datasets for row in dataset.rows if row.individuals]


def _search(dataset: Dataset, row: RowResults) -> dict:
    lines = row.individuals
    trained = {str(network.architecture): network.id for network in row.scratch}
    idents = [trained.get(line["architecture"]) for line in lines]
    return {
        "dataset": dataset.name,
        "row": row.name,
        "generations": max(line["generation"] for line in lines),
        "born": [line["generation"] for line in lines],
        "front": last_on_front(row),
        "parameters": [line["parameters"] for line in lines],
        "macs": _macs(row),
        **{which: [_percent(line[which]) for line in lines] for which in ("clean", "robust")},
        "key": [f"{row.name}/{ident}" if ident else "" for ident in idents],
    }


def _macs(row: RowResults) -> list[int] | None:
    if any(BLOCKS[block].macs is None for block in row.space.blocks):
        return None
    return [row.space.macs(Architecture.parse(line["architecture"])) for line in row.individuals]


def last_on_front(row: RowResults) -> list[int]:
    """For each line of `row.individuals`, `front` of `searches`."""
    objectives = [OBJECTIVES[name] for name in row.plan.search.objectives]
    costs = np.array([[objective.cost(line[objective.column]) for objective in objectives] for line in row.individuals])
    born = np.array([line["generation"] for line in row.individuals])
    last = []
    for own, birth in zip(costs, born, strict=True):
        dominated = (costs <= own).all(axis=1) & (costs < own).any(axis=1)
        last.append(int(max(born[dominated].min(), birth) - 1 if dominated.any() else born.max()))
    return last
