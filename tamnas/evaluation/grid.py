"""The final grid: trained networks under PGD on test images (paper, Section IV; Tables II to X)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from torch import nn

from tamnas.attacks.registry import Attack
from tamnas.attacks.survival import Attempt
from tamnas.attacks.trace import attack_trace
from tamnas.config.compute import ComputeParams, load_compute
from tamnas.config.fields import format_fraction
from tamnas.config.plan import EvaluateStagePlan
from tamnas.config.sections import EvalParams, NumericsParams
from tamnas.data.loader import Split, load_split
from tamnas.errors import DeadlineError
from tamnas.evaluation.accuracy import accuracy, evaluate_attacks, fast_copy, survivals
from tamnas.evaluation.costs import cost_rows, latency_rows
from tamnas.evaluation.health import trace_signs
from tamnas.evaluation.kinds import KINDS, seed_folders
from tamnas.files import FORMAT, file_digest, write_csv, write_json, write_text
from tamnas.networks.trained import load_network, trained_record
from tamnas.pipeline import device
from tamnas.pipeline.deadline import Pace, unfinished_marks
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.paths import prepared, seeded
from tamnas.pipeline.progress import Progress
from tamnas.pipeline.store import seal, unseal
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


def evaluate_network(spec: dict, context: GridContext) -> dict | None:
    """A job: rows of one network, `grid` (one for clean images and one for each attack), `checks` and `attack`.

    None if another evaluation would not end before the deadline.
    """
    task, path = context.task, Path(spec["weights"])
    # Named by the weights themselves: when one more network is trained, the others are not evaluated again.
    which = "final" if spec["final"] else "grid"
    finished = task.folder / f"{path.stem}-{file_digest(path)[:16]}-{which}.json"
    if finished.exists():
        try:
            return unseal(finished.read_bytes().decode())
        except ValueError as error:
            log.warning("%s: is damaged (%s); evaluating its network again", finished, error)
    try:
        context.pace.require_time(f"evaluate {path.stem}")
    except DeadlineError:
        return None
    model, record = load_network(task.space, path, task.plan.weights, context.runtime)
    model = fast_copy(model)
    key = (spec["seed"], "evaluate", record.network.identity)
    shares = {None: accuracy(model, context.test)}
    shares |= evaluate_attacks(model, context.test, task.plan, task.plan.planned(spec["final"]), key)
    network = {
        "network": record.id,
        "parameters": record.parameters,
        "weights": task.plan.weights,
        "epoch": record.score(task.plan.weights).epoch,
        "final": spec["final"],
    }
    grid = [network | grid_row(attack, task.plan, len(context.test), share) for attack, share in shares.items()]
    checks = check_attack(model, context.test, task.plan, key) if spec["final"] and task.plan.checks else []
    rows = {"grid": grid, "checks": checks, "attack": traced(model, context.test, task.plan, key)}
    for part in ("checks", "attack"):
        rows[part] = [{"network": record.id, **row} for row in rows[part]]
    write_text(finished, seal(rows))
    return rows


def grid_row(attack: Attack | None, plan: EvalParams, images: int, share: float) -> dict:
    """What grid.csv says of one attack; None: clean images. `steps` and `success` are PGD's alone."""
    pgd = attack is None or attack.kind == "pgd"
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
        return {"check": check, **attack, "images": len(test), "accuracy": int(standing.sum()) / len(test)}

    return [
        row("any", eps, "any", 1, any_),
        row("last", eps, "last", 1, last),
        row("restarts", eps, plan.success, checks.restarts, restarts),
        row("large_eps", large, plan.success, 1, at_large),
    ]


@dataclass(frozen=True)
class Evaluation:
    """Of the networks of one training seed: rows of every attack, check and step of one attack, metrics per network."""

    grid: list[dict]
    checks: list[dict]
    attack: list[dict]
    metrics: dict


def evaluate_kind(task: GridTask, kind: str, trained: Path, seed: int, what: str) -> dict[int, Evaluation]:
    """All networks in the folder `trained`, by training seed; `seed` is that of files in the folder itself.

    After a deadline those that are evaluated, the metrics with `unfinished_marks`. Raises
    DeadlineError if there is none.
    """
    specs = []
    for own, folder in seed_folders(kind, trained, seed).items():
        paths = sorted(folder.glob("*.safetensors"))
        records = [trained_record(path) for path in paths]
        final = final_networks(kind, records, task.plan.weights)
        specs += [
            {"weights": str(path), "final": record.id in final, "seed": own}
            for path, record in zip(paths, records, strict=True)
        ]
    found: dict[int, dict] = {}
    with Jobs(partial(GridTask.context, task), task.compute) as jobs, Progress(what, len(specs)) as progress:
        for index, rows in jobs.run_jobs(evaluate_network, specs):
            if rows is not None:
                found[index] = rows
                network = rows["grid"][0]["network"]
                for line in trace_signs(rows["attack"]).values():
                    log.warning("warning: %s: %s", network, line)
                progress.step(network=network, clean=rows["grid"][0]["accuracy"])
    if specs and not found:
        raise DeadlineError(f"{what}: stopped at the deadline before a network was evaluated")
    evaluated = {}
    for own in dict.fromkeys(spec["seed"] for spec in specs):
        planned = [index for index, spec in enumerate(specs) if spec["seed"] == own]
        mine = [found[index] for index in planned if index in found]
        grid, checks, attack = ([row for rows in mine for row in rows[part]] for part in ("grid", "checks", "attack"))
        evaluated[own] = Evaluation(grid, checks, attack, _metrics(grid, unfinished_marks(len(mine), len(planned))))
    return evaluated


def evaluate_and_write(
    plan: EvaluateStagePlan, kind: str, trained: Path, folder: Path, results: Path
) -> dict[int, dict]:
    """Evaluate all networks of a `kind` in the folder `trained` and write a stage's outputs; metrics by training seed.

    `folder` keeps what is finished. Raises DeadlineError if nothing is finished at the deadline.
    """
    space, size, data = SearchSpace.from_params(plan), plan.size, prepared(plan.dataset)
    task = GridTask(space, data, plan.eval, plan.numerics, load_compute(), folder)
    found = evaluate_kind(task, kind, trained, plan.seed, f"evaluate {kind} {plan.name}")
    networks = seed_folders(kind, trained, plan.seed)
    for seed, evaluation in found.items():
        out = seeded(results, seed)
        write_csv(out / "grid.csv", evaluation.grid)
        if evaluation.checks:
            write_csv(out / "checks.csv", evaluation.checks)
        write_csv(out / "attack.csv", evaluation.attack)
        write_json(out / "metrics.json", evaluation.metrics)
        write_csv(out / "costs.csv", cost_rows(networks[seed], space, size))
        (out / "latency.csv").unlink(missing_ok=True)
        final = {row["network"] for row in evaluation.grid if row["final"]}
        if plan.eval.latency and final:
            write_csv(out / "latency.csv", latency_rows(networks[seed], final, space, plan.eval.weights, size))
    return {seed: evaluation.metrics for seed, evaluation in found.items()}


def final_networks(kind: str, records: Sequence[Record], weights: str) -> set[str]:
    """Ids of those that get further attacks and the checks (`Kind.final`)."""
    match KINDS[kind].final:
        case "all":
            return {record.id for record in records}
        case "best":
            return {best(records, weights).id}
        case "seeds":
            return {record.id for record in records if record.label.control == "seeds"}
    return set()


def _metrics(rows: Sequence[dict], marks: dict) -> dict:
    metrics: dict[str, dict] = {}
    for row in rows:
        metrics.setdefault(row["network"], {})[row["attack"]] = row["accuracy"]
    return {"format": FORMAT, **marks, "networks": metrics}
