"""Everything the reports show, read from plan/ and results/ into plain values.

Which rows and datasets exist is what the plans say, never what lies in results/: a mode that was
removed leaves its files behind. Accuracies are shares in [0, 1].
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tamnas.errors import InputError
from tamnas.fields import parse_fraction, read_yaml
from tamnas.plan import DatasetPlan, Eval, RowPlan, load_dataset, load_row
from tamnas.space import Architecture, SearchSpace
from tamnas.stage import read_json, results, seeded
from tamnas.statistics import best

Cell = tuple[Fraction, int]  # (eps, PGD steps)
STAGES = ("supernet_block", "supernet_joint", "search", "select", "retrain_scratch", "retrain_finetune", "legonet",
          "evaluate_scratch", "evaluate_finetune", "evaluate_legonet")  # fmt: skip


@dataclass(frozen=True)
class Test:
    """One trained network on test images."""

    clean: float
    grid: Mapping[Cell, float]
    images: int
    weights: str  # "best" or "last"
    success: str  # "any" or "last"


@dataclass(frozen=True)
class Trained:
    """A network after training; `validation` maps best and last to clean and robust shares."""

    id: str
    architecture: Architecture | None
    parameters: int
    validation: Mapping[str, Mapping[str, float]]
    curve: Sequence[Mapping[str, float | None]]
    test: Test
    attack: Sequence[Mapping[str, float | int]] = ()  # one attack step by step; empty in results before it was kept


@dataclass(frozen=True)
class Searched:
    """A subnet of the front with inherited weights, on validation."""

    id: str
    architecture: Architecture
    parameters: int
    clean: float
    robust: float


@dataclass(frozen=True)
class Lego:
    """A Lego-Net with the votes it was built from; `tau` is of all networks trained from scratch."""

    network: Trained
    counts: Sequence[Mapping]
    voters: Sequence[Mapping[str, str]]
    tau: Mapping[str, Mapping[str, float | int | None]]


@dataclass(frozen=True)
class Row:
    """One mode on one dataset."""

    plan: RowPlan
    space: SearchSpace
    front: Sequence[Searched]
    archive_front: Sequence[Searched]
    hypervolume: Sequence[Mapping[str, float]]
    selected: Sequence[Searched]
    block_curve: Sequence[Mapping[str, float]]
    joint_curve: Sequence[Mapping[str, float]]
    scratch: Sequence[Trained]
    finetune: Sequence[Trained]
    lego: Lego

    @property
    def name(self) -> str:
        return self.plan.row

    @property
    def best(self) -> Trained:
        """The row's representative, by robust accuracy on validation after training from scratch."""
        return best_of(self.scratch, self.plan.eval.weights)

    @property
    def best_finetuned(self) -> Trained:
        return best_of(self.finetune, self.plan.eval.weights)


@dataclass(frozen=True)
class Dataset:
    """One dataset: the rows that have been run, in the order of params.yaml, and `missing` row plans."""

    plan: DatasetPlan
    space: SearchSpace  # of the pooled Lego-Net
    card: Mapping
    rows: Sequence[Row]
    missing: Sequence[RowPlan]
    pooled: Lego | None
    baselines: Sequence[Trained]

    @property
    def name(self) -> str:
        return self.plan.dataset

    @property
    def images(self) -> dict[str, int]:
        return {split: part["images"] for split, part in self.card["splits"].items()}

    @property
    def key_cell(self) -> Cell:
        """The attack that stands for robustness: the reference attack of validation, if the grid has it."""
        return key_cell(self.plan.eval, self.plan.validation.attack.eps, self.plan.validation.attack.steps)

    @property
    def best_row(self) -> Row | None:
        """The row with the best representative on validation."""
        if not self.rows:
            return None

        def order(row: Row) -> tuple:
            # As tamnas.statistics.best; rows may keep different weights, each is judged by its own.
            shown = row.best.validation[row.plan.eval.weights]
            return shown["robust"], shown["clean"], -row.best.parameters

        return max(self.rows, key=order)


def key_cell(plan: Eval, eps: Fraction, steps: int) -> Cell:
    """(eps, steps) itself where the grid has it, else the grid's largest radius or step count."""
    return (eps if eps in plan.eps else max(plan.eps)), (steps if steps in plan.steps else max(plan.steps))


def best_of(networks: Sequence[Trained], weights: str) -> Trained:
    """The best by validation, by the same rule as everywhere (`tamnas.statistics.best`)."""
    by_id = {network.id: network for network in networks}
    return by_id[best([_record(network) for network in networks], weights)["id"]]


def _record(network: Trained) -> dict:
    return {"id": network.id, "parameters": network.parameters, **network.validation}


def collect(folder: Path = Path("plan")) -> list[Dataset]:
    """All datasets that have a plan. Raises InputError naming the first file that is missing."""
    plans = sorted(folder.glob("*.yaml"))
    if not plans:
        raise InputError(f"{folder}: no plans; `dvc repro plan` or `python stages/plan.py` writes them")
    names = [path.stem for path in plans if "row" not in read_yaml(path)]
    return [read_dataset(load_dataset(name, folder), folder) for name in names]


def read_dataset(plan: DatasetPlan, folder: Path = Path("plan")) -> Dataset:
    plans = [load_row(name, folder) for name in plan.pooled.rows]
    found = {row.row: any(results(plan.dataset, stage, row.row).exists() for stage in STAGES) for row in plans}
    complete = all(found.values())
    # Without one of its rows the pooled Lego-Net is either absent or left over from another run.
    pooled = _lego(plan.dataset, None, plan.seed) if complete else None
    return Dataset(
        plan=plan,
        space=SearchSpace.from_params(plan),
        card=read_json(results(plan.dataset, "prepare") / "card.json"),
        rows=[_row(row) for row in plans if found[row.row]],
        missing=[row for row in plans if not found[row.row]],
        pooled=pooled,
        baselines=_trained(plan.dataset, "baselines", "evaluate_baselines", None, plan.seed)
        if plan.baselines.names
        else [],
    )


def _row(plan: RowPlan) -> Row:
    def folder(stage: str) -> Path:
        return results(plan.dataset, stage, plan.row)

    fronts = read_json(folder("search") / "fronts.json")
    return Row(
        plan=plan,
        space=SearchSpace.from_params(plan),
        front=_searched(fronts["front"]),
        archive_front=_searched(fronts["archive_front"]),
        hypervolume=read_csv(folder("search") / "hypervolume.csv"),
        selected=_searched(read_json(folder("select") / "selected.json")["networks"]),
        block_curve=read_csv(folder("supernet_block") / "curve.csv"),
        joint_curve=read_csv(folder("supernet_joint") / "curve.csv"),
        scratch=_trained(plan.dataset, "retrain_scratch", "evaluate_scratch", plan.row, plan.seed),
        finetune=_trained(plan.dataset, "retrain_finetune", "evaluate_finetune", plan.row, plan.seed),
        lego=_lego(plan.dataset, plan.row, plan.seed),
    )


def _searched(networks: Sequence[dict]) -> list[Searched]:
    return [
        Searched(
            one["id"], Architecture.from_plain(one["architecture"]), one["parameters"], one["clean"], one["robust"]
        )
        for one in networks
    ]


def _lego(dataset: str, row: str | None, seed: int) -> Lego:
    kind = "legonet" if row else "legonet_pooled"
    statistics = read_json(results(dataset, kind, row) / "statistics.json")
    (network,) = _trained(dataset, kind, f"evaluate_{kind}", row, seed)
    counts = read_csv(results(dataset, kind, row) / "counts.csv")
    return Lego(network, counts, statistics["voters"], statistics["kendall_tau"])


def _trained(dataset: str, training: str, evaluation: str, row: str | None, seed: int) -> list[Trained]:
    trained, tested = (seeded(results(dataset, stage, row), seed) for stage in (training, evaluation))
    curves = read_csv(trained / "curves.csv")
    cells = read_csv(tested / "grid.csv")
    traces = read_csv(tested / "attack.csv") if (tested / "attack.csv").exists() else []
    networks = []
    for record in read_json(trained / "validation.json")["networks"]:
        own = [cell for cell in cells if cell["network"] == record["id"]]
        if not own:
            raise InputError(f"{tested / 'grid.csv'}: has no network {record['id']!r}; `dvc repro` makes it")
        arch = record["architecture"]
        networks.append(
            Trained(
                id=record["id"],
                architecture=Architecture.from_plain(arch) if arch else None,
                parameters=record["parameters"],
                validation={name: record[name] for name in ("best", "last")},
                curve=[line for line in curves if line["network"] == record["id"]],
                test=_test(own),
                attack=[line for line in traces if line["network"] == record["id"]],
            )
        )
    return networks


def _test(cells: Sequence[dict]) -> Test:
    clean = next(cell for cell in cells if cell["steps"] == 0)
    grid = {(parse_fraction(cell["eps"]), cell["steps"]): cell["accuracy"] for cell in cells if cell["steps"]}
    return Test(clean["accuracy"], grid, clean["images"], clean["weights"], clean["success"])


# What each CSV must have; its format is that of the JSON file beside it.
COLUMNS = {
    "attack.csv": {"network", "eps", "step", "loss", "classes"},
    "counts.csv": {"layer", "gene", "value", "rank", "count", "mean_robust"},
    "curve.csv": {"epoch", "lr", "loss", "train_clean", "train_robust"},
    "curves.csv": {"network", "epoch", "lr", "loss", "train_clean", "train_robust"},
    "grid.csv": {"network", "weights", "eps", "steps", "success", "images", "accuracy"},
    "hypervolume.csv": {"generation", "evaluated", "hypervolume", "archive_hypervolume"},
}


def read_csv(path: Path) -> list[dict]:
    """Rows with numbers as int or float, empty cells as None.

    Raises InputError if the file is missing or lacks a column (`COLUMNS`) or a cell.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            rows, columns = list(reader), set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__}); `dvc repro` makes it") from None
    for column in sorted(COLUMNS.get(path.name, set()) - columns):
        raise InputError(f"{path}: has no column {column!r}: another version wrote it; `dvc repro` makes it again")
    for number, row in enumerate(rows, 2):
        if "" in row or None in row.values():
            raise InputError(f"{path}: line {number} is cut short or too long; `dvc repro` makes it again")
    return [{key: _value(text) for key, text in row.items()} for row in rows]


def _value(text: str | None) -> str | int | float | None:
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
