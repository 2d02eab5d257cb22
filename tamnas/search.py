"""Multi-objective search with NSGA-II over inherited weights (paper, Section III-E, Algorithm 2).

Genes are one block index and one ratio index per layer. Objectives, all minimised: clean
error, error under PGD, number of parameters. pymoo is replayed from its seed: evaluations are
memoised, so a search that was killed repeats no evaluation and ends with the same bits.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.sampling import Sampling
from pymoo.indicators.hv import HV
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.problems.static import StaticProblem
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from torch import Tensor

from tamnas import device
from tamnas.batchnorm import recalibrate
from tamnas.compute import Compute
from tamnas.data import Split, batches, load_split
from tamnas.deadline import Pace
from tamnas.evaluation import accuracy, fast_copy, pgd_accuracy
from tamnas.fields import FORMAT
from tamnas.jobs import Jobs
from tamnas.network import Subnet, Supernet
from tamnas.plan import Augment, RowPlan, Search
from tamnas.progress import Progress
from tamnas.sampling import bounds, genes_parameters, sample_genes
from tamnas.seeding import derived_seed, torch_generator
from tamnas.space import Architecture, SearchSpace
from tamnas.store import seal, unseal
from tamnas.supernet import load_supernet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitness:
    """What the search knows of a subnet: accuracies in [0, 1] on validation, and its size."""

    clean: float
    robust: float
    parameters: int

    @property
    def objectives(self) -> tuple[float, float, float]:
        return 1 - self.clean, 1 - self.robust, float(self.parameters)


# -- evaluating a subnet with inherited weights ------------------------------------------------


@dataclass(frozen=True)
class SearchContext:
    """What an evaluation job needs; loaded once per worker."""

    plan: RowPlan
    supernet: Supernet
    train: Split
    validation: Split
    pace: Pace = field(default_factory=Pace)


def load_context(plan: RowPlan, weights: Path, data: Path, compute: Compute) -> SearchContext:
    runtime = device.start(plan.numerics, compute)
    splits = (load_split(data, split, runtime.device) for split in ("train", "validation"))
    return SearchContext(plan, load_supernet(plan, weights, runtime), *splits)


def inherit(
    supernet: Supernet, arch: Architecture, train: Split, images: int, augment: Augment, batch: int, key: tuple
) -> Subnet:
    """The subnet with the supernet's weights and BatchNorm recalibrated on `images` training images.

    The images are one fixed augmented draw, the same for every subnet. Zero images: statistics
    as inherited.
    """
    subnet = supernet.extract(arch)
    if images:
        generator = torch_generator(*key, "recalibration", device=train.images.device)
        size = min(batch, images)
        recalibrate(subnet, (x for x, _ in islice(batches(train, size, augment, generator), max(1, images // size))))
    return subnet.eval()


def inherited_subnet(context: SearchContext, arch: Architecture) -> Subnet:
    plan = context.plan
    return inherit(
        context.supernet, arch, context.train, plan.search.bn_calibration_images, plan.data.augment,
        plan.supernet.joint.recipe.batch_size, (plan.seed, "search", plan.row),
    )  # fmt: skip


def evaluate_subnet(spec: dict, context: SearchContext) -> tuple[float, float]:
    """A job: (clean, robust) validation accuracy of one architecture with inherited weights.

    Raises DeadlineError when another one would end after the deadline.
    """
    plan = context.plan
    context.pace.require_time(f"search {plan.row}")
    subnet = fast_copy(inherited_subnet(context, Architecture.from_plain(spec)))
    key = (plan.seed, "search", plan.row, "attack")
    return accuracy(subnet, context.validation), pgd_accuracy(subnet, context.validation, plan.search.attack, key)


Evaluated = tuple[Architecture, Fitness]


class Memo:
    """Fitness per architecture, in a JSON-lines file that survives a kill.

    `evaluate` yields (architecture, fitness) in any order, each written as it comes.
    """

    def __init__(
        self, path: Path, evaluate: Callable[[Sequence[Architecture]], Iterable[tuple[Architecture, Fitness]]]
    ):
        self.path, self._evaluate = path, evaluate
        self.known: dict[Architecture, Fitness] = {}
        lines = [line for line in path.read_bytes().splitlines() if line] if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                arch, clean, robust, parameters = unseal(line.decode())
            except ValueError:  # cut short by a kill, or altered
                log.warning("%s: record %d is damaged; evaluating its subnet again", path, number)
            else:
                self.known[Architecture.parse(arch)] = Fitness(clean, robust, parameters)

    def __call__(self, archs: Sequence[Architecture]) -> list[Fitness]:
        new = [arch for arch in dict.fromkeys(archs) if arch not in self.known]
        if new:
            with self.path.open("a") as file:
                file.write("\n")  # ends a line that a kill cut short; empty lines are skipped
                for arch, fitness in self._evaluate(new):
                    line = seal([str(arch), fitness.clean, fitness.robust, fitness.parameters])
                    print(line, file=file, flush=True)
                    self.known[arch] = fitness
        return [self.known[arch] for arch in archs]


# -- NSGA-II -----------------------------------------------------------------------------------


class BudgetSampling(Sampling):
    """The initial population: distinct legal architectures within the budget."""

    def __init__(self, space: SearchSpace, budget):
        super().__init__()
        self.space, self.budget = space, budget

    def _do(self, problem, n_samples, *args, random_state=None, **kwargs):
        drawn = np.empty((0, problem.n_var), dtype=int)
        for _ in range(100):
            drawn = np.concatenate((drawn, sample_genes(self.space, random_state, n_samples, self.budget)))
            _, first = np.unique(drawn, axis=0, return_index=True)
            drawn = drawn[np.sort(first)]
            if len(drawn) >= n_samples:
                break
        return drawn[:n_samples]


class GeneMutation(Mutation):
    """Re-draw genes among what is legal at their layer; children outside the budget are drawn again.

    `unit="gene"`: every gene changes with probability p. `unit="individual"`: with probability p
    one gene changes. A child that stays outside the budget after `tries` draws is replaced by a
    fresh architecture within it.
    """

    def __init__(self, space: SearchSpace, probability: float, unit: str, budget, tries: int = 50):
        super().__init__(prob=1.0)
        self.space, self.probability, self.unit, self.budget, self.tries = space, probability, unit, budget, tries
        self.choices = [
            np.array([space.blocks.index(block) for block in space.allowed_blocks(layer)])
            for layer in range(len(space.layers))
        ] + [np.arange(len(space.ratios))] * len(space.layers)

    def _do(self, problem, X, *args, random_state=None, **kwargs):  # noqa: N803 (pymoo's name)
        low, high = bounds(self.budget)
        children = X.astype(int)
        waiting = np.arange(len(X))
        for _ in range(self.tries):
            children[waiting] = self._mutate(X[waiting].astype(int), random_state)
            sizes = genes_parameters(self.space, children[waiting])
            waiting = waiting[(sizes < low) | (sizes > high)]
            if len(waiting) == 0:
                return children
        children[waiting] = sample_genes(self.space, random_state, len(waiting), self.budget)
        return children

    def _mutate(self, genes: np.ndarray, random: np.random.Generator) -> np.ndarray:
        fresh = np.stack([random.choice(choices, size=len(genes)) for choices in self.choices], axis=1)
        if self.unit == "gene":
            change = random.random(genes.shape) < self.probability
        else:
            change = np.arange(genes.shape[1]) == random.integers(genes.shape[1], size=(len(genes), 1))
            change &= random.random((len(genes), 1)) < self.probability
        return np.where(change, fresh, genes)


def by_rank_then_crowding(pop, contestants: np.ndarray, random_state=None, **kwargs) -> np.ndarray:
    """Winner of each row of contestants: lowest rank, then largest crowding distance, then chance."""
    rank, crowding = pop.get("rank"), pop.get("crowding")
    chance = random_state.random(contestants.shape)
    order = np.lexsort((chance, -crowding[contestants], rank[contestants]), axis=1)
    return np.take_along_axis(contestants, order[:, :1], axis=1)


@dataclass(frozen=True)
class SearchResult:
    """All individuals of all generations, and the first front of the final population."""

    generations: list[list[Architecture]]
    front: list[Architecture]
    archive_front: list[Architecture]
    hypervolume: list[dict]


def search(
    space: SearchSpace,
    plan: Search,
    evaluate: Callable[[Sequence[Architecture]], list[Fitness]],
    seed: int,
) -> SearchResult:
    """NSGA-II as the paper sets it: `plan.generations` survivals after the initial population.

    `evaluate` maps architectures to fitness, in order. Hypervolume is measured against the
    fixed reference (1, 1, the space's largest count), each objective scaled to it.
    """
    problem = Problem(n_var=2 * len(space.layers), n_obj=3, vtype=int)
    algorithm = NSGA2(
        pop_size=plan.population,
        n_offsprings=plan.offspring,
        sampling=BudgetSampling(space, plan.budget),
        selection=TournamentSelection(func_comp=by_rank_then_crowding, pressure=plan.tournament),
        crossover=UniformCrossover(prob=plan.crossover_probability),
        mutation=GeneMutation(space, plan.mutation_probability, plan.mutation_unit, plan.budget),
        eliminate_duplicates=True,
    )
    # pymoo counts the initial population as generation 1.
    algorithm.setup(problem, termination=("n_gen", plan.generations + 1), seed=seed, verbose=False)
    fitness: dict[Architecture, Fitness] = {}
    generations, rows = [], []
    while algorithm.has_next() and not _stagnant(rows, plan.stagnation):
        offspring = algorithm.ask()
        if offspring is None or len(offspring) == 0:
            break  # every architecture within the budget has been evaluated
        archs = [space.decode(genes) for genes in offspring.get("X")]
        fitness |= dict(zip(archs, evaluate(archs), strict=True))
        objectives = np.array([fitness[arch].objectives for arch in archs])
        Evaluator().eval(StaticProblem(problem, F=objectives), offspring)
        algorithm.tell(infills=offspring)
        generations.append(archs)
        population = [space.decode(genes) for genes in algorithm.pop.get("X")]
        rows.append(_hypervolume_row(space, len(rows), population, fitness))
    return SearchResult(generations, front_of(population, fitness), front_of(list(fitness), fitness), rows)


def front_of(archs: Sequence[Architecture], fitness: dict[Architecture, Fitness]) -> list[Architecture]:
    """The non-dominated ones, without repeats, by growing size."""
    distinct = list(dict.fromkeys(archs))
    objectives = np.array([fitness[arch].objectives for arch in distinct])
    first = NonDominatedSorting().do(objectives, only_non_dominated_front=True)
    return sorted((distinct[i] for i in first), key=lambda arch: (*fitness[arch].objectives[::-1], str(arch)))


def hypervolume(space: SearchSpace, points: Sequence[Fitness]) -> float:
    """Share of the box up to (1, 1, largest count) that `points` dominate, in [0, 1]."""
    largest = space.parameter_range()[1]
    scaled = np.array([point.objectives for point in points]) / (1, 1, largest)
    return float(HV(ref_point=np.ones(3))(scaled))


def _hypervolume_row(space, generation, population, fitness) -> dict:
    front = front_of(population, fitness)
    archive = front_of(list(fitness), fitness)
    return {
        "generation": generation,
        "evaluated": len(fitness),
        "hypervolume": hypervolume(space, [fitness[arch] for arch in front]),
        "archive_hypervolume": hypervolume(space, [fitness[arch] for arch in archive]),
        "front": len(front),
    }


def _stagnant(rows: list[dict], patience: int | None) -> bool:
    if patience is None or len(rows) <= patience:
        return False
    values = [row["archive_hypervolume"] for row in rows]
    return max(values[:-patience]) >= max(values)


def search_seed(plan: RowPlan) -> int:
    """pymoo takes 32 bits."""
    return derived_seed(plan.seed, "search", plan.row, "nsga2") % 2**32


@contextmanager
def memoised(plan: RowPlan, weights: Path, data: Path, compute: Compute, path: Path, what: str, total: int):
    """A `Memo` that evaluates subnets with the supernet's weights in jobs, about `total` of them."""
    space = SearchSpace.from_params(plan)
    with (
        Jobs(partial(load_context, plan, weights, data, compute), compute) as jobs,
        Progress(what, total) as progress,
    ):

        def evaluate(archs: Sequence[Architecture]) -> Iterator[Evaluated]:
            for index, (clean, robust) in jobs.run_jobs(evaluate_subnet, [arch.plain() for arch in archs]):
                progress.step(clean=clean, robust=robust)
                yield archs[index], Fitness(clean, robust, space.parameters(archs[index]))

        memo = Memo(path, evaluate)
        progress.skip(len(memo.known))
        yield memo


def run_search(plan: RowPlan, weights: Path, data: Path, compute: Compute, memo_path: Path):
    """Search one row's space with its trained supernet; evaluations are memoised in `memo_path`.

    Returns (SearchResult, fitness of every architecture evaluated).
    """
    total = plan.search.population + plan.search.generations * plan.search.offspring
    with memoised(plan, weights, data, compute, memo_path, f"search {plan.row}", total) as memo:
        return search(SearchSpace.from_params(plan), plan.search, memo, search_seed(plan)), memo.known


def individuals(found: SearchResult, fitness: dict[Architecture, Fitness]) -> list[dict]:
    """One row per individual of every generation, in the order of their birth."""
    return [
        {
            "generation": generation, "individual": index, "architecture": str(arch),
            "parameters": fitness[arch].parameters, "clean": fitness[arch].clean, "robust": fitness[arch].robust,
        }
        for generation, archs in enumerate(found.generations)
        for index, arch in enumerate(archs)
    ]  # fmt: skip


def fronts(found: SearchResult, fitness: dict[Architecture, Fitness]) -> dict:
    """The final population's first front, and the archive's, JSON-able; ids by growing size."""

    def rows(archs: Sequence[Architecture], prefix: str) -> list[dict]:
        return [
            {
                "id": f"{prefix}{index:02d}", "architecture": arch.plain(),
                "parameters": fitness[arch].parameters, "clean": fitness[arch].clean, "robust": fitness[arch].robust,
            }
            for index, arch in enumerate(archs, 1)
        ]  # fmt: skip

    return {"format": FORMAT, "front": rows(found.front, "n"), "archive_front": rows(found.archive_front, "a")}


def inherited_weights(context: SearchContext, chosen: Sequence[dict]) -> dict[str, Tensor]:
    """Start weights for fine-tuning, `<id>.<tensor name>`, with the statistics the search saw."""
    tensors = {}
    for one in chosen:
        subnet = inherited_subnet(context, Architecture.from_plain(one["architecture"]))
        tensors |= {f"{one['id']}.{name}": tensor for name, tensor in subnet.state_dict().items()}
    return tensors
