"""Tables of the controls: each beside what it controls, and whether the attack is strong enough."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from tamnas.attacks.registry import Attack, Pgd
from tamnas.config.fields import format_fraction
from tamnas.report.accuracy import accuracy_value, difference, share
from tamnas.report.intervals import wilson
from tamnas.report.study import ControlResults, Dataset, LegoNet, RowResults, TrainedNetwork
from tamnas.report.tables.table import Column, Table, Value
from tamnas.report.terms import BOLD, CLEAN, name_of, setting

RANDOM_SEARCH = "random search, as many evaluations"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Comparison:
    """Control networks and what each stands beside; `status` where there are none."""

    scope: str
    control: str
    beside: str
    pairs: Sequence[tuple[TrainedNetwork, TrainedNetwork]]
    status: str | None = None


def comparisons(dataset: Dataset) -> Iterator[Comparison]:
    """Every control of every row, and of the pooled Lego-Net; those that were not run too."""
    for row in dataset.rows:
        yield from _of_subnets(row)
        yield from _of_lego(row.name, row.controls, row.lego)
    if dataset.pooled:
        yield from _of_lego("pooled", dataset.controls, dataset.pooled)


def _of_subnets(row: RowResults) -> Iterator[Comparison]:
    scratch = "subnets of the front, from scratch"
    finetune = "subnets of the front, fine-tuned as planned"

    def compare(
        control: str, title: str, beside: str, networks: Sequence[TrainedNetwork], switch: str = ""
    ) -> Comparison:
        return _comparison(row.name, row.controls, control, title, beside, networks, switch)

    yield compare("random_networks", "random networks of matching size, from scratch", scratch, row.scratch)
    rates = [name for name in row.controls.status if name.startswith("finetune_lr_")]
    for name in rates or ["finetune_lr"]:
        title = f"the same subnets, fine-tuned at {_lr(name)}"
        yield compare(name, title, finetune, row.finetune, "finetune_lr")
        if rates:
            yield compare(name, title, scratch, row.scratch)
    equal = "finetune_equal_budget"
    title = f"the same subnets, fine-tuned for {row.plan.retrain.scratch.recipe.epochs} epochs, as from scratch"
    yield compare(equal, title, finetune, row.finetune)
    if row.controls.of(equal):
        yield compare(equal, title, scratch, row.scratch)
    common, title = row.plan.controls.common_attack, "the same subnets, from scratch under a common attack"
    if common:
        title += f": eps {format_fraction(common.attack.eps)}, TRADES-YOPO-{common.attack.m}-{common.attack.n}"
    yield compare("common_attack", title, scratch, row.scratch)


def _lr(control: str) -> str:
    rate = control.removeprefix("finetune_lr").removeprefix("_")
    return f"lr {rate}" if rate else "another lr"


def _of_lego(scope: str, controls: ControlResults, lego: LegoNet | None) -> Iterator[Comparison]:
    for control, title in (
        ("lego_reversed", "Lego-Net with its layers reversed"),
        ("lego_random", "random networks of Lego-Net's size"),
    ):
        switch = f"legonet.{control.removeprefix('lego_')}"
        yield _comparison(scope, controls, control, title, "Lego-Net", [lego.network] if lego else [], switch)


def _comparison(
    scope: str,
    controls: ControlResults,
    control: str,
    title: str,
    beside: str,
    networks: Sequence[TrainedNetwork],
    switch: str,
) -> Comparison:
    by_id = {network.id: network for network in networks}
    pairs = [(one, by_id[one.label["of"]]) for one in controls.of(control)]
    status = controls.status.get(control, NOT_RUN)
    text = f"{status} (controls.{switch or control})" if status == NOT_RUN else status
    return Comparison(scope, title, beside, pairs, None if pairs else text)


def controls_table(dataset: Dataset) -> Table:
    """One line per control: means of both sides, and their difference with its interval."""
    attack = dataset.key_attack
    robust = attack.text
    columns = [
        Column("row", "Row"), Column("control", "Control"), Column("beside", "Beside"),
        Column("networks", "Networks", "count"), Column("parameters", "Mean parameters", "count"),
        Column("beside_parameters", "Beside: mean parameters", "count"),
        Column("clean", "Clean (%)", "percent"), Column("beside_clean", "Beside: clean (%)", "percent"),
        Column("difference_clean", "Difference, clean (points)"),
        Column("robust", f"{robust} (%)", "percent"), Column("beside_robust", f"Beside: {robust} (%)", "percent"),
        Column("difference_robust", "Difference, robust (points)"),
        Column("hypervolume", "Hypervolume", "number"), Column("beside_hypervolume", "Beside: hypervolume", "number"),
    ]  # fmt: skip
    rows = [_line(one, attack) for one in comparisons(dataset)]
    rows += [_random_search(row) for row in dataset.rows]
    seeds = dataset.plan.seeds
    told = f"{1 + len(seeds)} seeds: mean and standard deviation in the tables" if seeds else f"{NOT_RUN} (seeds)"
    rows.append(_without("all", "final networks with further seeds", "the first seed", told))
    notes = [
        *setting(dataset),
        "Difference: control minus what it stands beside, first seed, same images. Several networks: "
        "mean of paired differences, 95% t interval over networks, p of Wilcoxon's signed-rank test. One network: 95% "
        "interval of two proportions over test images (Newcombe), which ignores that the images are the same.",
        "Every control shares data, recipe and random keys with what it stands beside; it differs in what its name "
        "says. Random networks are paired by size.",
        "Hypervolume: of all evaluated, on validation, after equally many distinct evaluations ('Networks').",
        "Nothing is bold: a line compares its own two sides, and lines differ in what they stand beside.",
    ]
    title = f"Controls, {dataset.name}"
    return Table(
        f"{dataset.name}-controls", title, columns, rows if dataset.rows else [], notes, dataset.name,
        images=dataset.images["test"],
    )  # fmt: skip


def _line(one: Comparison, attack: Attack) -> list[Value]:
    if not one.pairs:
        return _without(one.scope, one.control, one.beside, one.status)
    values = [Value(one.scope), Value(one.control), Value(one.beside), Value(len(one.pairs))]
    values += [Value(round(fmean(pair[side].parameters for pair in one.pairs))) for side in (0, 1)]
    for which in (None, attack):
        values += [_mean([pair[side] for pair in one.pairs], which) for side in (0, 1)]
        values.append(Value(found.points if (found := difference(one.pairs, which)) else None))
    return [*values, Value(), Value()]


def _mean(networks: Sequence[TrainedNetwork], attack: Attack | None) -> Value:
    found = [share(network.test, attack) for network in networks]
    if None in found:
        return Value()
    mean = fmean(found)
    # Of several networks the interval over images would be too wide: their errors are not the same images.
    alone = len({network.id for network in networks}) == 1
    return Value(mean, interval=wilson(mean, networks[0].test.images) if alone else None)


def _random_search(row: RowResults) -> list[Value]:
    beside = "NSGA-II, all evaluated"
    if not row.random_search:
        return _without(row.name, RANDOM_SEARCH, beside, f"{NOT_RUN} (controls.random_search)")
    last, own = row.random_search[-1], row.hypervolume[-1]
    values = [Value(row.name), Value(RANDOM_SEARCH), Value(beside), Value(last["evaluated"])]
    return values + [Value()] * 8 + [Value(float(one["archive_hypervolume"])) for one in (last, own)]


def _without(scope: str, control: str, beside: str, status: str) -> list[Value]:
    return [Value(scope), Value(control), Value(beside), Value(text=status), *[Value()] * 10]


def attack_checks_table(dataset: Dataset) -> Table:
    """The final networks under both rules of success, several random starts, and a radius nothing survives."""
    plan = dataset.plan.eval.checks
    networks = [(f"{row.name} {row.best.id}", row.best) for row in dataset.rows]
    networks += [(f"Lego-Net of {row.name}", row.lego.network) for row in dataset.rows if row.lego]
    networks += [("Lego-Net, pooled", dataset.pooled.network)] if dataset.pooled else []
    networks += [(name_of(one.id), one) for one in dataset.baselines]
    attack = plan.attack if plan else dataset.key_attack
    large = Pgd(eps=plan.large_eps, steps=attack.steps).text if plan else "a large radius"
    names = {"any": "any iterate counts (%)", "last": "the last iterate counts (%)",
             "restarts": f"{plan.restarts if plan else 'several'} random starts (%)",
             "large_eps": f"{large} (%)"}  # fmt: skip
    columns = [Column("network", "Network"), CLEAN]
    columns += [Column(key, name if key == "large_eps" else f"{attack.text}, {name}", "percent",
                       None if key == "large_eps" else "max") for key, name in names.items()]  # fmt: skip
    rows = [[Value(name), accuracy_value(network, None), *_check_values(network, names)] for name, network in networks]
    notes = [
        *setting(dataset),
        "Random starts: an image is lost if PGD succeeds from any of them. Accuracy at the large radius must be about "
        "0: what is left there, an attack has failed to find.",
        f"{BOLD} The large radius has none: more is not better there.",
    ]
    title = f"Is the attack strong enough, {dataset.name}"
    return Table(
        f"{dataset.name}-attack-checks", title, columns, rows, notes, dataset.name, images=dataset.images["test"]
    )


def _check_values(network: TrainedNetwork, names: dict[str, str]) -> list[Value]:
    if not network.checks:
        return [Value(text=f"{NOT_RUN} (eval.checks)"), *[Value()] * (len(names) - 1)]
    n = network.test.images
    return [Value(network.checks[key], interval=wilson(network.checks[key], n)) for key in names]
