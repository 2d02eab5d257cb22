"""The final grid: trained networks under PGD on test images (paper, Section IV; Tables II to X)."""

import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tamnas.attacks.registry import Attack, EvalAttack, Pgd
from tamnas.attacks.survival import Attempt
from tamnas.attacks.trace import attack_trace
from tamnas.config.compute import ComputeParams, load_compute
from tamnas.config.fields import format_fraction
from tamnas.config.plan import EvaluateStagePlan
from tamnas.config.sections import EvalParams, NumericsParams
from tamnas.data.loader import Split, load_split
from tamnas.errors import DeadlineError
from tamnas.evaluation.accuracy import correct, evaluate_pgd, fast_copy, share, survivals
from tamnas.evaluation.attacked import (
    Attacked,
    Hits,
    Outcome,
    Running,
    attack_rows,
    chosen_images,
    from_bits,
    hits,
    missed,
    to_bits,
)
from tamnas.evaluation.costs import cost_rows, latency_rows
from tamnas.evaluation.health import trace_signs
from tamnas.evaluation.kinds import KINDS, seed_folders
from tamnas.files import FORMAT, file_digest, write_csv, write_json
from tamnas.networks.trained import load_network, trained_record
from tamnas.pipeline import device
from tamnas.pipeline.deadline import Pace, get_deadline, unfinished_marks
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.paths import prepared, seeded
from tamnas.pipeline.progress import Progress
from tamnas.pipeline.store import kept
from tamnas.records import Record, best
from tamnas.seeding import torch_generator
from tamnas.space.space import SearchSpace

log = logging.getLogger(__name__)

TRACE_STEPS = 10


@dataclass(frozen=True)
class GridTask:
    """How to evaluate; picklable. `folder` keeps what is finished."""

    space: SearchSpace
    data: Path
    plan: EvalParams
    numerics: NumericsParams
    compute: ComputeParams
    folder: Path

    def context(self) -> "GridContext":
        runtime = device.start(self.numerics, self.compute)
        return GridContext(self, runtime, load_split(self.data, "test", runtime.device))


@dataclass(frozen=True)
class GridContext:
    task: GridTask
    runtime: device.Runtime
    test: Split
    pace: Pace = field(default_factory=Pace)


def attack_network(spec: dict, context: GridContext) -> dict | list[bool] | None:
    """A job: one network under all of PGD (`pgd_rows`) or, with `spec["batch"]`, under a part of one of
    `eval.attacks` on a batch of images: which of them survive.

    None if the deadline came before its end; what is finished is kept.
    """
    try:
        return _attacked(spec, context)
    except DeadlineError:
        return None


def _attacked(spec: dict, context: GridContext) -> dict | list[bool]:
    task, test, path, final = context.task, context.test, Path(spec["weights"]), spec["final"]
    # Named by the weights themselves: when one more network is trained, the others are not evaluated again.
    name = f"{path.stem}-{file_digest(path)[:16]}"

    def before(what: str) -> None:
        context.pace.require_time(f"evaluate {path.stem}: {what}")

    def loaded() -> nn.Module:
        return fast_copy(load_network(task.space, path, task.plan.weights, context.runtime)[0])

    def under_pgd() -> dict:
        before("PGD")
        return pgd_rows(loaded(), record, test, task.plan, spec)

    record = trained_record(path)
    if "batch" not in spec:
        return kept(task.folder / f"{name}-{'final' if final else 'grid'}.json", under_pgd, "evaluating its network")
    attacked = Attacked(loaded, partial(_images, test), test.labels, _key(spec, record), task.folder / name, before)
    batch = torch.tensor(spec["batch"], device=test.labels.device)
    return attacked.batch(task.plan.listed(final)[spec["listed"]], spec["part"], spec["number"], batch)


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
    about = {name: pgd_grid[0][name] for name in NETWORK}
    listed = [about | grid_row(outcome.attack, plan, len(outcome.chosen), outcome.accuracy) for outcome in outcomes]
    counts = [None, *(missed(parts, others) for parts in (*([hit] for hit in pgd), *of_listed))]
    grid = [row | {"missed": count} for row, count in zip([*pgd_grid, *listed], counts, strict=True)]
    attacks = [{"network": about["network"], **row} for outcome in outcomes for row in attack_rows(outcome, others)]
    return {"grid": grid, "attacks": attacks}


NETWORK = ("network", "parameters", "weights", "epoch", "final")  # what every row of grid.csv says of its network


def _images(test: Split, chosen: torch.Tensor) -> torch.Tensor:
    return test.scaled(test.images[chosen])


def _key(spec: dict, record: Record) -> tuple:
    return spec["seed"], "evaluate", record.network.identity


def pgd_rows(model: nn.Module, record: Record, test: Split, plan: EvalParams, spec: dict) -> dict:
    """Rows of one network under all of PGD, and `masks`: which images are classified correctly without attack and under
    each of `plan.pgd`, as text.
    """
    key, final = _key(spec, record), spec["final"]
    masks = {None: correct(model, test)} | evaluate_pgd(model, test, plan, plan.pgd(final), key)
    score = record.score(plan.weights)
    about = (record.id, record.parameters, plan.weights, score.epoch, final)
    network = dict(zip(NETWORK, about, strict=True))
    checks = check_attack(model, test, plan, key) if final and plan.checks else []
    rows = {
        "grid": [network | grid_row(attack, plan, len(test), share(mask)) for attack, mask in masks.items()],
        "checks": [{"network": record.id, **row} for row in checks],
        "attack": [{"network": record.id, **row} for row in traced(model, test, plan, key)],
    }
    return rows | {"masks": [to_bits(mask) for mask in masks.values()]}


def grid_row(attack: Attack | None, plan: EvalParams, images: int, share: float) -> dict:
    """What grid.csv says of one attack; None: clean images. `steps` and `success` are the grid's alone."""
    pgd = attack is None or type(attack) is Pgd
    return {
        "attack": attack.key if attack else "clean",
        "eps": format_fraction(attack.eps) if attack else "0/255",
        "steps": (attack.steps if attack else 0) if pgd else None,
        "success": plan.success if pgd else None,
        "images": images,
        "accuracy": share,
    }


def traced(model: nn.Module, test: Split, plan: EvalParams, key: tuple) -> list[dict]:
    """The beginning of the grid's strongest attack, step by step: whether it attacks at all shows there already."""
    eps, steps = max(plan.eps), min(max(plan.steps), TRACE_STEPS)
    generator = torch_generator(*key, "trace", str(eps), device=test.images.device)
    step_size = float(eps) / plan.step_divisor
    rows = attack_trace(model, test, eps=float(eps), step_size=step_size, steps=steps, generator=generator)
    return [{"eps": format_fraction(eps), **row} for row in rows]


def check_attack(model: nn.Module, test: Split, plan: EvalParams, key: tuple) -> list[dict]:
    """Whether the grid's attack is strong enough: under both rules of success, from several random
    starts (an image is lost if any of them succeeds), and at a radius that nothing should survive.

    The first start is the grid's own. One row per check.
    """
    checks, device = plan.checks, test.images.device

    def attempt(eps: Fraction, success: str, *more: str | int) -> Attempt:
        generator = torch_generator(*key, str(eps), *more, device=device)
        own = checks.attack.step_size if eps == checks.attack.eps else None
        step_size = float(own) if own else float(eps) / plan.step_divisor
        return Attempt(float(eps), step_size, (checks.attack.steps,), success, generator)

    eps, large = checks.attack.eps, checks.large_eps
    further = [attempt(eps, plan.success, "restart", index) for index in range(1, checks.restarts)]
    attempts = [attempt(eps, "any"), attempt(eps, "last"), attempt(large, plan.success), *further]
    any_, last, at_large, *others = (standing[0] for standing in survivals(model, test, attempts))
    restarts = torch.stack([any_ if plan.success == "any" else last, *others]).all(0)

    def row(check: str, radius: Fraction, success: str, starts: int, standing: torch.Tensor) -> dict:
        attack = {"eps": format_fraction(radius), "steps": checks.attack.steps, "success": success, "restarts": starts}
        return {"check": check, **attack, "images": len(test), "accuracy": share(standing)}

    return [
        row("any", eps, "any", 1, any_),
        row("last", eps, "last", 1, last),
        row("restarts", eps, plan.success, checks.restarts, restarts),
        row("large_eps", large, plan.success, 1, at_large),
    ]


@dataclass(frozen=True)
class Evaluation:
    """Of the networks of one training seed: rows of every attack, of what each of `eval.attacks` did (`attack_rows`),
    of every check and of every step of one attack; metrics per network.
    """

    grid: list[dict]
    attacks: list[dict]
    checks: list[dict]
    attack: list[dict]
    metrics: dict


PARTS = ("grid", "attacks", "checks", "attack")


def evaluate_kind(task: GridTask, kind: str, trained: Path, seed: int, what: str) -> dict[int, Evaluation]:
    """All networks in the folder `trained`, by training seed; `seed` is that of files in the folder itself.

    After a deadline those that are evaluated, the metrics with `unfinished_marks`. Raises
    DeadlineError if there is none.
    """
    networks = []
    for own, folder in seed_folders(kind, trained, seed).items():
        paths = sorted(folder.glob("*.safetensors"))
        records = [trained_record(path) for path in paths]
        final = final_networks(kind, records, task.plan.weights)
        networks += [
            {"weights": str(path), "final": record.id in final, "seed": own}
            for path, record in zip(paths, records, strict=True)
        ]
    by_index = _all_attacked(task, networks, what)
    if networks and not by_index:
        raise DeadlineError(f"{what}: stopped at the deadline before a network was evaluated")
    evaluated = {}
    for own in dict.fromkeys(spec["seed"] for spec in networks):
        planned = [index for index, spec in enumerate(networks) if spec["seed"] == own]
        mine = [by_index[index] for index in planned if index in by_index]
        parts = {part: [row for rows in mine for row in rows[part]] for part in PARTS}
        metrics = _metrics(parts["grid"], unfinished_marks(len(mine), len(planned)))
        evaluated[own] = Evaluation(**parts, metrics=metrics)
    return evaluated


def _all_attacked(task: GridTask, networks: Sequence[dict], what: str) -> dict[int, dict]:
    """Rows of each network by its index, without those that the deadline cut off.

    Final networks first, before a deadline one by one: the report needs them most.
    """
    final = [index for index, network in enumerate(networks) if network["final"]]
    others = [index for index in range(len(networks)) if index not in final]
    labels, by_index = load_split(task.data, "test", "cpu").labels, {}
    chosen = {attack: chosen_images(attack, labels) for attack in task.plan.attacks}
    name = operator.itemgetter("weights")
    with Progress(what, len(networks)) as progress, Jobs(task.context, task.compute, [task.data], progress) as jobs:
        for group in (*([index] for index in final), others) if get_deadline() else (final, others):
            own = [networks[index] for index in group]
            for place, rows in _group(own, task.plan, chosen, lambda specs: jobs.run_jobs(attack_network, specs, name)):
                by_index[group[place]] = rows
                network = rows["grid"][0]["network"]
                for line in trace_signs(rows["attack"]).values():
                    log.warning("warning: %s: %s", network, line)
                progress.step(network=network, clean=rows["grid"][0]["accuracy"])
    return by_index


Run = Callable[[Sequence[dict]], Iterator[tuple[int, Any]]]  # `attack_network` as jobs


def _group(
    networks: Sequence[dict], plan: EvalParams, chosen: Mapping[EvalAttack, torch.Tensor], run: Run
) -> Iterator[tuple[int, dict]]:
    """(index, rows) of those that the deadline left: all under PGD, then `eval.attacks` in rounds, a part of each.

    Every batch of a part is a job: AutoAttack on one network takes longer than all else.
    """
    under_pgd, attacks = {}, {}
    for index, pgd in run(networks):
        if pgd is None:
            continue
        listed, clean = plan.listed(networks[index]["final"]), from_bits(pgd["masks"][0])
        if not listed:
            yield index, network_rows(pgd, (), plan, networks[index]["final"])
            continue
        under_pgd[index] = pgd
        for number, attack in enumerate(listed):
            attacks[index, number] = Running(attack, chosen[attack], clean[chosen[attack]])
    outcomes = _in_rounds(attacks, networks, run)
    for index, pgd in sorted(under_pgd.items()):
        own = [outcome for key, outcome in outcomes.items() if key[0] == index]
        if None not in own:
            yield index, network_rows(pgd, own, plan, networks[index]["final"])


def _in_rounds(
    attacks: Mapping[tuple[int, int], Running], networks: Sequence[dict], run: Run
) -> dict[tuple[int, int], Outcome | None]:
    """What each attack did, by the indices of its network and of its entry; None where the deadline came before."""
    outcomes, going_on = dict.fromkeys(attacks), list(attacks)
    for part in range(max((len(running.attack.parts) for running in attacks.values()), default=0)):
        specs, places, survived = [], [], {}
        for key in going_on:
            batches, (network, listed) = attacks[key].batches(), key
            survived[key] = [None] * len(batches)
            for number, batch in enumerate(batches):
                places.append((key, number))
                job = {"listed": listed, "part": part, "number": number, "batch": batch.tolist()}
                specs.append(networks[network] | job)
        for at, survivors in run(specs) if specs else ():
            key, number = places[at]
            survived[key][number] = survivors
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
    space, size, data = SearchSpace.from_params(plan), plan.size, prepared(plan.dataset)
    task = GridTask(space, data, plan.eval, plan.numerics, load_compute(), folder)
    evaluations = evaluate_kind(task, kind, trained, plan.seed, f"evaluate {kind} {plan.name}")
    networks = seed_folders(kind, trained, plan.seed)
    for seed, evaluation in evaluations.items():
        if not evaluation.grid:
            continue  # the deadline came before its first network
        out = seeded(results, seed)
        write_csv(out / "grid.csv", evaluation.grid)
        for name in ("attacks", "checks"):
            (out / f"{name}.csv").unlink(missing_ok=True)
            if rows := getattr(evaluation, name):
                write_csv(out / f"{name}.csv", rows)
        write_csv(out / "attack.csv", evaluation.attack)
        write_json(out / "metrics.json", evaluation.metrics)
        write_csv(out / "costs.csv", cost_rows(networks[seed], space, size))
        (out / "latency.csv").unlink(missing_ok=True)
        final = {row["network"] for row in evaluation.grid if row["final"]}
        if plan.eval.latency and final:
            write_csv(out / "latency.csv", latency_rows(networks[seed], final, space, plan.eval.weights, size))
    return {seed: evaluation.metrics for seed, evaluation in evaluations.items()}


def final_networks(kind: str, records: Sequence[Record], weights: str) -> set[str]:
    """Ids of those that get further attacks and the checks (`Kind.final`)."""
    match KINDS[kind].final:
        case "all":
            return {record.id for record in records}
        case "best":
            return {best(records, weights).id}
        case "beside":  # repeats with further seeds, and what stands beside a Lego-Net
            labels = {record.id: record.label for record in records}
            return {id_ for id_, label in labels.items() if label.control == "seeds" or "legonet" in label.kind}
    return set()


def _metrics(rows: Sequence[dict], marks: dict) -> dict:
    metrics: dict[str, dict] = {}
    for row in rows:
        metrics.setdefault(row["network"], {})[row["attack"]] = row["accuracy"]
    return {"format": FORMAT, **marks, "networks": metrics}
