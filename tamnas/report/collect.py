"""Everything the reports show, read from plan/ and results/ into plain values.

Which rows and datasets exist is what the plans say, never what lies in results/: a mode that was
removed leaves its files behind. Accuracies are shares in [0, 1].
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from tamnas.errors import InputError
from tamnas.fields import parse_fraction, read_yaml
from tamnas.plan import DatasetPlan, Eval, RowPlan, load_dataset, load_row
from tamnas.space import Architecture, SearchSpace
from tamnas.stage import read_json, results, seeded
from tamnas.statistics import best

Cell = tuple[Fraction, int]  # (eps, PGD steps)


@dataclass(frozen=True)
class Test:
    """One trained network on test images."""

    clean: float
    grid: Mapping[Cell, float]
    images: int
    weights: str  # "best" or "last"
    success: str  # "any" or "last"


@dataclass(frozen=True)
class Costs:
    """Parameters behind the last choice block (or of the classifier) and before it, multiply-accumulates of an image.

    `milliseconds` for one image on one thread of `processor`, where it was measured.
    """

    head: int
    body: int
    macs: int
    milliseconds: float | None = None
    processor: str | None = None


@dataclass(frozen=True)
class Trained:
    """A network after training; `validation` maps best and last to clean and robust shares.

    `label` of a control: its name, and the kind and id of what it stands beside (`tamnas.controls`).
    `repeats`: the same network trained with further seeds. `checks`: accuracy by check of the attack.
    """

    id: str
    architecture: Architecture | None
    parameters: int
    validation: Mapping[str, Mapping[str, float]]
    curve: Sequence[Mapping[str, float | None]]
    test: Test
    costs: Costs
    label: Mapping[str, str | int] = field(default_factory=dict)
    repeats: Sequence[Test] = ()
    checks: Mapping[str, float] = field(default_factory=dict)
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
class Controls:
    """What stands beside a row or a dataset: `status` by control (`tamnas.controls.status`), networks of all seeds."""

    status: Mapping[str, str]
    networks: Sequence[Trained]

    def of(self, control: str) -> list[Trained]:
        return [one for one in self.networks if one.label["control"] == control]

    def attach(self, networks: Sequence[Trained], kind: str) -> list[Trained]:
        """`networks`, each with the tests of its repeats with further seeds."""
        repeats = self.of("seeds")
        return [
            replace(one, repeats=[again.test for again in repeats if (again.label["kind"], again.label["of"])
                                  == (kind, one.id)])
            for one in networks
        ]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One mode on one dataset. A run that stopped at a deadline may lack fine-tuned networks and Lego-Net.

    `random_search`: hypervolume lines as the search's, empty if not run.
    """

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
    lego: Lego | None
    controls: Controls
    random_search: Sequence[Mapping[str, float]]

    @property
    def name(self) -> str:
        return self.plan.row

    @property
    def best(self) -> Trained:
        """The row's representative, by robust accuracy on validation after training from scratch."""
        return best_of(self.scratch, self.plan.eval.weights)

    @property
    def best_finetuned(self) -> Trained | None:
        return best_of(self.finetune, self.plan.eval.weights) if self.finetune else None

    @property
    def tau(self) -> Mapping[str, Mapping[str, float | int | None]]:
        """Kendall's tau of all networks trained from scratch; undefined before the Lego-Net is."""
        undefined = {"tau": None, "p_value": None, "networks": len(self.scratch)}
        return self.lego.tau if self.lego else {"clean": undefined, "robust": undefined}


@dataclass(frozen=True)
class Dataset:
    """One dataset: the rows that have been run, in the order of params.yaml, and `missing` row plans.

    `unfinished`: what a run that stopped at its deadline left out of the rows, a line each.
    """

    plan: DatasetPlan
    space: SearchSpace  # of the pooled Lego-Net
    card: Mapping
    rows: Sequence[Row]
    missing: Sequence[RowPlan]
    pooled: Lego | None
    baselines: Sequence[Trained]
    controls: Controls
    unfinished: Sequence[str] = ()

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
    found = {row.row: _evaluated(plan.dataset, "scratch", row.row, plan.seed) for row in plans}
    # Without one of its rows the pooled Lego-Net is either absent or left over from another run.
    complete = all(found.values()) and _evaluated(plan.dataset, "legonet_pooled", None, plan.seed)
    controls = _controls(plan, None)
    pooled = _lego(plan.dataset, None, plan.seed, controls) if complete else None
    return Dataset(
        plan=plan,
        space=SearchSpace.from_params(plan),
        card=read_json(results(plan.dataset, "prepare") / "card.json"),
        rows=[_row(row) for row in plans if found[row.row]],
        missing=[row for row in plans if not found[row.row]],
        pooled=pooled,
        baselines=controls.attach(_baselines(plan), "baselines"),
        controls=controls,
        unfinished=_unfinished(plan, [row for row in plans if found[row.row]]),
    )


def _baselines(plan: DatasetPlan) -> list[Trained]:
    """Those that the plan names, in its order, and that have been run."""
    if not _evaluated(plan.dataset, "baselines", None, plan.seed):
        return []
    networks = {one.id: one for one in _trained(plan.dataset, "baselines", "evaluate_baselines", None, plan.seed)}
    return [networks[name] for name in plan.baselines.names if name in networks]


def _evaluated(dataset: str, kind: str, row: str | None, seed: int) -> bool:
    """Whether networks of a kind were tested; a run that stopped at its deadline has no folder for those it did not."""
    return seeded(results(dataset, f"evaluate_{kind}", row), seed).exists()


KINDS = {
    "scratch": ("retrain_scratch", "networks trained from scratch"),
    "finetune": ("retrain_finetune", "fine-tuned networks"),
    "legonet": ("legonet", "Lego-Net"),
    "baselines": ("baselines", "hand-made networks"),
}


def _unfinished(plan: DatasetPlan, rows: Sequence[RowPlan]) -> list[str]:
    wanted = [(kind, row.row) for row in rows for kind in ("scratch", "finetune", "legonet")]
    wanted += [("baselines", None)] if plan.baselines.names else []
    lines = []
    for kind, row in wanted:
        training, what = KINDS[kind]
        name = f"{row or plan.dataset}: {what}"
        if not _evaluated(plan.dataset, kind, row, plan.seed):
            lines.append(f"{name}: not run.")
            continue
        trained = read_json(seeded(results(plan.dataset, training, row), plan.seed) / "validation.json")
        cells = read_csv(seeded(results(plan.dataset, f"evaluate_{kind}", row), plan.seed) / "grid.csv")
        done, planned = len({cell["network"] for cell in cells}), trained.get("planned", len(trained["networks"]))
        if done < planned:
            lines.append(f"{name}: {done} of {planned} networks: the run was stopped at its deadline.")
    return lines


def _row(plan: RowPlan) -> Row:
    def folder(stage: str) -> Path:
        return results(plan.dataset, stage, plan.row)

    fronts = read_json(folder("search") / "fronts.json")
    controls, random = _controls(plan, plan.row), folder("random_search") / "hypervolume.csv"
    scratch = _trained(plan.dataset, "retrain_scratch", "evaluate_scratch", plan.row, plan.seed)
    tuned = _evaluated(plan.dataset, "finetune", plan.row, plan.seed)
    finetune = _trained(plan.dataset, "retrain_finetune", "evaluate_finetune", plan.row, plan.seed) if tuned else []
    return Row(
        plan=plan,
        space=SearchSpace.from_params(plan),
        front=_searched(fronts["front"]),
        archive_front=_searched(fronts["archive_front"]),
        hypervolume=read_csv(folder("search") / "hypervolume.csv"),
        selected=_searched(read_json(folder("select") / "selected.json")["networks"]),
        block_curve=read_csv(folder("supernet_block") / "curve.csv"),
        joint_curve=read_csv(folder("supernet_joint") / "curve.csv"),
        scratch=controls.attach(scratch, "scratch"),
        finetune=controls.attach(finetune, "finetune"),
        lego=_lego(plan.dataset, plan.row, plan.seed, controls)
        if _evaluated(plan.dataset, "legonet", plan.row, plan.seed)
        else None,
        controls=controls,
        random_search=read_csv(random) if plan.controls.random_search and random.exists() else [],
    )


def _controls(plan: RowPlan | DatasetPlan, row: str | None) -> Controls:
    """Of a row, or of the dataset itself; what has never been run has no status."""
    stage = "controls" if row else "controls_pooled"
    told = results(plan.dataset, stage, row) / "controls.json"
    status = read_json(told)["controls"] if told.exists() else {}
    networks = []
    for seed in (plan.seed, *plan.seeds):
        if seeded(told.parent, seed).exists():
            networks += _trained(plan.dataset, stage, f"evaluate_{stage}", row, seed)
    return Controls(status, networks)


def _searched(networks: Sequence[dict]) -> list[Searched]:
    return [
        Searched(
            one["id"], Architecture.from_plain(one["architecture"]), one["parameters"], one["clean"], one["robust"]
        )
        for one in networks
    ]


def _lego(dataset: str, row: str | None, seed: int, controls: Controls) -> Lego:
    kind = "legonet" if row else "legonet_pooled"
    statistics = read_json(results(dataset, kind, row) / "statistics.json")
    (network,) = controls.attach(_trained(dataset, kind, f"evaluate_{kind}", row, seed), kind)
    counts = read_csv(results(dataset, kind, row) / "counts.csv")
    return Lego(network, counts, statistics["voters"], statistics["kendall_tau"])


def _trained(dataset: str, training: str, evaluation: str, row: str | None, seed: int) -> list[Trained]:
    trained, tested = (seeded(results(dataset, stage, row), seed) for stage in (training, evaluation))
    curves = read_csv(trained / "curves.csv")
    cells = read_csv(tested / "grid.csv")
    costs = _costs(tested)
    checks = read_csv(tested / "checks.csv") if (tested / "checks.csv").exists() else []
    traces = read_csv(tested / "attack.csv") if (tested / "attack.csv").exists() else []
    networks = []
    for record in read_json(trained / "validation.json")["networks"]:
        own = [cell for cell in cells if cell["network"] == record["id"]]
        if not own and not read_json(tested / "metrics.json").get("complete", True):
            continue  # the deadline came before its evaluation
        for name, known in (("grid.csv", own), ("costs.csv", record["id"] in costs)):
            if not known:
                raise InputError(f"{tested / name}: has no network {record['id']!r}; `dvc repro` makes it")
        arch = record["architecture"]
        networks.append(
            Trained(
                id=record["id"],
                architecture=Architecture.from_plain(arch) if arch else None,
                parameters=record["parameters"],
                validation={name: record[name] for name in ("best", "last")},
                curve=[line for line in curves if line["network"] == record["id"]],
                test=_test(own),
                costs=costs[record["id"]],
                label={key: record[key] for key in ("control", "kind", "of", "seed") if key in record},
                checks={line["check"]: line["accuracy"] for line in checks if line["network"] == record["id"]},
                attack=[line for line in traces if line["network"] == record["id"]],
            )
        )
    return networks


def _test(cells: Sequence[dict]) -> Test:
    clean = next(cell for cell in cells if cell["steps"] == 0)
    grid = {(parse_fraction(cell["eps"]), cell["steps"]): cell["accuracy"] for cell in cells if cell["steps"]}
    return Test(clean["accuracy"], grid, clean["images"], clean["weights"], clean["success"])


def _costs(folder: Path) -> dict[str, Costs]:
    file = folder / "latency.csv"  # only where eval.latency asked for it
    timed = {line["network"]: line for line in read_csv(file)} if file.exists() else {}
    return {
        line["network"]: Costs(
            line["head"], line["body"], line["macs"],
            *(timed.get(line["network"], {}).get(key) for key in ("milliseconds", "processor")),
        )
        for line in read_csv(folder / "costs.csv")
    }  # fmt: skip


# What each CSV must have; its format is that of the JSON file beside it.
COLUMNS = {
    "attack.csv": {"network", "eps", "step", "loss", "classes"},
    "checks.csv": {"network", "check", "eps", "steps", "success", "restarts", "images", "accuracy"},
    "costs.csv": {"network", "parameters", "head", "body", "size", "macs"},
    "counts.csv": {"layer", "gene", "value", "rank", "count", "mean_robust"},
    "curve.csv": {"epoch", "lr", "loss", "train_clean", "train_robust"},
    "curves.csv": {"network", "epoch", "lr", "loss", "train_clean", "train_robust"},
    "grid.csv": {"network", "weights", "eps", "steps", "success", "images", "accuracy"},
    "hypervolume.csv": {"generation", "evaluated", "hypervolume", "archive_hypervolume"},
    "latency.csv": {"network", "milliseconds", "runs", "processor"},
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
