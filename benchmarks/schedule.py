"""The schedule of a study on many workers: which job runs when, from the time that each takes.

The stages and what they need of each other are those of dvc.yaml. A stage's jobs come in rounds (generations of a
search): a round begins when the one before has ended. A free worker takes the job that waits longest.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tamnas.config.params import Params
from tamnas.config.plan import DatasetPlan, RowPlan
from tamnas.config.resolve import resolve_study
from tamnas.pipeline.stages import Instance, instances, needs
from tamnas.search.recalibration import RECALIBRATIONS

IMAGES = {"cifar10": (45_000, 5_000, 10_000), "svhn": (68_257, 5_000, 26_032)}  # train, validation, test (the paper's)
FRONT = 50  # networks retrained a row, each way: 15 x 2 x 50 retrainings without controls


@dataclass(frozen=True)
class Costs:
    """Seconds that one image takes: in a training step under a row's attack, and in a step of PGD."""

    step: float
    pgd: float


@dataclass(frozen=True)
class Schedule:
    """Seconds: until all is done, of all jobs together, and along the longest chain of stages that need each other."""

    makespan: float
    work: float
    chain: float
    jobs: int

    def ideal(self, workers: int) -> float:
        """No schedule is shorter: all workers busy to the end, or the longest chain."""
        return max(self.work / workers, self.chain)


def schedule(rounds: Mapping[str, Sequence[Sequence[float]]], needed: Mapping[str, Sequence[str]], workers: int):
    """Run each stage's rounds of jobs (seconds) on so many workers, after the stages that it needs. A `Schedule`."""
    left = {name: deque(jobs for jobs in of_stage if jobs) for name, of_stage in rounds.items()}
    running, waiting, done = dict.fromkeys(rounds, 0), deque(), set()
    begun: set[str] = set()
    ends: list[tuple[float, int, str]] = []  # a heap
    numbers, now, free = itertools.count(), 0.0, workers

    def advance() -> None:
        """Let begin what can: next rounds, and stages whose needs are done."""
        changed = True
        while changed:
            changed = False
            for name in rounds:
                if name in done or running[name] or not done.issuperset(needed[name]):
                    continue
                begun.add(name)
                if left[name]:
                    jobs = left[name].popleft()
                    running[name] = len(jobs)
                    waiting.extend((name, seconds) for seconds in jobs)
                else:
                    done.add(name)
                    changed = True

    advance()
    while waiting or ends:
        while waiting and free:
            name, seconds = waiting.popleft()
            heapq.heappush(ends, (now + seconds, next(numbers), name))
            free -= 1
        now, _, name = heapq.heappop(ends)
        free, running[name] = free + 1, running[name] - 1
        if not running[name]:
            advance()
    chains: dict[str, float] = {}
    for name in rounds:  # inputs first
        own = sum(max(jobs, default=0.0) for jobs in rounds[name])
        chains[name] = own + max((chains[other] for other in needed[name]), default=0.0)
    every = [seconds for of_stage in rounds.values() for jobs in of_stage for seconds in jobs]
    return Schedule(now, sum(every), max(chains.values(), default=0.0), len(every))


def study(params: Params, costs: Mapping[str, Costs], spread: Sequence[float]) -> tuple[dict, dict]:
    """(rounds of jobs, needs) of every stage instance; `costs` by row, and `spread`: how networks' times differ.

    Of the grid the upper bound: that no image falls. Controls are off; what takes seconds is left out.
    """
    resolved = resolve_study(params)
    order = instances({name: row.dataset for name, row in params.run.rows.items()}, params.run.datasets)
    needed = {one.name: [other.name for other in order[:place] if needs(one, other)] for place, one in enumerate(order)}
    spreads = itertools.cycle(spread)
    rows, plans = resolved.rows, resolved.rows | resolved.datasets
    by_dataset = {plan.dataset: name for name, plan in rows.items() if plan.network.width == 1}

    def rounds(one: Instance) -> list[list[float]]:
        key = one.name.partition("@")[2]
        plan = plans.get(key)
        if plan is None or one.stage.name not in MAKERS:
            return []
        cost = costs[key if key in rows else by_dataset[key]]
        return [[seconds * next(spreads) for seconds in jobs] for jobs in MAKERS[one.stage.name](plan, cost)]

    return {one.name: rounds(one) for one in order}, needed


def _phase(name: str):
    def rounds(plan: RowPlan, cost: Costs) -> list[list[float]]:
        return [[getattr(plan.supernet, name).recipe.epochs * IMAGES[plan.dataset][0] * cost.step]]

    return rounds


def _search(plan: RowPlan, cost: Costs) -> list[list[float]]:
    one = IMAGES[plan.dataset][1] * cost.pgd * plan.search.attack.steps
    return [[one] * plan.search.population] + [[one] * plan.search.offspring] * plan.search.generations


def _training(epochs: int, plan: RowPlan | DatasetPlan, cost: Costs, validation) -> float:
    train, images, _ = IMAGES[plan.dataset]
    attacked = epochs * (1 - validation.start)
    return epochs * train * cost.step + attacked * images * cost.pgd * validation.attack.steps


def _retrain(name: str):
    def rounds(plan: RowPlan, cost: Costs) -> list[list[float]]:
        epochs = getattr(plan.retrain, name).recipe.epochs
        return [[_training(epochs, plan, cost, plan.retrain.validation)] * (plan.retrain.max_subnets or FRONT)]

    return rounds


def _legonet(plan: RowPlan, cost: Costs) -> list[list[float]]:
    return [[_training(plan.retrain.scratch.recipe.epochs, plan, cost, plan.retrain.validation)]]


def _pooled(plan: DatasetPlan, cost: Costs) -> list[list[float]]:
    return [[_training(plan.pooled.training.recipe.epochs, plan, cost, plan.validation)]]


def _grid(count: int, final: int):
    """Of so many networks, the first `final` with the attacks of final ones."""

    def rounds(plan: RowPlan | DatasetPlan, cost: Costs) -> list[list[float]]:
        def seconds(final: bool) -> float:
            # Of each radius the longest attack, which comes last, holds the others.
            steps = sum({attack.eps: attack.steps for attack in plan.eval.pgd(final)}.values())
            return IMAGES[plan.dataset][2] * cost.pgd * steps

        return [[seconds(number < final) for number in range(count)]]

    return rounds


def _ranking(plan: RowPlan, cost: Costs) -> list[list[float]]:
    """Of the networks trained from scratch and Lego-Net, each attacked after every recalibration and for one."""
    images = len(RECALIBRATIONS) * IMAGES[plan.dataset][1] + plan.search.bn_calibration_images
    return [[images * cost.pgd * plan.search.attack.steps] * (FRONT + 1)]


MAKERS = {
    "supernet_block": _phase("block"),
    "supernet_joint": _phase("joint"),
    "search": _search,
    "retrain_scratch": _retrain("scratch"),
    "retrain_finetune": _retrain("finetune"),
    "legonet": _legonet,
    "legonet_pooled": _pooled,
    "evaluate_scratch": _grid(FRONT, final=1),
    "evaluate_finetune": _grid(FRONT, final=0),
    "evaluate_legonet": _grid(1, final=1),
    "evaluate_legonet_pooled": _grid(1, final=1),
    "ranking": _ranking,
}
