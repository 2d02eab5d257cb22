"""Lego-Net: from the validation accuracies of trained networks to one architecture."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path

from tamnas.config.plan import LegonetStagePlan
from tamnas.errors import InputError
from tamnas.files import FORMAT, write_csv, write_json
from tamnas.pipeline.paths import seeded, validation
from tamnas.records import Job, NetworkSpec, Record, read_records
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace

DIGITS = 9  # of shares of images, whose sums tie although their last bits differ


def design_and_train(plan: LegonetStagePlan, checkpoints: Path, trained: Path, small: Path) -> None:
    """Design and train the plan's Lego-Net: weights to `trained`, small results to `small`.

    Raises InputError, or DeadlineError after writing what is finished.
    """
    from tamnas.training.networks import TrainingTask, train_and_write  # torch, for seconds

    networks = candidates(plan.dataset, plan.rows, plan.seed)
    arch, counts, statistics = design(SearchSpace.from_params(plan), networks, plan.top, plan.weights)
    job = Job(NetworkSpec("lego", arch), plan.training, (plan.seed, "legonet", plan.name))
    task = TrainingTask.of(plan, checkpoints)
    train_and_write(task, [job], f"legonet {plan.name}", trained, seeded(small, plan.seed))
    write_csv(small / "counts.csv", counts)
    write_json(small / "statistics.json", statistics)


@dataclass(frozen=True)
class Voter:
    """A network trained from scratch that may vote, with its row."""

    row: str
    record: Record


def candidates(dataset: str, rows: Sequence[str], seed: int) -> list[Voter]:
    """All networks that `rows` trained from scratch. Raises InputError."""
    voters = []
    for row in rows:
        records = read_records(validation(dataset, "retrain_scratch", row, seed))
        voters += [Voter(row, record) for record in records]
    return voters


def top(networks: Sequence[Voter], count: int, weights: str) -> list[Voter]:
    """The `count` best by clean + robust validation accuracy (`weights`: best or last), ties by size, then id."""

    def order(network: Voter) -> tuple:
        score = network.record.score(weights)
        return -round(score.clean + score.robust, DIGITS), network.record.parameters, network.record.id

    return sorted(networks, key=order)[:count]


def design(
    space: SearchSpace, networks: Sequence[Voter], count: int, weights: str
) -> tuple[Architecture, list[dict], dict]:
    """(Lego-Net, counts per layer, statistics) from the `count` best networks.

    `weights` (best or last) says by which validation accuracies. The statistics, who voted, are JSON-able.
    """
    voters = top(networks, count, weights)
    counts = layer_counts([voter.record for voter in voters], weights)
    arch = lego_net(space, counts)
    statistics = {
        "format": FORMAT,
        "architecture": arch.plain(),
        "parameters": space.parameters(arch),
        "voters": [{"row": voter.row, "id": voter.record.id} for voter in voters],
        "weights": weights,
    }
    return arch, counts, statistics


def layer_counts(records: Sequence[Record], weights: str) -> list[dict]:
    """Per layer and per gene kind: how often each value is used, most frequent first.

    Ties go to the value whose networks have the higher mean robust validation accuracy, then to
    the smaller value.
    """
    rows = []
    depth = len(records[0].network.architecture.blocks)
    for layer in range(depth):
        for kind in ("blocks", "ratios"):
            robust = defaultdict(list)
            for record in records:
                robust[getattr(record.network.architecture, kind)[layer]].append(record.score(weights).robust)
            # fsum: equal sets of accuracies have equal means, whatever the order of the networks
            means = {value: fsum(accuracies) / len(accuracies) for value, accuracies in robust.items()}
            ranked = sorted(robust, key=lambda value: (-len(robust[value]), -round(means[value], DIGITS), value))
            for rank, value in enumerate(ranked):
                row = {"layer": layer, "gene": kind.removesuffix("s"), "value": value, "rank": rank}
                rows.append(row | {"count": len(robust[value]), "mean_robust": means[value]})
    return rows


def lego_net(space: SearchSpace, counts: Sequence[dict]) -> Architecture:
    """The most frequent legal block and the most frequent ratio of every layer."""
    blocks, ratios = [], []
    for layer in range(len(space.layers)):
        for gene, chosen, legal in (("block", blocks, space.allowed_blocks(layer)), ("ratio", ratios, space.ratios)):
            ranked = [row["value"] for row in counts if (row["layer"], row["gene"]) == (layer, gene)]
            voted = [value for value in ranked if value in legal]
            if not voted:
                raise InputError(
                    f"legonet: layer {layer}: no voter's {gene} is in the space of the mode that shapes it"
                )
            chosen.append(voted[0])
    return space.require_legal(Architecture(tuple(blocks), tuple(ratios)))
