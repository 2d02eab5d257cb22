"""The table of the controls, each beside what it controls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from tamnas.attacks.registry import Attack
from tamnas.config.fields import format_fraction
from tamnas.config.sections import PooledControlsPlan
from tamnas.controls import NOT_RUN, RUN
from tamnas.report.accuracy import accuracy_of, mean_difference
from tamnas.report.intervals import wilson
from tamnas.report.study import ControlResults, Dataset, LegoNet, RowResults, TrainedNetwork
from tamnas.report.tables.table import Column, Table, Value
from tamnas.report.terms import setting

UNFINISHED = "not finished"
NEITHER = (None, None)


@dataclass(frozen=True)
class Comparison:
    """Control networks and what each stands beside, or the hypervolumes of both sides; `status` where there are none.

    `count`: of the networks, or of the evaluations.
    """

    scope: str
    control: str
    beside: str
    status: str | None = None
    count: int | None = None
    pairs: Sequence[tuple[TrainedNetwork, TrainedNetwork]] = ()
    hypervolumes: tuple[float | None, float | None] = NEITHER


def comparisons(dataset: Dataset) -> Iterator[Comparison]:
    """Every control of every row, of the pooled Lego-Net and of the study; those that were not run too."""
    for row in dataset.rows:
        yield from _of_subnets(row)
        yield from _of_lego(row.name, row.plan.controls, row.controls, row.lego)
    if dataset.pooled:
        yield from _of_lego("pooled", dataset.plan.controls, dataset.controls, dataset.pooled)
    yield from map(_random_search, dataset.rows)
    trained = {network.label.seed for network in dataset.controls_of("seeds")}
    text = f"{1 + len(trained)} seeds: mean and standard deviation in the tables"
    if not trained:
        text = UNFINISHED if dataset.plan.seeds else f"{NOT_RUN} (seeds)"
    yield Comparison("all", "final networks with further seeds", "the first seed", text)


def _of_subnets(row: RowResults) -> Iterator[Comparison]:
    scratch = "subnets of the front, from scratch"
    finetune = "subnets of the front, fine-tuned as planned"
    compare = partial(_comparison, row.name, row.controls)
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
    title = f"the same subnets, from scratch under a common attack{_attack(row.plan.controls)}"
    yield compare("common_attack", title, scratch, row.scratch)


def _lr(control: str) -> str:
    rate = control.removeprefix("finetune_lr").removeprefix("_")
    return f"lr {rate}" if rate else "another lr"


def _attack(plan: PooledControlsPlan) -> str:
    common = plan.common_attack
    return f": eps {format_fraction(common.attack.eps)}, {common.attack.name}" if common else ""


def _of_lego(
    scope: str, plan: PooledControlsPlan, controls: ControlResults, lego: LegoNet | None
) -> Iterator[Comparison]:
    networks = [lego.network] if lego else []
    title = f"Lego-Net under a common attack{_attack(plan)}"
    yield _comparison(scope, controls, "common_attack", title, "Lego-Net", networks)
    for control, title in (
        ("lego_reversed", "Lego-Net with its layers reversed"),
        ("lego_uniform", "block 0 in every layer, of about Lego-Net's size"),
        ("lego_random", "random networks of Lego-Net's size"),
    ):
        switch = f"legonet.{control.removeprefix('lego_')}"
        yield _comparison(scope, controls, control, title, "Lego-Net", networks, switch)


def _comparison(
    scope: str,
    controls: ControlResults,
    control: str,
    title: str,
    beside: str,
    networks: Sequence[TrainedNetwork],
    switch: str = "",
) -> Comparison:
    by_id = {network.id: network for network in networks}
    of_lego = beside == "Lego-Net"
    own = [network for network in controls.of(control) if (network.label.of == "lego") == of_lego]
    pairs = [(network, by_id[network.label.of]) for network in own if network.label.of in by_id]
    if pairs:
        return Comparison(scope, title, beside, count=len(pairs), pairs=pairs)
    status = controls.status.get(control, NOT_RUN)
    if status == NOT_RUN:
        status += f" (controls.{switch or control})"
    elif status == RUN:
        status = "what it stands beside has no results" if own else UNFINISHED
    return Comparison(scope, title, beside, status)


def _random_search(row: RowResults) -> Comparison:
    search, beside = "random search, as many evaluations", "NSGA-II, all evaluated"
    if not row.random_search:
        return Comparison(row.name, search, beside, f"{NOT_RUN} (controls.random_search)")
    last, own = row.random_search[-1], row.hypervolume[-1]
    hypervolumes = tuple(float(line["archive_hypervolume"]) for line in (last, own))
    return Comparison(row.name, search, beside, count=last["evaluated"], hypervolumes=hypervolumes)


def _not_run_together(dataset: Dataset, found: Sequence[Comparison]) -> list[Comparison]:
    """What was not run comes last, each control once, with the rows that lack it."""
    rows, lines = [row.name for row in dataset.rows], []
    lacking: dict[tuple, list[Comparison]] = {}
    for comparison in found:
        if (comparison.status or "").startswith(NOT_RUN):
            lacking.setdefault((comparison.control, comparison.beside, comparison.status), []).append(comparison)
        else:
            lines.append(comparison)
    for alike in lacking.values():
        scopes = [comparison.scope for comparison in alike]
        if len(rows) > 1 and set(rows) <= set(scopes):
            scopes = ["every row", *(scope for scope in scopes if scope not in rows)]
        lines.append(replace(alike[0], scope=", ".join(scopes)))
    return lines


def controls_table(dataset: Dataset) -> Table:
    """One line per control: means of both sides, and their difference with its interval."""
    notes = [
        *setting(dataset),
        "Difference: control minus what it stands beside, first seed, same images. Several networks: "
        "mean of paired differences, 95% t interval over networks, p of Wilcoxon's signed-rank test; neither where "
        "all stand beside one network. One network: 95% interval of two proportions over test images (Newcombe), "
        "which ignores seeds, and that images are the same.",
        "Every control shares data, recipe and seed with what it stands beside; it differs in what its name says, and "
        "another architecture in its batches and noise, too. Random networks are paired by size.",
        "Hypervolume: of all evaluated, on validation, after equally many distinct evaluations ('Networks').",
        "Nothing is bold: a line compares its own two sides, and lines differ in what they stand beside.",
    ]
    found = _not_run_together(dataset, list(comparisons(dataset))) if dataset.rows else []
    trained = {attack for comparison in found for control, _ in comparison.pairs for attack in control.test.grid}
    listed = [attack for attack in dataset.plan.eval.attacks if attack in trained]
    lines = [_line(comparison, dataset.key_attack, listed) for comparison in found]
    title, images = f"Controls, {dataset.name}", dataset.images["test"]
    return Table.of(f"{dataset.name}-controls", title, lines, notes, dataset.name, images=images)


def _line(comparison: Comparison, attack: Attack, listed: Sequence[Attack]) -> dict[Column, Value | str | float | None]:
    def both(key: str, title: str, kind: str, sides: Sequence) -> dict:
        columns = Column(key, title[0].upper() + title[1:], kind), Column(f"beside_{key}", f"Beside: {title}", kind)
        return dict(zip(columns, sides, strict=True))

    line = {
        Column("row", "Row"): comparison.scope,
        Column("control", "Control"): comparison.control,
        Column("beside", "Beside"): comparison.beside,
        Column("networks", "Networks", "count"): Value(comparison.count, text=comparison.status),
    }
    sides = list(zip(*comparison.pairs, strict=True))  # the controls, and what stands beside each
    parameters = [round(fmean(network.parameters for network in side)) for side in sides]
    line |= both("parameters", "mean parameters", "count", parameters or NEITHER)
    attacks = [("clean", "clean", None), ("robust", attack.text, attack), *((one.key, one.text, one) for one in listed)]
    for key, name, which in attacks:
        line |= both(key, f"{name} (%)", "percent", [_mean(side, which) for side in sides] or NEITHER)
        gap = mean_difference(comparison.pairs, which)
        what = name if which in listed else key
        line[Column(f"difference_{key}", f"Difference, {what} (points)")] = gap.points if gap else None
    return line | both("hypervolume", "hypervolume", "number", comparison.hypervolumes)


def _mean(networks: Sequence[TrainedNetwork], attack: Attack | None) -> Value:
    accuracies = [accuracy_of(network.test, attack) for network in networks]
    if None in accuracies:
        return Value()
    mean = fmean(accuracies)
    # Of several networks the interval over images would be too wide: their errors are not the same images.
    alone = len({network.id for network in networks}) == 1
    return Value(mean, interval=wilson(mean, networks[0].test.count(attack)) if alone else None)
