"""`params.yaml`: reading, validating, and resolving into plans with every derived default written out.

Nothing here needs torch, so that bad input answers at once.
"""

from fractions import Fraction
from pathlib import Path

from tamnas.attacks.registry import Pgd
from tamnas.config import plan as plans
from tamnas.config.fields import Section, read_yaml, validated
from tamnas.config.params import (
    Base,
    BaselineRecipe,
    BlockPhase,
    Params,
    PgdParams,
    RetrainRecipe,
    Row,
    Run,
    Supernet,
    TrainingAttackParams,
)
from tamnas.errors import InputError
from tamnas.space.space import SearchSpace

# Attack steps of the paper's mode names -> (m, n) of TRADES-YOPO-m-n (design section 11).
STEPS_TO_M_N = {1: (1, 2), 2: (2, 2), 5: (3, 2), 10: (5, 3)}


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and validate a parameter file and all plans that follow from it. Raises InputError."""
    return parse_params(read_yaml(path), str(path))


def parse_params(raw: dict, source: str = "params.yaml") -> Params:
    """As `load_params`, from a mapping."""
    params = validated(Params, raw, source)
    for dataset in params.run.datasets:
        if dataset not in params.data:
            raise InputError(f"{source}: run.datasets: {dataset!r} is not in data ({_names(params.data)})")
    for name, row in params.run.rows.items():
        if row.dataset not in params.run.datasets:
            raise InputError(
                f"{source}: run.rows.{name}.dataset is {row.dataset!r}; allowed: {_names(params.run.datasets)}"
            )
        if row.mode not in params.modes:
            raise InputError(f"{source}: run.rows.{name}.mode is {row.mode!r}; allowed: {_names(params.modes)}")
        if name in params.run.datasets:
            raise InputError(f"{source}: run.rows.{name}: a row may not be named like a dataset")
    for dataset, mode in params.legonet.pooled_mode.items():
        if dataset not in params.data:
            raise InputError(f"{source}: legonet.pooled_mode.{dataset}: is not in data ({_names(params.data)})")
        if mode not in params.modes:
            raise InputError(f"{source}: legonet.pooled_mode.{dataset} is {mode!r}; allowed: {_names(params.modes)}")
    for dataset in params.run.datasets:
        if not any(row.dataset == dataset for row in params.run.rows.values()):
            raise InputError(f"{source}: run.rows: no row uses the dataset {dataset!r} of run.datasets")
    if len(set(params.run.datasets)) != len(params.run.datasets):
        raise InputError(f"{source}: run.datasets: {_names(params.run.datasets)}: must not repeat")
    resolve_all(params, source)
    return params


def resolve_all(params: Params, source: str = "params.yaml") -> dict[str, Section]:
    """Every plan, by the name of its file: one per row, one per dataset. Raises InputError."""
    rows = {name: resolve_row(params, name) for name in params.run.rows}
    _refuse_twins(rows, source)
    return rows | {dataset: _resolve_dataset(params, dataset, rows) for dataset in params.run.datasets}


def resolve_row(params: Params, name: str) -> plans.RowPlan:
    """Every derived default of one row, written out. Raises InputError."""
    row, base = params.run.rows[name], params.row(name)
    _require_shared(params, name, base)
    source = f"params.yaml: modes.{row.mode}"
    supernet, search = base.supernet, base.search
    per_step = supernet.resample_every.steps is not None
    attack = _attack(supernet, supernet.lam, "batch" if per_step else "eval", supernet.yopo and supernet.yopo.bn)
    trained = attack.model_copy(update={"bn": "eval"})
    raw = {
        "row": name, "dataset": row.dataset, "mode": row.mode, "seed": base.seed, "seeds": list(base.seeds),
        "data": base.data[row.dataset].plain(),
        "network": base.network.plain(),
        "space": base.space.plain(),
        "supernet": {
            "attack": attack.plain(),
            "resample_every": supernet.resample_every.plain(),
            **_phases(supernet),
        },
        "search": search.plain() | {"attack": _pgd(search.attack, supernet.eps)},
        "retrain": {
            "max_subnets": base.retrain.max_subnets,
            "validation": _validation(base),
            "scratch": _training(base.retrain.scratch, trained),
            "finetune": _training(base.retrain.finetune, trained),
        },
        "eval": base.eval.plain(),
        "legonet": {"top": base.legonet.top},
        "controls": _controls(base, trained),
        "numerics": base.numerics.plain(),
    }  # fmt: skip
    plan = validated(plans.RowPlan, raw, source)
    _require_budgets(plan, source)
    return plan


def _resolve_dataset(params: Params, dataset: str, rows: dict[str, plans.RowPlan]) -> plans.DatasetPlan:
    own = {name: plan for name, plan in rows.items() if plan.dataset == dataset}
    mode = params.legonet.pooled_mode.get(dataset) or next(iter(own.values())).mode
    model = next((plan for plan in own.values() if plan.mode == mode), None)
    if model is None:
        # The mode that shapes the pooled Lego-Net need not be a row of this dataset.
        probe = params.model_copy(
            update={"run": Run(datasets=(dataset,), rows={"pooled": Row(dataset=dataset, mode=mode)})}
        )
        model = resolve_row(probe, "pooled")
    baselines = params.baselines
    raw = {
        "dataset": dataset, "seed": params.seed, "seeds": list(params.seeds),
        "data": params.data[dataset].plain(),
        "space": model.space.plain(),
        "pooled": {
            "rows": list(own), "mode": mode,
            "network": model.network.plain(),
            "training": model.retrain.scratch.plain(),
        },
        "legonet": {"top": params.legonet.top},
        "controls": {"legonet": params.controls.legonet.plain()},
        "validation": _validation(params),
        "baselines": {
            "names": list(baselines.names),
            "training": _training(baselines.training, None),
        },
        "eval": params.eval.plain(),
        "numerics": params.numerics.plain(),
    }  # fmt: skip
    plan = validated(plans.DatasetPlan, raw, "params.yaml")
    depths = {name: sum(row.network.repeats) for name, row in own.items()}
    if len({*depths.values(), sum(model.network.repeats)}) > 1:
        raise InputError(f"params.yaml: network.repeats: rows of one dataset must have equal depth, found {depths}")
    return plan


def _require_shared(params: Params, name: str, base: Base) -> None:
    """A mode may not patch what rows of a dataset share: they are prepared and pooled together."""
    row = params.run.rows[name]
    shared = {name: (getattr(base, name), getattr(params, name)) for name in ("seed", "seeds", "baselines")}
    shared |= {"compute": (base.compute, params.compute), "legonet": (base.legonet, params.legonet)}
    for dataset, data in params.data.items():
        patched = base.data[dataset].model_copy(update={"augment": data.augment})
        shared[f"data.{dataset} (other than augment)"] = (patched, data)
    for section, (patched, own) in shared.items():
        if patched != own:
            raise InputError(
                f"params.yaml: modes.{row.mode}: {section}: cannot differ between modes; set it in the base"
            )


def _attack(given: TrainingAttackParams, lam: float, bn: str, forced_bn: str | None = None) -> plans.TrainingAttackPlan:
    m, n = (given.yopo.m, given.yopo.n) if given.yopo else STEPS_TO_M_N[given.attack_steps]
    # At least eps / 4, and long enough that m * n steps can reach the border (design section 11).
    step = max(given.eps / 4, Fraction(5, 4) * given.eps / (m * n))
    if given.yopo and given.yopo.step_size:
        step = given.yopo.step_size
    bn, lam = forced_bn or bn, given.lam or lam
    return plans.TrainingAttackPlan(eps=given.eps, step_size=min(step, Fraction(1)), m=m, n=n, bn=bn, lam=lam)


def _phases(supernet: Supernet) -> dict:
    both = supernet.schedule.span == "both"
    recipe = {key: getattr(supernet, key) for key in plans.Optimiser.model_fields}
    total = supernet.block.epochs + supernet.joint.epochs

    def phase(part: BlockPhase, start: int) -> dict:
        schedule = supernet.schedule.plain() | {"milestones": list(part.milestones)}
        del schedule["span"]
        schedule |= {"start": start, "total": total} if both else {"start": 0, "total": part.epochs}
        return {"recipe": recipe | {"epochs": part.epochs, "schedule": schedule}, "budget": part.budget}

    joint = phase(supernet.joint, supernet.block.epochs if both else 0)
    return {
        "block": phase(supernet.block, 0),
        "joint": joint | {"keep_momentum": both, "open_ratios": supernet.joint.open_ratios.plain()},
    }


def _pgd(given: PgdParams | Pgd, default_eps: Fraction | None) -> dict:
    eps = given.eps or default_eps
    return Pgd(eps=eps, steps=given.steps, step_size=given.step_size or eps / 4).plain()


def _validation(base: Base) -> dict:
    validation = base.retrain.validation
    return {"attack": _pgd(validation.attack, None), "start": validation.start}


def _training(recipe: RetrainRecipe | BaselineRecipe, default: plans.TrainingAttackPlan | None) -> dict:
    given = recipe.attack
    attack = _attack(given, default.lam if default else 1.0, "eval", given.yopo and given.yopo.bn) if given else default
    plain = {key: value for key, value in recipe.plain().items() if key != "attack"}
    return {"recipe": plain, "attack": attack.plain()}


def _controls(base: Base, mode_attack: plans.TrainingAttackPlan) -> dict:
    """Each training that a control stands for, written out; epochs and schedule of the equal budget are scratch's."""
    given, finetune = base.controls, _training(base.retrain.finetune, mode_attack)
    recipes = {f"finetune_lr_{lr}": {"lr": lr} for lr in given.finetune_lr}
    if given.finetune_equal_budget:
        scratch = base.retrain.scratch.plain()
        recipes["finetune_equal_budget"] = {key: scratch[key] for key in ("epochs", "schedule")}
    common = base.retrain.scratch.model_copy(update={"attack": given.common_attack})
    return {
        "random_networks": given.random_networks,
        "random_search": given.random_search,
        "legonet": given.legonet.plain(),
        "finetune": [
            {"control": name, "training": finetune | {"recipe": finetune["recipe"] | changed}}
            for name, changed in recipes.items()
        ],
        "common_attack": _training(common, mode_attack) if given.common_attack else None,
    }


def _require_budgets(plan: plans.RowPlan, source: str) -> None:
    try:
        space = SearchSpace.from_params(plan)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    first = min(plan.supernet.joint.open_ratios.first, len(space.ratios))
    for name, budget, ratios in (
        ("supernet.block.budget", plan.supernet.block.budget, space.ratios[-1:]),
        ("supernet.joint.budget", plan.supernet.joint.budget, space.ratios[-first:]),
        ("search.budget", plan.search.budget, None),
    ):
        space.require_feasible(budget, ratios, f"{source}: {name}")


def _refuse_twins(rows: dict[str, plans.RowPlan], source: str) -> None:
    """Only m and n * step_size of an attack matter: equal ones are one experiment, whatever stands beside it."""
    seen: dict[str, str] = {}
    for name, plan in rows.items():
        raw = plan.plain()
        for key in ("row", "mode", "controls"):
            del raw[key]
        for part in (raw["supernet"], raw["retrain"]["scratch"], raw["retrain"]["finetune"]):
            part["attack"] = str(validated(plans.TrainingAttackPlan, part["attack"], source).essence)
        key = repr(raw)
        if key in seen:
            raise InputError(
                f"{source}: run.rows.{name} is the same experiment as {seen[key]}: "
                "same dataset, eps, m, n * step_size, width and all else"
            )
        seen[key] = name


def _names(names) -> str:
    return ", ".join(map(str, names))
