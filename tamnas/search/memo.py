"""Evaluations that survive a kill."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import SearchStagePlan
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.progress import Progress
from tamnas.pipeline.store import seal, unseal
from tamnas.search.fitness import evaluate_subnet, load_context
from tamnas.search.front import Fitness
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace

log = logging.getLogger(__name__)

Scored = Iterable[tuple[Architecture, Fitness]]


class Memo:
    """Fitness per architecture, in a JSON-lines file that survives a kill.

    `evaluate` yields (architecture, fitness) in any order, each written as it comes.
    """

    def __init__(self, path: Path, evaluate: Callable[[Sequence[Architecture]], Scored]):
        self.path, self._evaluate = path, evaluate
        self.known: dict[Architecture, Fitness] = {}
        lines = [line for line in path.read_bytes().splitlines() if line] if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                arch, values, costs = unseal(line.decode())
            except ValueError:  # cut short by a kill, or altered
                log.warning("%s: record %d is damaged; evaluating its subnet again", path, number)
            else:
                self.known[Architecture.parse(arch)] = Fitness(values, tuple(costs))

    def __call__(self, archs: Sequence[Architecture]) -> list[Fitness]:
        new = [arch for arch in dict.fromkeys(archs) if arch not in self.known]
        if new:
            with self.path.open("a") as file:
                file.write("\n")  # ends a line that a kill cut short; empty lines are skipped
                for arch, fitness in self._evaluate(new):
                    print(seal([str(arch), fitness.values, fitness.costs]), file=file, flush=True)
                    self.known[arch] = fitness
        return [self.known[arch] for arch in archs]


@contextmanager
def memoised(
    plan: SearchStagePlan,
    space: SearchSpace,
    supernet: Path,
    data: Path,
    compute: ComputeParams,
    path: Path,
    what: str,
    total: int,
):
    """A `Memo` that evaluates subnets of `space` with the supernet's weights in jobs, about `total` of them."""
    load = partial(load_context, plan, supernet, data, compute, space)
    with Progress(what, total) as progress, Jobs(load, compute, [supernet, data], progress) as jobs:

        def evaluate(archs: Sequence[Architecture]) -> Scored:
            for index, values in jobs.run_jobs(evaluate_subnet, archs):
                progress.step(clean=values["clean"], robust=values["robust"])
                yield archs[index], Fitness.of(values, plan.search.objectives)

        memo = Memo(path, evaluate)
        progress.skip(len(memo.known))
        yield memo
