"""Lego-Net: from the validation accuracies of trained networks to one architecture."""

from collections import defaultdict
from collections.abc import Sequence
from math import fsum

from scipy.stats import kendalltau

from tamnas.errors import InputError
from tamnas.files import FORMAT, read_json
from tamnas.pipeline.paths import results, seeded
from tamnas.records import top
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


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


def layer_counts(records: Sequence[dict], weights: str) -> list[dict]:
    """Per layer and per gene kind: how often each value is used, most frequent first.

    Ties go to the value whose networks have the higher mean robust validation accuracy, then to
    the smaller value.
    """
    rows = []
    depth = len(records[0]["architecture"]["blocks"])
    for layer in range(depth):
        for kind in ("blocks", "ratios"):
            robust = defaultdict(list)
            for record in records:
                robust[record["architecture"][kind][layer]].append(record[weights]["robust"])
            # fsum: equal sets of accuracies have equal means, whatever the order of the networks
            means = {value: fsum(found) / len(found) for value, found in robust.items()}
            ranked = sorted(robust, key=lambda value: (-len(robust[value]), -means[value], value))
            rows += [
                {
                    "layer": layer, "gene": kind.removesuffix("s"), "value": value, "rank": rank,
                    "count": len(robust[value]), "mean_robust": means[value],
                }
                for rank, value in enumerate(ranked)
            ]  # fmt: skip
    return rows


def lego_net(space: SearchSpace, counts: Sequence[dict]) -> Architecture:
    """The most frequent legal block and the most frequent ratio of every layer."""
    blocks, ratios = [], []
    for layer in range(len(space.layers)):
        ranked = {
            gene: [row["value"] for row in counts if row["layer"] == layer and row["gene"] == gene]
            for gene in ("block", "ratio")
        }
        legal = {
            "block": [value for value in ranked["block"] if value in space.allowed_blocks(layer)],
            "ratio": [value for value in ranked["ratio"] if value in space.ratios],
        }
        for gene, values in legal.items():
            if not values:
                raise InputError(
                    f"legonet: layer {layer}: no voter's {gene} is in the space of the mode that shapes it"
                )
        blocks.append(legal["block"][0])
        ratios.append(legal["ratio"][0])
    return space.require_legal(Architecture(tuple(blocks), tuple(ratios)))


def rank_correlation(inherited: Sequence[float], trained: Sequence[float]) -> dict[str, float | int | None]:
    """Kendall's tau-b between two rankings, with its p-value; None where a ranking is constant."""
    if len(inherited) < 2 or len(set(inherited)) == 1 or len(set(trained)) == 1:
        return {"tau": None, "p_value": None, "networks": len(inherited)}
    result = kendalltau(inherited, trained)
    return {"tau": float(result.statistic), "p_value": float(result.pvalue), "networks": len(inherited)}
