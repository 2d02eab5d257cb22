"""What the best networks have in common, and Lego-Net from it (paper, Section IV-E; Figures 8, 9).

All choices look at validation accuracies only.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import fsum

from scipy.stats import kendalltau

from tamnas.errors import InputError
from tamnas.space import Architecture, SearchSpace


def top(records: Sequence[dict], count: int, weights: str) -> list[dict]:
    """The `count` best trained networks by clean + robust validation accuracy (`weights`: best or last)."""
    return sorted(records, key=lambda record: (-_score(record, weights), record["parameters"], record["id"]))[:count]


def best(records: Sequence[dict], weights: str) -> dict:
    """A row's representative: the highest robust validation accuracy, then clean, then smaller."""
    return max(records, key=lambda r: (r[weights]["robust"], r[weights]["clean"], -r["parameters"]))


def _score(record: dict, weights: str) -> float:
    return record[weights]["clean"] + record[weights]["robust"]


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


def spread(count: int, at_most: int | None) -> list[int]:
    """Indices of at most `at_most` of `count` items, evenly spread, both ends included."""
    if at_most is None or at_most >= count:
        return list(range(count))
    if at_most == 1:
        return [0]
    return sorted({round(i * (count - 1) / (at_most - 1)) for i in range(at_most)})
