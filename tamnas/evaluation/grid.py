"""The final grid: trained networks under PGD on test images (paper, Section IV; Tables II to X)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from tamnas.attacks.registry import EvalAttack, Pgd
from tamnas.config.compute import load_compute
from tamnas.config.plan import EvaluateStagePlan
from tamnas.config.sections import EvalParams
from tamnas.data.loader import load_split
from tamnas.errors import DeadlineError
from tamnas.evaluation.attacked import Hits, Outcome, Running, attack_rows, chosen_images, from_bits, hits, missed
from tamnas.evaluation.costs import cost_rows, latency_rows
from tamnas.evaluation.health import trace_signs
from tamnas.evaluation.kinds import KINDS, seed_folders
from tamnas.evaluation.networks import ABOUT, Batch, GridTask, Network, attack_batch, attack_with_pgd, grid_row
from tamnas.files import FORMAT, write_csv, write_json
from tamnas.networks.trained import trained_record
from tamnas.pipeline.deadline import get_deadline, unfinished_marks
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.paths import prepared, seeded
from tamnas.pipeline.progress import Progress
from tamnas.records import Record, best
from tamnas.space.space import SearchSpace

log = logging.getLogger(__name__)


def network_rows(pgd: dict, outcomes: Sequence[Outcome], plan: EvalParams, final: bool) -> dict:
    """Rows of one network, from its rows under PGD and what each of `eval.attacks` did: `grid` (clean images and each
    attack), `attacks`, `checks` and `attack`.
    """
    hits_of_pgd = _pgd_hits(pgd["masks"], plan.pgd(final))
    return {part: pgd[part] for part in PARTS if part in pgd} | _compared(pgd["grid"], hits_of_pgd, outcomes, plan)


def _pgd_hits(masks: Sequence[str], attacks: Sequence[Pgd]) -> list[Hits]:
    clean, *left = map(from_bits, masks)
    everything = torch.ones_like(clean)
    return [Hits(attack, everything, clean & ~standing) for attack, standing in zip(attacks, left, strict=True)]


def _compared(pgd_grid: Sequence[dict], pgd: Sequence[Hits], outcomes: Sequence[Outcome], plan: EvalParams) -> dict:
    """`grid` with rows of `eval.attacks` too, and `attacks`: what only a look at the same images under all can say."""
    of_listed = [hits(outcome, pgd_grid[0]["images"]) for outcome in outcomes]
    others = [*pgd, *(hit for parts in of_listed for hit in parts)]
    about = {name: pgd_grid[0][name] for name in ABOUT}
    listed = [about | grid_row(outcome.attack, plan, len(outcome.chosen), outcome.accuracy) for outcome in outcomes]
    counts = [None, *(missed(parts, others) for parts in (*([hit] for hit in pgd), *of_listed))]
    grid = [row | {"missed": count} for row, count in zip([*pgd_grid, *listed], counts, strict=True)]
    attacks = [{"network": about["network"], **row} for outcome in outcomes for row in attack_rows(outcome, others)]
    return {"grid": grid, "attacks": attacks}


# Rows of every attack, of what each of `eval.attacks` did (`attack_rows`), of every check, of every step of one attack.
PARTS = ("grid", "attacks", "checks", "attack")


def evaluate_kind(task: GridTask, kind: str, trained: Path, seed: int, what: str) -> dict[int, dict]:
    """`PARTS` and metrics of all networks in the folder `trained`, by training seed; `seed` is that of files in the
    folder itself.

    After a deadline those that are evaluated, the metrics with `unfinished_marks`. Raises
    DeadlineError if there is none.
    """
    networks = []
    for own, folder in seed_folders(kind, trained, seed).items():
        paths = sorted(folder.glob("*.safetensors"))
        records = [trained_record(path) for path in paths]
        final = final_ids(kind, records, task.plan.weights)
        networks += [
            Network(path, record, record.id in final, own) for path, record in zip(paths, records, strict=True)
        ]
    by_index = _all_attacked(task, networks, what)
    if networks and not by_index:
        raise DeadlineError(f"{what}: stopped at the deadline before a network was evaluated")
    evaluated = {}
    for own in dict.fromkeys(network.seed for network in networks):
        planned = [index for index, network in enumerate(networks) if network.seed == own]
        mine = [by_index[index] for index in planned if index in by_index]
        parts = {part: [row for rows in mine for row in rows[part]] for part in PARTS}
        metrics = _metrics(parts["grid"], unfinished_marks(len(mine), len(planned)))
        evaluated[own] = parts | {"metrics": metrics}
    return evaluated


def _all_attacked(task: GridTask, networks: Sequence[Network], what: str) -> dict[int, dict]:
    """Rows of each network by its index, without those that the deadline cut off.

    Final networks first, before a deadline one by one: the report needs them most.
    """
    final = [index for index, network in enumerate(networks) if network.final]
    others = [index for index in range(len(networks)) if index not in final]
    labels, by_index = load_split(task.data, "test", "cpu").labels, {}
    chosen = {attack: chosen_images(attack, labels) for attack in task.plan.attacks}
    with Progress(what, len(networks)) as progress, Jobs(task.context, task.compute, [task.data], progress) as jobs:
        for group in (*([index] for index in final), others) if get_deadline() else (final, others):
            own = [networks[index] for index in group]
            for place, rows in _group(own, task.plan, chosen, jobs):
                by_index[group[place]] = rows
                network = rows["grid"][0]["network"]
                for line in trace_signs(rows["attack"]).values():
                    log.warning("warning: %s: %s", network, line)
                progress.step(network=network, clean=rows["grid"][0]["accuracy"])
    return by_index


def _group(
    networks: Sequence[Network], plan: EvalParams, chosen: Mapping[EvalAttack, torch.Tensor], jobs: Jobs
) -> Iterator[tuple[int, dict]]:
    """(index, rows) of those that the deadline left: all under PGD, then `eval.attacks` in rounds, a part of each.

    Every batch of a part is a job: AutoAttack on one network takes longer than all else.
    """
    under_pgd, attacks = {}, {}
    for index, pgd in jobs.run_jobs(attack_with_pgd, networks, lambda network: str(network.file)):
        if pgd is None:
            continue
        listed, clean = plan.listed(networks[index].final), from_bits(pgd["masks"][0])
        if not listed:
            yield index, network_rows(pgd, (), plan, networks[index].final)
            continue
        under_pgd[index] = pgd
        for number, attack in enumerate(listed):
            attacks[index, number] = Running(attack, chosen[attack], clean[chosen[attack]])
    outcomes = _in_rounds(attacks, networks, jobs)
    for index, pgd in sorted(under_pgd.items()):
        own = [outcome for key, outcome in outcomes.items() if key[0] == index]
        if None not in own:
            yield index, network_rows(pgd, own, plan, networks[index].final)


def _in_rounds(
    attacks: Mapping[tuple[int, int], Running], networks: Sequence[Network], jobs: Jobs
) -> dict[tuple[int, int], Outcome | None]:
    """What each attack did, by the indices of its network and of its entry; None where the deadline came before."""
    outcomes, going_on = dict.fromkeys(attacks), list(attacks)
    for part in range(max((len(running.attack.parts) for running in attacks.values()), default=0)):
        batches = [
            (key, Batch(networks[key[0]], key[1], part, number, images.tolist()))
            for key in going_on
            for number, images in enumerate(attacks[key].batches())
        ]
        found = dict(
            jobs.run_jobs(attack_batch, [batch for _, batch in batches], lambda batch: str(batch.network.file))
        )
        survived = {key: [found[at] for at, (own, _) in enumerate(batches) if own == key] for key in going_on}
        going_on = [key for key in going_on if None not in survived[key]]
        for key in going_on:
            attacks[key].settle(survived[key])
            if part + 1 == len(attacks[key].attack.parts):
                outcomes[key] = attacks[key].outcome()
        going_on = [key for key in going_on if outcomes[key] is None]
    return outcomes


def evaluate_and_write(
    plan: EvaluateStagePlan, kind: str, trained: Path, folder: Path, results: Path
) -> dict[int, dict]:
    """Evaluate all networks of a `kind` in the folder `trained` and write a stage's outputs; metrics by training seed.

    `folder` keeps what is finished. Raises DeadlineError if nothing is finished at the deadline.
    """
    space = SearchSpace.from_params(plan)
    task = GridTask(space, prepared(plan.dataset), plan.eval, plan.numerics, load_compute(), folder)
    evaluations = evaluate_kind(task, kind, trained, plan.seed, f"evaluate {kind} {plan.name}")
    networks = seed_folders(kind, trained, plan.seed)
    for seed, evaluation in evaluations.items():
        if not evaluation["grid"]:
            continue  # the deadline came before its first network
        out = seeded(results, seed)
        write_csv(out / "grid.csv", evaluation["grid"])
        for name in ("attacks", "checks"):
            (out / f"{name}.csv").unlink(missing_ok=True)
            if rows := evaluation[name]:
                write_csv(out / f"{name}.csv", rows)
        write_csv(out / "attack.csv", evaluation["attack"])
        write_json(out / "metrics.json", evaluation["metrics"])
        write_csv(out / "costs.csv", cost_rows(networks[seed], space, plan.size))
        (out / "latency.csv").unlink(missing_ok=True)
        final = {row["network"] for row in evaluation["grid"] if row["final"]}
        if plan.eval.latency and final:
            rows = latency_rows(networks[seed], final, space, plan.eval.weights, plan.size)
            write_csv(out / "latency.csv", rows)
    return {seed: evaluation["metrics"] for seed, evaluation in evaluations.items()}


def final_ids(kind: str, records: Sequence[Record], weights: str) -> set[str]:
    """Ids of those that get further attacks and the checks (`Kind.final`)."""
    match KINDS[kind].final:
        case "all":
            return {record.id for record in records}
        case "best":
            return {best(records, weights).id}
        case "beside":  # repeats with further seeds, and what stands beside a Lego-Net with its training
            labels = {record.id: record.label for record in records if record.label.kind != "finetune"}
            return {id_ for id_, label in labels.items() if label.control.startswith(("seeds", "lego_"))}
    return set()


def _metrics(rows: Sequence[dict], marks: dict) -> dict:
    metrics: dict[str, dict] = {}
    for row in rows:
        metrics.setdefault(row["network"], {})[row["attack"]] = row["accuracy"]
    return {"format": FORMAT, **marks, "networks": metrics}
