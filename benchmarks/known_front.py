"""How much of a known front the search finds: all networks of NAS-Bench-201, clean, attacked and counted.

    python -m benchmarks.known_front --data CIFAR10.npz [--seeds 10] [--out FILE]

CIFAR10.npz (numpy, no pickle; not part of this repository) describes every network of the benchmark on CIFAR-10:
`operations` (names), `genes` (networks, edges), the operation on each edge of the cell, `clean` (networks,) accuracy,
`pgd` (networks, 7) accuracy under PGD at eps 0.1, 0.5, 1, 2, 3, 4, 8 (/255), and `parameters` (networks,). Accuracies
are from Jung, Lukasik, Keuper: Neural Architecture Design and Robustness: A Dataset (ICLR 2023).

The objectives are clean error, error under PGD at 1/255 and parameters. `tamnas.search` runs as on a supernet, the
evaluation of a subnet being a look-up, with the settings of `SEARCHES`: what params.yaml says, the paper's text, its
Algorithm 2, crossover, the predictor. Beside each stands random search with as many distinct evaluations. The
table gives the share of the true front's points that is found, in all that was evaluated (the archive) and in the final
population: the mean over seeds with its 95% interval (Student's t), and the ratio of the archive's mean to random
search's. Networks of equal values are one point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile

import click
import numpy as np
import torch

from benchmarks.harness import environment, report
from tamnas.config.fields import validated
from tamnas.config.resolve import load_params
from tamnas.config.sections import SearchPlan
from tamnas.errors import InputError
from tamnas.pipeline.command import help_of, one_line_errors
from tamnas.report.intervals import mean_interval
from tamnas.search.front import Fitness, front_of
from tamnas.search.memo import Memo, Scored
from tamnas.search.nsga2 import search
from tamnas.search.random_search import random_search
from tamnas.seeding import derived_seed, numpy_generator
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace

BUDGETS = ((50, 15), (50, 39))  # population x generations: 800 and 2,000 evaluations
PAPER = {"tournament": 10, "mutation_probability": 0.1, "mutation_unit": "gene", "crossover_probability": 0.9}
SEARCHES = {  # what is changed in `search` of params.yaml
    "default": {},
    "the paper's text": PAPER,
    "the paper's Algorithm 2": PAPER | {"tournament": 2},
    "default with crossover": {"crossover_probability": 0.9},
    "predictor": {"predictor": "extra_trees"},
}
RADIUS = 2  # column of eps = 1/255
WAYS = ("archive", "population", "random")


@dataclass(frozen=True)
class CellSpace(SearchSpace):
    """Operations on the edges of a cell, in the place of blocks on layers of one ratio.

    Block i at layer j is operation i on edge j; parameters are `cell_parameters` and, per edge, those of its operation.
    """

    operation_parameters: tuple[int, ...] = ()
    cell_parameters: int = 0

    @cached_property
    def table(self) -> np.ndarray:
        return np.tile(self.operation_parameters, (len(self.layers), 1))[:, :, None]

    @property
    def fixed_parameters(self) -> int:
        return self.cell_parameters


@dataclass(frozen=True)
class KnownFront:
    """A space of which everything is known: the fitness of each architecture, and the points of the true front."""

    space: CellSpace
    fitness: dict[Architecture, Fitness]

    @cached_property
    def points(self) -> set[tuple[float, ...]]:
        return {self.fitness[arch].costs for arch in front_of(list(self.fitness), self.fitness)}

    def evaluate(self, archs: Sequence[Architecture]) -> Scored:
        return ((arch, self.fitness[arch]) for arch in archs)

    def share(self, archs: Sequence[Architecture]) -> float:
        """Of the true front's points, in [0, 1], that `archs` hold."""
        return len(self.points & {self.fitness[arch].costs for arch in archs}) / len(self.points)


def load(path: Path, objectives: Sequence[str]) -> KnownFront:
    """Raises InputError where the file lacks an array, or parameters are not the sum of those of the operations."""
    try:
        with np.load(path) as arrays:
            operations, genes, clean, pgd, parameters = (
                arrays[name] for name in ("operations", "genes", "clean", "pgd", "parameters")
            )
        # A network with one operation on every edge has the fixed parameters and `edges` times the operation's.
        alike = [parameters[(genes == operation).all(axis=1)].item() for operation in range(len(operations))]
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise InputError(f"{path}: not the benchmark's arrays ({error})") from None
    edges = genes.shape[1]
    space = CellSpace(
        stem_channels=4,
        channels=(4,),
        repeats=(edges,),
        strides=(1,),
        blocks=tuple(range(len(operations))),
        ratios=(1.0,),
        operation_parameters=tuple((total - min(alike)) // edges for total in alike),
        cell_parameters=min(alike),
    )
    if (space.genes_parameters(np.hstack((genes, np.zeros_like(genes)))) != parameters).any():
        raise InputError(f"{path}: parameters are not the sum of those of the operations")
    columns = zip(clean.tolist(), pgd[:, RADIUS].tolist(), parameters.tolist(), strict=True)
    values = (dict(zip(("clean", "robust", "parameters"), row, strict=True)) for row in columns)
    archs = (Architecture(tuple(row), (1.0,) * edges) for row in genes.tolist())
    return KnownFront(space, {arch: Fitness.of(row, objectives) for arch, row in zip(archs, values, strict=True)})


def planned(population: int, generations: int, **changed) -> SearchPlan:
    """`search` of params.yaml, so much of it, with what is `changed`."""
    search = load_params().search.resolve(Fraction(1, 255))
    size = {"population": population, "offspring": population, "generations": generations}
    return validated(SearchPlan, search | size | changed, "params.yaml")


def measure(known: KnownFront, plan: SearchPlan, seed: int) -> dict[str, float]:
    """Distinct evaluations of one search, and the share of the true front that each of `WAYS` found."""
    with TemporaryDirectory() as folder:
        memo = Memo(Path(folder) / "evaluated.jsonl", known.evaluate)
        result = search(known.space, plan, memo, derived_seed("known_front", seed) % 2**32)
        evaluations = len(memo.known)
        memo = Memo(Path(folder) / "random.jsonl", known.evaluate)
        generator = numpy_generator("known_front", "random_search", seed)
        _, drawn = random_search(known.space, plan, [evaluations], memo, generator)
    archs = zip(WAYS, (result.archive_front, result.population_front, list(drawn)), strict=True)
    return {"evaluations": evaluations} | {way: known.share(chosen) for way, chosen in archs}


@click.command(help=help_of(__doc__))
@click.option("--data", "path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seeds", type=click.IntRange(min=2), default=10, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures to this JSON file.")
@one_line_errors
def main(path: Path, seeds: int, out: Path | None) -> None:
    known = load(path, SearchPlan.model_fields["objectives"].default)
    rows, figures = [], []
    for (population, generations), (name, changed) in product(BUDGETS, SEARCHES.items()):
        plan = planned(population, generations, **changed)
        runs = [measure(known, plan, seed) for seed in range(seeds)]
        values = {way: [run[way] for run in runs] for way in ("evaluations", *WAYS)}
        mean = {way: float(np.mean(value)) for way, value in values.items()}
        figures.append({"search": name, "plan": plan.plain(), "runs": runs})
        cells = [name, f"{population} x {generations}", f"{mean['evaluations']:,.0f}"]
        rows.append([*cells, *(shown(values[way]) for way in WAYS), f"{mean['archive'] / mean['random']:.2f}"])
    title = (
        f"Known front of {len(known.points)} points among {len(known.fitness):,} networks: "
        f"share found, %, mean of {seeds} seeds"
    )
    columns = ["search", "population x generations", "distinct evaluations"]
    columns += ["archive", "final population", "random search", "archive / random"]
    report(title, columns, rows, environment(torch.device("cpu"), 1, seeds) | {"settings": figures}, out)


def shown(shares: list[float]) -> str:
    interval = mean_interval([100 * share for share in shares])
    return f"{interval.value:.1f} ({interval.low:.1f} to {interval.high:.1f})"


if __name__ == "__main__":
    main()
