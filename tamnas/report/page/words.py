"""What page and README say of a dataset in words: what was run, the headline numbers, warnings."""

from collections.abc import Sequence

from tamnas.attacks.registry import Attack
from tamnas.config.plan import RowPlan
from tamnas.config.sections import BlockPhasePlan, TrainingPlan
from tamnas.report.accuracy import accuracy_value
from tamnas.report.study import Dataset, TrainedNetwork
from tamnas.report.tables.table import DASH, show
from tamnas.report.terms import (
    attack_text,
    by_validation,
    counted,
    images_text,
    in_order,
    listed_attacks,
    name_of,
    selection_images,
    training_attack_text,
    weights_text,
)
from tamnas.report.warnings import warnings

MOST = 30  # warnings in full
SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def headline(dataset: Dataset) -> tuple[list[str], list[list[str]]]:
    """Heads and lines, with 95% intervals: the best subnets, Lego-Nets, hand-made networks."""
    networks = []
    for row in dataset.rows:
        networks.append((f"{row.name}: best subnet, {row.best.id}", row.best))
        if finetuned := row.best_finetuned:
            networks.append((f"{row.name}: best fine-tuned subnet, {finetuned.id}", finetuned))
        if row.lego:
            networks.append((f"{row.name}: Lego-Net", row.lego.network))
    if dataset.pooled:
        networks.append(("Lego-Net, pooled over all rows", dataset.pooled.network))
    networks += [(name_of(network.id), network) for network in dataset.baselines]
    attacks = [dataset.key_attack, *listed_attacks(dataset, [network for _, network in networks])]
    heads = ["Network", "Parameters", "Clean (%)", *(f"{attack.text} (%)" for attack in attacks)]
    lines = [
        [
            name + ", at chance" * network.at_chance,
            f"{network.parameters:,}",
            *(accuracy_text(network, attack) for attack in (None, *attacks)),
        ]
        for name, network in networks
    ]
    return heads, lines


def summary(dataset: Dataset) -> str:
    """What was searched, on what, in a sentence or two."""
    rows, images = dataset.rows, dataset.images
    evaluated, trained = sum(len(row.individuals) for row in rows), sum(len(row.scratch) for row in rows)
    modes = f" (mode{'s' * (len(rows) > 1)} {', '.join(row.plan.mode for row in rows)})" if len(rows) < 5 else ""
    where = images_text(dataset) or f"{dataset.name}, {dataset.plan.data.size} x {dataset.plan.data.size} pixels"
    weights = f"{'its' if len(rows) == 1 else 'their'} weights"
    return (
        f"{counted(len(rows), 'supernet')}{modes} trained under attack on {where} "
        f"({images['train']:,} training images, "
        f"{len(dataset.card['classes'])} classes); {counted(evaluated, 'subnet')} evaluated with {weights}, "
        f"{trained:,} of them retrained. Chosen on {selection_images(dataset)}; the numbers are of "
        f"{counted(images['test'], 'test image')}."
    )


def key_numbers(dataset: Dataset) -> list[tuple[str, str, str]]:
    """(what, number, its interval or setting) of the best searched network: clean, robust, size.

    Robust: under AutoAttack where it ran, else under the attack that stands for robustness.
    """
    network = dataset.best_row.best
    strongest = [attack for attack in network.test.grid if attack.kind == "autoattack"]
    attack = max(strongest, key=lambda attack: (attack.eps == dataset.key_attack.eps, attack.eps), default=None)
    robust = attack or dataset.key_attack
    numbers = []
    for name, under in (("clean accuracy", None), (f"under {robust.text}", robust)):
        value, n = accuracy_value(network, under), network.test.count(under)
        if value.interval:
            low, high = value.interval
            bounds = f"95% interval {100 * low:.1f} to {100 * high:.1f}, n = {n:,}"
            numbers.append((name, f"{show(value, 'percent')}%", bounds))
        else:
            numbers.append((name, DASH, "not measured"))
    return [
        *numbers,
        ("parameters", f"{network.parameters:,}", f"{network.costs.macs:,} multiply-accumulates an image"),
    ]


def brackets(dataset: Dataset) -> str:
    n = f"In brackets: 95% Wilson intervals on n = {dataset.images['test']:,} test images"
    return f"{n}, or as many as a column says." if dataset.plan.eval.attacks else f"{n}."


def accuracy_text(network: TrainedNetwork, attack: Attack | None) -> str:
    value = accuracy_value(network, attack)
    if value.interval is None:
        return show(value, "percent")
    low, high = value.interval
    return f"{show(value, 'percent')} ({100 * low:.1f} to {100 * high:.1f})"


def warning_lines(dataset: Dataset) -> list[str]:
    lines = warnings(dataset)
    return [*lines[:MOST], *([f"… and {len(lines) - MOST:,} more like these."] if len(lines) > MOST else [])]


def alerts(datasets: Sequence[Dataset]) -> list[tuple[str, str, str]]:
    """(dataset, how many warnings, the first) for the top of the page; none of datasets without warnings."""
    warned = [(dataset.name, warnings(dataset)) for dataset in datasets]
    return [(name, counted(len(lines), "warning"), lines[0]) for name, lines in warned if lines]


def settings(dataset: Dataset) -> list[tuple[str, str]]:
    """What was run on a dataset, as (term, description)."""
    plan, size, classes = dataset.plan, dataset.plan.data.size, len(dataset.card["classes"])
    counts = ", ".join(f"{dataset.images[split]:,} {name}" for split, name in SPLIT_NAMES.items())
    kind = f"{size} x {size} pixels, {classes} classes, source {plan.data.source}"
    images = filter(None, [images_text(dataset), counts, kind, *dataset.card["notes"]])
    further = f"; final networks also {', '.join(map(str, plan.seeds))}" if plan.seeds else ""
    lines = [
        ("Images", "; ".join(images)),
        ("Seed", f"{plan.seed}{further}; split seed {plan.data.split_seed}"),
        ("Evaluation", f"{attack_text(plan.eval)}. Weights: {weights_text(plan.eval.weights)}."),
        ("Selection", by_validation(dataset)),
    ]
    for row, measured in in_order(dataset):
        why = ", training diverged" if any(divergence.name == row.row for divergence in dataset.diverged) else ""
        lines.append((f"Row {row.row}", _row_setting(row) if measured else f"mode {row.mode}: not run{why}"))
    if plan.baselines.names:
        names, training = ", ".join(map(name_of, plan.baselines.names)), plan.baselines.training
        epochs = counted(training.recipe.epochs, "epoch")
        lines.append(("Hand-made", f"{names}: {epochs}, {_training_setting(training)}"))
    return lines


PREDICTORS = {None: "", "extra_trees": "children chosen by extra trees among ten times as many, "}
FRONTS = {"archive": "all evaluated", "population": "the final population"}


def _row_setting(plan: RowPlan) -> str:
    supernet, search, retrain = plan.supernet, plan.search, plan.retrain
    front = f"the front of {FRONTS[retrain.front]}"
    front += "" if retrain.max_subnets is None else f", at most {retrain.max_subnets}"
    return (
        f"mode {plan.mode}, width {plan.network.width:g}. Supernet: {counted(supernet.block.recipe.epochs, 'epoch')} "
        f"over blocks{_clean(supernet.block)}, {supernet.joint.recipe.epochs} over blocks and "
        f"ratios{_clean(supernet.joint)}, {training_attack_text(supernet.attack)}. "
        f"Search: NSGA-II, {search.population} individuals, {counted(search.generations, 'generation')}, "
        f"{PREDICTORS[search.predictor]}"
        f"{search.attack.text}. "
        f"Retrained: {front}; from scratch {counted(retrain.scratch.recipe.epochs, 'epoch')}, "
        f"{_training_setting(retrain.scratch)}; fine-tuned "
        f"{counted(retrain.finetune.recipe.epochs, 'epoch')}, {_training_setting(retrain.finetune)}."
    )


def _clean(phase: BlockPhasePlan) -> str:
    return f" ({phase.clean_epochs} of them on clean images)" if phase.clean_epochs else ""


def _training_setting(training: TrainingPlan) -> str:
    """Its attack, and whatever of it the paper does not use."""
    recipe = training.recipe
    levers = {
        "label smoothing": recipe.label_smoothing,
        "moving average of weights": recipe.ema,
        "weight perturbation": recipe.awp,
    }
    used = [f"{name} {value:g}" for name, value in levers.items() if value]
    return ", ".join([training_attack_text(training.attack), *used])
