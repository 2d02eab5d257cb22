"""The study (`tamnas.report.study`), read from plan/ and results/.

Which rows and datasets exist is what the plans say, never what lies in results/: a mode that was
removed leaves its files behind.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from tamnas.config.plan import DatasetPlan, RowPlan, StudyPlan, load_study
from tamnas.config.sections import EvalParams
from tamnas.controls import RUN
from tamnas.errors import InputError
from tamnas.evaluation.health import LEARNT, above_chance
from tamnas.evaluation.kinds import KINDS
from tamnas.files import read_json
from tamnas.pipeline.paths import results, seeded
from tamnas.records import read_records
from tamnas.report.divergence import divergences, void
from tamnas.report.study import (
    ControlResults,
    Costs,
    Dataset,
    LegoNet,
    Ranked,
    RowResults,
    Searched,
    Test,
    TrainedNetwork,
    WorstCase,
    class_shares,
)
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


def collect(study: StudyPlan | None = None) -> list[Dataset]:
    """All datasets of a study, that of plan/ if none is given. Raises InputError naming the first missing file."""
    study = study or load_study()
    return [_dataset(plan, [study.rows[row] for row in plan.pooled.rows]) for plan in study.datasets.values()]


def _dataset(plan: DatasetPlan, plans: Sequence[RowPlan]) -> Dataset:
    evaluated = {row.row: _evaluated(plan.dataset, "scratch", row.row, plan.seed) for row in plans}
    # Without one of its rows the pooled Lego-Net is either absent or left over from another run.
    complete = (
        plan.pooled.trained and all(evaluated.values()) and _evaluated(plan.dataset, "legonet_pooled", None, plan.seed)
    )
    controls, run = _read_controls(plan, None), [row for row in plans if evaluated[row.row]]
    return Dataset(
        plan=plan,
        space=SearchSpace.from_params(plan),
        card=_card(plan.dataset),
        rows=[_read_row(row) for row in run],
        missing=[row for row in plans if not evaluated[row.row]],
        pooled=_read_lego(plan, None, controls) if complete else None,
        baselines=controls.attach(_read_baselines(plan), "baselines"),
        controls=controls,
        unfinished=_unfinished(plan, run),
        diverged=divergences(plan.dataset, [row.row for row in plans]),
    )


def _card(dataset: str) -> dict:
    return read_json(results(dataset, "prepare") / "card.json")


def _chance(dataset: str, split: str) -> float:
    """The accuracy up to which nothing was learnt."""
    return above_chance(max(class_shares(_card(dataset), split)), LEARNT)


def _read_baselines(plan: DatasetPlan) -> list[TrainedNetwork]:
    """Those that the plan names, in its order, and that have been run."""
    if not _evaluated(plan.dataset, "baselines", None, plan.seed):
        return []
    networks = {network.id: network for network in _read_trained(plan, "baselines", "evaluate_baselines", None)}
    return [networks[name] for name in plan.baselines.names if name in networks]


def _evaluated(dataset: str, kind: str, row: str | None, seed: int) -> bool:
    """Whether networks of a kind were tested; a run that stopped at its deadline has no folder for those it did not."""
    return not void(dataset, kind, row) and seeded(results(dataset, f"evaluate_{kind}", row), seed).exists()


def _wanted(plan: DatasetPlan, rows: Sequence[RowPlan]) -> Iterator[tuple[str, str | None, int]]:
    """(kind, row, training seed) of all networks that `rows` and what pools them ask for."""
    for row in rows:
        yield from ((kind, row.row, plan.seed) for kind in ("scratch", "finetune", "legonet"))
        yield from (("controls", row.row, seed) for seed in _control_seeds(row, row.row))
    if plan.baselines.names:
        yield "baselines", None, plan.seed
    if len(rows) == len(plan.pooled.rows):
        if plan.pooled.trained:
            yield "legonet_pooled", None, plan.seed
        if plan.pooled.trained or plan.baselines.names:
            yield from (("controls_pooled", None, seed) for seed in _control_seeds(plan, None))


def _control_seeds(plan: RowPlan | DatasetPlan, row: str | None) -> list[int]:
    """Training seeds of the controls; a control that is as the row's own trains nothing."""
    status = _control_status(plan.dataset, row)
    run = RUN in [said for name, said in status.items() if name != "seeds"] if status else plan.controls.training
    return [plan.seed] * run + list(plan.seeds)


def _unfinished(plan: DatasetPlan, rows: Sequence[RowPlan]) -> list[str]:
    lines = []
    for kind, row, seed in _wanted(plan, rows):
        name = f"{row or plan.dataset}: {KINDS[kind].text}" + (f", seed {seed}" if seed != plan.seed else "")
        if void(plan.dataset, kind, row):
            continue  # `divergences` tells more
        if not _evaluated(plan.dataset, kind, row, seed):
            lines.append(f"{name}: not run.")
            continue
        trained = read_json(seeded(results(plan.dataset, KINDS[kind].trained_by, row), seed) / "validation.json")
        grid = read_csv(seeded(results(plan.dataset, f"evaluate_{kind}", row), seed) / "grid.csv")
        done, planned = len({line["network"] for line in grid}), trained.get("planned", len(trained["networks"]))
        if done < planned:
            lines.append(f"{name}: {done} of {planned} networks: the run was stopped at its deadline.")
    return lines


def _read_row(plan: RowPlan) -> RowResults:
    def folder(stage: str) -> Path:
        return results(plan.dataset, stage, plan.row)

    fronts, timed = read_json(folder("search") / "fronts.json"), "latency" in plan.search.objectives
    controls, random = _read_controls(plan, plan.row), folder("random_search") / "hypervolume.csv"
    scratch = _read_trained(plan, "retrain_scratch", "evaluate_scratch", plan.row)
    tuned = _evaluated(plan.dataset, "finetune", plan.row, plan.seed)
    finetune = _read_trained(plan, "retrain_finetune", "evaluate_finetune", plan.row) if tuned else []
    for name in ("archive", "population"):
        if name not in fronts:
            path = folder("search") / "fronts.json"
            raise InputError(f"{path}: has no {name!r}: another version wrote it; `dvc repro` makes it again")
    fronts = {name: _read_searched(fronts[name]) for name in ("archive", "population")}
    return RowResults(
        plan=plan,
        space=SearchSpace.from_params(plan),
        fronts=fronts,
        individuals=read_csv(folder("search") / "individuals.csv"),
        hypervolume=read_csv(folder("search") / "hypervolume.csv"),
        selected=_read_searched(read_json(folder("select") / "selected.json")["networks"]),
        block_curve=read_csv(folder("supernet_block") / "curve.csv"),
        joint_curve=read_csv(folder("supernet_joint") / "curve.csv"),
        scratch=controls.attach(scratch, "scratch"),
        finetune=controls.attach(finetune, "finetune"),
        lego=_read_lego(plan, plan.row, controls) if _evaluated(plan.dataset, "legonet", plan.row, plan.seed) else None,
        controls=controls,
        random_search=_read_if_there(random) if plan.controls.random_search else [],
        ranking=_read_ranking(folder("ranking") / "inherited.csv"),
        timed_on=read_json(folder("search") / "latencies.json")["processor"] if timed else None,
        at_chance=all(subnet.clean <= _chance(plan.dataset, "validation") for subnet in fronts[plan.retrain.front]),
    )


def _control_status(dataset: str, row: str | None) -> dict[str, str]:
    """Of a row, or of the dataset itself; what has never been run has no status."""
    path = results(dataset, "controls" if row else "controls_pooled", row) / "controls.json"
    return read_json(path)["controls"] if path.exists() else {}


def _read_controls(plan: RowPlan | DatasetPlan, row: str | None) -> ControlResults:
    stage, status = "controls" if row else "controls_pooled", _control_status(plan.dataset, row)
    if void(plan.dataset, stage, row):
        return ControlResults({name: "diverged" if said == RUN else said for name, said in status.items()}, [])
    networks = []
    for seed in (plan.seed, *plan.seeds):
        trained = seeded(results(plan.dataset, stage, row), seed).exists()
        if trained and _evaluated(plan.dataset, stage, row, seed):
            networks += _read_trained(plan, stage, f"evaluate_{stage}", row, seed)
    return ControlResults(status, networks)


def _read_searched(networks: Sequence[dict]) -> list[Searched]:
    searched = []
    for network in networks:
        values = {name: value for name, value in network.items() if name not in ("id", "architecture")}
        base = [values[name] for name in ("parameters", "clean", "robust")]
        searched.append(Searched(network["id"], Architecture.from_plain(network["architecture"]), *base, values))
    return searched


def _read_ranking(path: Path) -> list[Ranked]:
    """Empty where a run has stopped before."""
    networks: dict[str, Ranked] = {}
    for line in _read_if_there(path):
        trained, inherited = (
            {which: line[f"{when}_{which}"] for which in ("clean", "robust")} for when in ("trained", "inherited")
        )
        network = networks.setdefault(line["network"], Ranked(line["network"], line["parameters"], trained, {}))
        network.inherited[line["recalibration"]] = inherited
    return list(networks.values())


def _read_lego(plan: RowPlan | DatasetPlan, row: str | None, controls: ControlResults) -> LegoNet:
    kind = "legonet" if row else "legonet_pooled"
    statistics = read_json(results(plan.dataset, kind, row) / "statistics.json")
    (network,) = controls.attach(_read_trained(plan, kind, f"evaluate_{kind}", row), kind)
    counts = read_csv(results(plan.dataset, kind, row) / "counts.csv")
    return LegoNet(network, counts, statistics["voters"])


def _read_trained(
    plan: RowPlan | DatasetPlan, training: str, evaluation: str, row: str | None, seed: int | None = None
) -> list[TrainedNetwork]:
    """Networks of a training seed, the run's own if none is given."""
    seed = plan.seed if seed is None else seed
    trained, tested = (seeded(results(plan.dataset, stage, row), seed) for stage in (training, evaluation))
    curves = read_csv(trained / "curves.csv")
    grid = read_csv(tested / "grid.csv")
    costs, chance = _read_costs(tested), _chance(plan.dataset, "test")
    checks, traces, attacked = (_read_if_there(tested / f"{name}.csv") for name in ("checks", "attack", "attacks"))
    networks = []
    for record in read_records(trained / "validation.json"):
        own = [line for line in grid if line["network"] == record.id]
        if not own and not read_json(tested / "metrics.json").get("complete", True):
            continue  # the deadline came before its evaluation
        for name, known in (("grid.csv", own), ("costs.csv", record.id in costs)):
            if not known:
                raise InputError(f"{tested / name}: has no network {record.id!r}; `dvc repro` makes it")
        of_attacks = [line for line in attacked if line["network"] == record.id]
        test = _read_test(own, of_attacks, plan.eval)
        networks.append(
            TrainedNetwork(
                record=record,
                curve=[line for line in curves if line["network"] == record.id],
                test=test,
                costs=costs[record.id],
                checks={line["check"]: line["accuracy"] for line in checks if line["network"] == record.id},
                attack=[line for line in traces if line["network"] == record.id],
                at_chance=test.clean <= chance,
            )
        )
    return networks


def _read_test(lines: Sequence[dict], attacked: Sequence[dict], plan: EvalParams) -> Test:
    """Of one network's lines of grid.csv and of attacks.csv; attacks that are not planned are left over from another
    run.
    """
    clean = next(line for line in lines if line["attack"] == "clean")
    planned = {attack.key: attack for attack in plan.planned(final=True)}
    own = {planned[line["attack"]]: line for line in lines if line["attack"] in planned}
    rows = {attack: [row for row in attacked if row["attack"] == attack.key] for attack in plan.attacks}
    parts = {attack: own_rows for attack, own_rows in rows.items() if own_rows}
    grid = {attack: line["accuracy"] for attack, line in own.items()}
    for attack, own_rows in parts.items():
        (worst,) = WorstCase.beside([attack])
        grid[worst] = next(row["accuracy"] for row in own_rows if row["role"] == "worst")
    missed = {attack: line["missed"] for attack, line in own.items() if line["missed"]}
    return Test(clean["accuracy"], grid, clean["images"], clean["weights"], clean["success"], missed, parts)


def _read_costs(folder: Path) -> dict[str, Costs]:
    timed = {line["network"]: line for line in _read_if_there(folder / "latency.csv")}
    costs = {}
    for line in read_csv(folder / "costs.csv"):
        latency = timed.get(line["network"], {})
        measured = latency.get("milliseconds"), latency.get("processor")
        costs[line["network"]] = Costs(line["head"], line["body"], line["macs"], *measured)
    return costs


def _read_if_there(path: Path) -> list[dict]:
    """Of a file that only some settings ask for."""
    return read_csv(path) if path.exists() else []


# What each CSV must have; its format is that of the JSON file beside it.
COLUMNS = {
    "attack.csv": {"network", "eps", "step", "loss", "classes", "correct", "stuck"},
    "attacks.csv": {"network", "attack", "images", "role", "name", "accuracy", "missed"},
    "checks.csv": {"network", "check", "eps", "steps", "success", "restarts", "images", "accuracy"},
    "costs.csv": {"network", "parameters", "head", "body", "size", "macs"},
    "counts.csv": {"layer", "gene", "value", "rank", "count", "mean_robust"},
    "curve.csv": {"epoch", "lr", "loss", "train_clean", "train_robust", "train_classes"},
    "curves.csv": {"network", "epoch", "lr", "loss", "train_clean", "train_robust", "validation_classes"},
    "grid.csv": {"network", "weights", "attack", "eps", "steps", "success", "images", "accuracy", "missed"},
    "hypervolume.csv": {"generation", "evaluated", "hypervolume", "archive_hypervolume"},
    "individuals.csv": {"generation", "individual", "architecture", "parameters", "clean", "robust"},
    "inherited.csv": {
        "network",
        "parameters",
        "recalibration",
        "inherited_clean",
        "inherited_robust",
        "trained_clean",
        "trained_robust",
    },
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
