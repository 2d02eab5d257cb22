"""Lego-Net: from the validation accuracies of trained networks to one architecture."""

from collections.abc import Sequence

from tamnas.fields import FORMAT
from tamnas.space import Architecture, SearchSpace
from tamnas.stage import read_json, results, seeded
from tamnas.statistics import layer_counts, lego_net, rank_correlation, top


def trained_networks(dataset: str, rows: Sequence[str], seed: int) -> list[dict]:
    """Records of all networks that `rows` trained from scratch, with `row` and inherited accuracies."""
    networks = []
    for row in rows:
        selected = read_json(results(dataset, "select", row) / "selected.json")["networks"]
        inherited = {one["id"]: {"clean": one["clean"], "robust": one["robust"]} for one in selected}
        trained = read_json(seeded(results(dataset, "retrain_scratch", row), seed) / "validation.json")["networks"]
        networks += [{**record, "row": row, "inherited": inherited[record["id"]]} for record in trained]
    return networks


def design(
    space: SearchSpace, networks: Sequence[dict], count: int, weights: str
) -> tuple[Architecture, list[dict], dict]:
    """(Lego-Net, counts per layer, statistics) from the `count` best networks.

    `weights` (best or last) says by which validation accuracies. The statistics are JSON-able:
    who voted, and Kendall's tau between inherited and trained accuracies of all networks.
    """
    voters = top(networks, count, weights)
    counts = layer_counts(voters, weights)
    arch = lego_net(space, counts)
    correlation = {
        figure: rank_correlation(
            [network["inherited"][figure] for network in networks], [network[weights][figure] for network in networks]
        )
        for figure in ("clean", "robust")
    }
    return arch, counts, {
        "format": FORMAT,
        "architecture": arch.plain(),
        "parameters": space.parameters(arch),
        "voters": [{"row": network["row"], "id": network["id"]} for network in voters],
        "weights": weights,
        "kendall_tau": correlation,
    }  # fmt: skip
