"""One trained network on test images, as jobs: under all of PGD, and a batch under a part of one of `eval.attacks`."""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from torch import nn

from tamnas.attacks.registry import Attack, Pgd
from tamnas.attacks.survival import Attempt
from tamnas.attacks.trace import TRACE_STEPS, attack_trace
from tamnas.config.compute import ComputeParams
from tamnas.config.fields import format_fraction
from tamnas.config.sections import EvalParams, NumericsParams
from tamnas.data.loader import Split, load_split
from tamnas.errors import DeadlineError
from tamnas.evaluation.accuracy import correct, evaluate_pgd, fast_copy, share, survivals
from tamnas.evaluation.attacked import Attacked, to_bits
from tamnas.files import file_digest
from tamnas.networks.trained import load_network
from tamnas.pipeline import device
from tamnas.pipeline.deadline import Pace
from tamnas.pipeline.store import kept, key_of
from tamnas.records import Record
from tamnas.seeding import torch_generator
from tamnas.space.space import SearchSpace


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
class Network:
    """A trained network to evaluate: the file of its weights, its record, whether it is final, its training seed."""

    file: Path
    record: Record
    final: bool
    seed: int

    @property
    def key(self) -> tuple:
        """Of the noise that it is attacked with."""
        return self.seed, "evaluate", self.record.network.identity

    def kept_as(self) -> str:
        """Named by the weights themselves: when one more network is trained, the others are not evaluated again."""
        return f"{self.file.stem}-{file_digest(self.file)[:16]}"


@dataclass(frozen=True)
class Batch:
    """Images, by their indices: batch `number` for part `part` of the entry `listed` of `eval.attacks`."""

    network: Network
    listed: int
    part: int
    number: int
    images: list[int]


@dataclass(frozen=True)
class GridContext:
    task: GridTask
    runtime: device.Runtime
    test: Split
    pace: Pace = field(default_factory=Pace)

    def load(self, network: Network) -> nn.Module:
        return fast_copy(load_network(self.task.space, network.file, self.task.plan.weights, self.runtime)[0])

    def images(self, chosen: torch.Tensor) -> torch.Tensor:
        return self.test.scaled(self.test.images[chosen])

    def require_time(self, network: Network, what: str) -> None:
        """Raises DeadlineError."""
        self.pace.require_time(f"evaluate {network.file.stem}: {what}")


def attack_with_pgd(network: Network, context: GridContext) -> dict | None:
    """A job: `pgd_rows`. None if the deadline came before its end."""
    plan = context.task.plan

    def rows() -> dict:
        context.require_time(network, "PGD")
        return pgd_rows(context.load(network), context.test, plan, network)

    asked = key_of({name: plan.plain()[name] for name in ("final", "checks")}) if network.final else "grid"
    path = context.task.folder / f"{network.kept_as()}-{asked}.json"
    try:
        return kept(path, rows, "evaluating its network")
    except DeadlineError:
        return None


def attack_batch(batch: Batch, context: GridContext) -> list[bool] | None:
    """A job: which images of a batch survive. None if the deadline came before its end; what is finished is kept."""
    network, test = batch.network, context.test
    attacked = Attacked(
        partial(context.load, network),
        context.images,
        test.labels,
        network.key,
        context.task.folder / network.kept_as(),
        partial(context.require_time, network),
    )
    attack = context.task.plan.listed(network.final)[batch.listed]
    try:
        return attacked.batch(attack, batch.part, batch.number, torch.tensor(batch.images, device=test.labels.device))
    except DeadlineError:
        return None


ABOUT = ("network", "parameters", "weights", "epoch", "final")  # what every row of grid.csv says of its network


def pgd_rows(model: nn.Module, test: Split, plan: EvalParams, network: Network) -> dict:
    """Rows of one network under all of PGD, and `masks`: which images are classified correctly without attack and under
    each of `plan.pgd`, as text.
    """
    record, key, final = network.record, network.key, network.final
    masks = {None: correct(model, test)} | evaluate_pgd(model, test, plan, plan.pgd(final), key)
    score = record.score(plan.weights)
    about = dict(zip(ABOUT, (record.id, record.parameters, plan.weights, score.epoch, final), strict=True))
    checks = check_attack(model, test, plan, key) if final and plan.checks else []
    rows = {
        "grid": [about | grid_row(attack, plan, len(test), share(mask)) for attack, mask in masks.items()],
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
