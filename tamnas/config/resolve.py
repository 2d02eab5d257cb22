"""`params.yaml`: reading, validating, and resolving into plans with every derived default written out.

Nothing here needs torch, so that bad input answers at once.
"""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from tamnas.config.fields import format_fraction, read_yaml, validated
from tamnas.config.params import BaseParams, Params
from tamnas.config.plan import DatasetPlan, RowPlan, StudyPlan
from tamnas.config.sections import EvalParams, TrainingAttackPlan, ValidationParams
from tamnas.errors import InputError
from tamnas.space.sampling import uniform
from tamnas.space.space import SearchSpace

RESERVED = ("baselines", "pooled_lego")  # entries of metrics.json beside the rows
NEAR = Fraction(1, 50)


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and validate a parameter file and all plans that follow from it. Raises InputError."""
    return parse_params(read_yaml(path), str(path))


def parse_params(raw: dict, source: str = "params.yaml") -> Params:
    """As `load_params`, from a mapping. `source`: what errors call it."""
    params = validated(Params, raw, source)
    try:
        _require_names(params)
        resolve_study(params)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return params


def _require_names(params: Params) -> None:
    for dataset in params.run.datasets:
        if dataset not in params.data:
            raise InputError(f"run.datasets: {dataset!r} is not in data ({_names(params.data)})")
    for name, row in params.run.rows.items():
        if row.dataset not in params.run.datasets:
            raise InputError(f"run.rows.{name}.dataset is {row.dataset!r}; allowed: {_names(params.run.datasets)}")
        if row.mode not in params.modes:
            raise InputError(f"run.rows.{name}.mode is {row.mode!r}; allowed: {_names(params.modes)}")
        if name in RESERVED:
            raise InputError(f"run.rows.{name}: reports have an entry of that name; choose another")
    _refuse_like_names(params)
    for dataset, mode in params.legonet.pooled_mode.items():
        if dataset not in params.data:
            raise InputError(f"legonet.pooled_mode.{dataset}: is not in data ({_names(params.data)})")
        if mode not in params.modes:
            raise InputError(f"legonet.pooled_mode.{dataset} is {mode!r}; allowed: {_names(params.modes)}")
    for dataset in params.run.datasets:
        if not any(row.dataset == dataset for row in params.run.rows.values()):
            raise InputError(f"run.rows: no row uses the dataset {dataset!r} of run.datasets")
    if len(set(params.run.datasets)) != len(params.run.datasets):
        raise InputError(f"run.datasets: {_names(params.run.datasets)}: must not repeat")


def _refuse_like_names(params: Params) -> None:
    """Rows and datasets become folders beside each other, also where `A` and `a` are one folder."""
    seen: dict[str, str] = {}
    for kind, names in (("datasets", dict.fromkeys(params.run.datasets)), ("rows", params.run.rows)):
        for name in names:
            other = seen.setdefault(name.lower(), f"{kind}: {name!r}")
            if other != f"{kind}: {name!r}":
                raise InputError(f"run.{kind}: {name!r} may not be named like run.{other}")


def resolve_study(params: Params) -> StudyPlan:
    """Everything resolved, by row and by dataset. Raises InputError."""
    rows = {name: resolve_row(params, name) for name in params.run.rows}
    _refuse_twins(rows)
    datasets = {dataset: _resolve_dataset(params, dataset, rows) for dataset in params.run.datasets}
    return StudyPlan(rows=rows, datasets=datasets)


def resolve_row(params: Params, name: str) -> RowPlan:
    """Every derived default of one row, written out. Raises InputError."""
    row = params.run.rows[name]
    _require_shared(params, row.mode)
    return _resolve_mode(params, name, row.dataset, row.mode)


def _resolve_mode(params: Params, name: str, dataset: str, mode: str) -> RowPlan:
    base, place = params.mode(mode), f"modes.{mode}"
    supernet = base.supernet.resolve_phases()
    attack = supernet["attack"] | {"bn": "eval"}  # of standalone networks
    raw = {"row": name, "dataset": dataset, "mode": mode, "seed": base.seed, "seeds": base.seeds}
    raw |= {section: getattr(base, section).plain() for section in ("network", "space", "eval", "legonet", "numerics")}
    raw |= {
        "data": base.data[dataset].plain(),
        "supernet": supernet,
        "search": base.search.resolve(base.supernet.eps),
        "retrain": base.retrain.resolve(attack, base.search.front),
        "controls": base.controls.resolve(base.retrain, attack, params.supernet.resolve_phases()["attack"]),
    }
    plan = validated(RowPlan, raw, place)
    try:
        _require_budgets(plan)
        _refuse_near_miss(plan.eval, plan.retrain.validation)
        _require_attackable(plan)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return plan


def _resolve_dataset(params: Params, dataset: str, rows: dict[str, RowPlan]) -> DatasetPlan:
    own = {name: plan for name, plan in rows.items() if plan.dataset == dataset}
    mode = params.legonet.pooled_mode.get(dataset) or next(iter(own.values())).mode
    # The mode that shapes the pooled Lego-Net need not be a row of this dataset.
    model = next((plan for plan in own.values() if plan.mode == mode), None)
    if model is None:
        _require_shared(params, mode)
        model = _resolve_mode(params, "pooled", dataset, mode)
    network, training = model.network.plain(), model.retrain.scratch.plain()
    trained = len(own) > 1 or model not in own.values()
    if trained and model.data != params.data[dataset]:
        raise InputError(
            f"modes.{mode}: data.{dataset}.augment: the mode of the pooled Lego-Net cannot have its own; "
            f"set legonet.pooled_mode.{dataset} to another mode"
        )
    raw = {
        "dataset": dataset,
        "seed": params.seed,
        "seeds": params.seeds,
        "data": params.data[dataset].plain(),
        "space": model.space.plain(),
        "pooled": {"rows": list(own), "trained": trained, "mode": mode, "network": network, "training": training},
        "legonet": params.legonet.plain(),
        "controls": model.controls.model_dump(mode="json", include={"legonet", "common_attack"}) if trained else {},
        "validation": params.retrain.validation.resolve(),
        "baselines": params.baselines.resolve(),
        "eval": params.eval.plain(),
        "numerics": params.numerics.plain(),
    }
    plan = validated(DatasetPlan, raw, "")
    _refuse_near_miss(plan.eval, plan.validation)
    _require_attackable(plan)
    for name, row in own.items():
        for gene in ("blocks", "ratios"):
            if not set(getattr(row.space, gene)) & set(getattr(model.space, gene)):
                raise InputError(
                    f"space.{gene}: row {name} has none of those of the mode {mode}, which shapes the "
                    f"pooled Lego-Net of {dataset}"
                )
    depths = {name: sum(row.network.repeats) for name, row in own.items()}
    if len({*depths.values(), sum(model.network.repeats)}) > 1:
        raise InputError(f"network.repeats: rows of one dataset must have equal depth, found {depths}")
    return plan


def _require_shared(params: Params, mode: str) -> None:
    """A mode may not patch what rows of a dataset share: they are prepared and pooled together."""
    base: BaseParams = params.mode(mode)
    shared = {name: (getattr(base, name), getattr(params, name)) for name in ("seed", "seeds", "baselines")}
    shared |= {name: (getattr(base, name), getattr(params, name)) for name in ("legonet", "numerics", "compute")}
    shared["retrain.validation"] = base.retrain.validation, params.retrain.validation
    for dataset, data in params.data.items():
        patched = base.data[dataset].model_copy(update={"augment": data.augment})
        shared[f"data.{dataset} (other than augment)"] = (patched, data)
    for section, (patched, own) in shared.items():
        if patched != own:
            raise InputError(f"modes.{mode}: {section}: cannot differ between modes; set it in the base")


def _require_budgets(plan: RowPlan) -> None:
    space = SearchSpace.from_params(plan)
    if "macs" in plan.search.objectives or plan.search.max_macs:
        space.mac_sums  # noqa: B018 - raises where a block counts none
    if plan.controls.legonet.uniform:
        uniform(space, size=0)
    first = min(plan.supernet.joint.open_ratios.first, len(space.ratios))
    searched = replace(space, max_macs=plan.search.max_macs)
    for section, drawn, count, budget, ratios in (
        ("supernet.block", space, 1, plan.supernet.block.budget, space.ratios[-1:]),
        ("supernet.joint", space, 1, plan.supernet.joint.budget, space.ratios[-first:]),
        ("search", searched, plan.search.population, plan.search.budget, None),
    ):
        try:
            drawn.sample_genes(np.random.default_rng(0), count, budget, ratios)
        except InputError as error:  # it begins with "budget"
            raise InputError(f"{section}.{error}") from None


def _refuse_near_miss(grid: EvalParams, validation: ValidationParams) -> None:
    """0.031 stands for 8/255 in many places, and is another radius: the reports' main columns would lose it."""
    eps = validation.attack.eps
    for near in () if eps in grid.eps else grid.eps:
        if abs(eps / near - 1) < NEAR:
            raise InputError(
                f"retrain.validation.attack.eps is {float(eps):.4g}, and eval.eps has "
                f"{format_fraction(near)}, {float(near):.4g}: write one of them in both places"
            )


def _require_attackable(plan: RowPlan | DatasetPlan) -> None:
    """How many test images a source's own split has, `data.test` null, is known when it is prepared."""
    for index, attack in enumerate(plan.eval.attacks):
        place, data = f"eval.attacks.{index}", plan.data
        if data.classes < attack.least_classes:
            raise InputError(
                f"{place}: {attack.kind} needs {attack.least_classes} classes, {plan.dataset} has {data.classes}"
            )
        if attack.images and data.test and attack.images > data.test:
            raise InputError(f"{place}.images is {attack.images}: data.{plan.dataset}.test is {data.test}")


def _refuse_twins(rows: dict[str, RowPlan]) -> None:
    """Only m and n * step_size of an attack matter: equal ones are one experiment, whatever stands beside it."""
    seen: dict[str, str] = {}
    for name, plan in rows.items():
        raw = plan.plain()
        for key in ("row", "mode", "controls"):
            del raw[key]
        for part in (raw["supernet"], raw["retrain"]["scratch"], raw["retrain"]["finetune"]):
            part["attack"] = str(validated(TrainingAttackPlan, part["attack"], "").essence)
        key = repr(raw)
        if key in seen:
            raise InputError(
                f"run.rows.{name} is the same experiment as {seen[key]}: "
                "same dataset, eps, m, n * step_size, width and all else"
            )
        seen[key] = name


def _names(names) -> str:
    return ", ".join(map(str, names))
