"""The study (`tamnas.report.study`), read from plan/ and results/.

Which rows and datasets exist is what the plans say, never what lies in results/: a mode that was
removed leaves its files behind.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tamnas import files
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
    evaluated = {row.row: _evaluated(row, "scratch") for row in plans}
    # Without one of its rows the pooled Lego-Net is either absent or left over from another run.
    complete = plan.pooled.trained and all(evaluated.values()) and _evaluated(plan, "legonet_pooled")
    controls, run = _read_controls(plan), [row for row in plans if evaluated[row.row]]
    return Dataset(
        plan=plan,
        space=SearchSpace.from_params(plan),
        card=_card(plan.dataset),
        rows=[_read_row(row) for row in run],
        missing=[row for row in plans if not evaluated[row.row]],
        pooled=_read_lego(plan, controls) if complete else None,
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
    if not _evaluated(plan, "baselines"):
        return []
    networks = {network.id: network for network in _read_trained(plan, "baselines")}
    return [networks[name] for name in plan.baselines.names if name in networks]


def _evaluated(plan: RowPlan | DatasetPlan, kind: str, seed: int | None = None) -> bool:
    """Whether networks of a kind were tested; a run that stopped at its deadline has no folder for those it did not."""
    return not void(plan.dataset, kind, plan.row) and _tested(plan, kind, seed).exists()


def _trained(plan: RowPlan | DatasetPlan, kind: str, seed: int | None = None) -> Path:
    """The results of training networks of a kind with a seed, the run's own if none is given."""
    return seeded(results(plan.dataset, KINDS[kind].trained_by, plan.row), plan.seed if seed is None else seed)


def _tested(plan: RowPlan | DatasetPlan, kind: str, seed: int | None = None) -> Path:
    return seeded(results(plan.dataset, f"evaluate_{kind}", plan.row), plan.seed if seed is None else seed)


def _wanted(plan: DatasetPlan, rows: Sequence[RowPlan]) -> Iterator[tuple[RowPlan | DatasetPlan, str, int]]:
    """(plan, kind, training seed) of all networks that `rows` and what pools them ask for."""
    for row in rows:
        yield from ((row, kind, plan.seed) for kind in ("scratch", "finetune", "legonet"))
        yield from ((row, "controls", seed) for seed in _control_seeds(row))
    if plan.baselines.names:
        yield plan, "baselines", plan.seed
    if len(rows) == len(plan.pooled.rows):
        if plan.pooled.trained:
            yield plan, "legonet_pooled", plan.seed
        if plan.pooled.trained or plan.baselines.names:
            yield from ((plan, "controls_pooled", seed) for seed in _control_seeds(plan))


def _control_seeds(plan: RowPlan | DatasetPlan) -> list[int]:
    """Training seeds of the controls; a control that is as the row's own trains nothing."""
    status = _control_status(plan)
    run = RUN in [said for name, said in status.items() if name != "seeds"] if status else plan.controls.training
    return [plan.seed] * run + list(plan.seeds)


def _unfinished(plan: DatasetPlan, rows: Sequence[RowPlan]) -> list[str]:
    lines = []
    for own, kind, seed in _wanted(plan, rows):
        name = f"{own.row or own.dataset}: {KINDS[kind].text}" + (f", seed {seed}" if seed != plan.seed else "")
        if void(own.dataset, kind, own.row):
            continue  # `divergences` tells more
        if not _evaluated(own, kind, seed):
            lines.append(f"{name}: not run.")
            continue
        trained = read_json(_trained(own, kind, seed) / "validation.json")
        grid = read_csv(_tested(own, kind, seed) / "grid.csv")
        done, planned = len({line["network"] for line in grid}), trained.get("planned", len(trained["networks"]))
        if done < planned:
            lines.append(f"{name}: {done} of {planned} networks: the run was stopped at its deadline.")
    return lines


def _read_row(plan: RowPlan) -> RowResults:
    def folder(stage: str) -> Path:
        return results(plan.dataset, stage, plan.row)

    fronts, timed = read_json(folder("search") / "fronts.json"), "latency" in plan.search.objectives
    controls, random = _read_controls(plan), folder("random_search") / "hypervolume.csv"
    finetune = _read_trained(plan, "finetune") if _evaluated(plan, "finetune") else []
    chance = _chance(plan.dataset, "validation")
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
        scratch=controls.attach(_read_trained(plan, "scratch"), "scratch"),
        finetune=controls.attach(finetune, "finetune"),
        lego=_read_lego(plan, controls) if _evaluated(plan, "legonet") else None,
        controls=controls,
        random_search=_read_if_there(random) if plan.controls.random_search else [],
        ranking=_read_ranking(folder("ranking") / "inherited.csv"),
        timed_on=read_json(folder("search") / "latencies.json")["processor"] if timed else None,
        at_chance=all(subnet.clean <= chance for subnet in fronts[plan.retrain.front]),
    )


def _control_status(plan: RowPlan | DatasetPlan) -> dict[str, str]:
    """What has never been run has no status."""
    path = results(plan.dataset, _controls_of(plan), plan.row) / "controls.json"
    return read_json(path)["controls"] if path.exists() else {}


def _controls_of(plan: RowPlan | DatasetPlan) -> str:
    return "controls" if plan.row else "controls_pooled"


def _read_controls(plan: RowPlan | DatasetPlan) -> ControlResults:
    kind, status = _controls_of(plan), _control_status(plan)
    if void(plan.dataset, kind, plan.row):
        return ControlResults({name: "diverged" if said == RUN else said for name, said in status.items()}, [])
    networks = []
    for seed in (plan.seed, *plan.seeds):
        if _trained(plan, kind, seed).exists() and _evaluated(plan, kind, seed):
            networks += _read_trained(plan, kind, seed)
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


def _read_lego(plan: RowPlan | DatasetPlan, controls: ControlResults) -> LegoNet:
    kind = "legonet" if plan.row else "legonet_pooled"
    folder = results(plan.dataset, kind, plan.row)
    (network,) = controls.attach(_read_trained(plan, kind), kind)
    return LegoNet(network, read_csv(folder / "counts.csv"), read_json(folder / "statistics.json")["voters"])


def _read_trained(plan: RowPlan | DatasetPlan, kind: str, seed: int | None = None) -> list[TrainedNetwork]:
    """Networks of a kind, of a training seed or the run's own."""
    trained, tested = _trained(plan, kind, seed), _tested(plan, kind, seed)
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
    planned = {attack.key: attack for attack in plan.planned()}
    own = {planned[line["attack"]]: line for line in lines if line["attack"] in planned}
    rows = {attack: [row for row in attacked if row["attack"] == attack.key] for attack in plan.attacks}
    parts = {attack: own_rows for attack, own_rows in rows.items() if own_rows}
    grid = {attack: line["accuracy"] for attack, line in own.items()}
    for attack, own_rows in parts.items():
        (worst,) = WorstCase.beside([attack])
        grid[worst] = next(row["accuracy"] for row in own_rows if row["role"] == "worst")
    missed = {attack: line["missed"] for attack, line in own.items() if line["missed"]}
    return Test(clean["accuracy"], grid, clean["images"], clean["weights"], missed, parts)


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
    """With the columns that a file of this name must have. Raises InputError."""
    return files.read_csv(path, COLUMNS.get(path.name, ()))
