"""Tables of the attacks themselves: whether they are strong enough, and what each part of an ensemble added."""

import re
from collections.abc import Mapping, Sequence

from tamnas.attacks.registry import EvalAttack, Pgd
from tamnas.config.fields import format_fraction
from tamnas.report.accuracy import share_value
from tamnas.report.study import Dataset, Test, TrainedNetwork
from tamnas.report.tables.controls import NOT_RUN
from tamnas.report.tables.table import Column, Table, Value
from tamnas.report.terms import BOLD, CLEAN, WORST, final_networks, first_training, lego_controls, setting


def ensembles_table(dataset: Dataset) -> Table:
    """How many images each attack of an ensemble fooled that those before it left; no lines where none ran."""
    ensembles = [attack for attack in dataset.plan.eval.attacks if len(attack.parts) > 1]
    names = list(dict.fromkeys(part.name for attack in ensembles for part in attack.parts))
    lines = [
        {Column("network", "Network"): name} | _added(network.test, attack, names)
        for name, network in [*final_networks(dataset), *lego_controls(dataset)]
        for attack in ensembles
        if attack in network.test.parts
    ]
    notes = [
        *setting(dataset),
        "Each attack of an ensemble runs on what those before it left; all columns of a line are of the same images, "
        "the first ones of each class. PGD: the grid's of this radius with most steps.",
        *first_training(dataset),
        WORST,
        "Nothing is bold: a line compares attacks.",
    ]
    title = f"What each attack of an ensemble added, {dataset.name}"
    return Table.of(f"{dataset.name}-ensembles", title, lines, notes, dataset.name)


def _added(test: Test, attack: EvalAttack, names: Sequence[str]) -> dict[Column, Value | str | int | None]:
    rows = test.parts[attack]
    images = rows[0]["images"]
    longest = max((pgd for pgd in test.pgd if pgd.eps == attack.eps), key=lambda pgd: pgd.steps, default=None)
    shares = {row["role"]: row["accuracy"] for row in rows}  # of the parts that of the last one
    shares["pgd"] = next((row["accuracy"] for row in rows if longest and row["name"] == longest.key), None)

    def accuracy(key: str, title: str) -> dict[Column, Value]:
        return {Column(key, title, "percent"): share_value(shares[key], images)}

    added, before = dict.fromkeys(names), shares["clean"]
    for row in rows:
        if row["role"] == "part":
            added[row["name"]] = round((before - row["accuracy"]) * images)
            before = row["accuracy"]
    counts = {
        Column(re.sub(r"[^a-z0-9]+", "_", name.lower()), f"{'then' if index else 'fooled'} by {name}", "count"): count
        for index, (name, count) in enumerate(added.items())
    }
    text = f"{attack.name} at {format_fraction(attack.eps)}"
    about = {Column("attack", "Attack"): text, Column("images", "Images", "count"): images}
    ends = accuracy("part", "Left (%)") | accuracy("worst", "Worst case (%)")
    return about | accuracy("clean", "Clean (%)") | accuracy("pgd", "PGD (%)") | counts | ends


def attack_checks_table(dataset: Dataset) -> Table:
    """The final networks under both rules of success, several random starts, and a radius nothing survives."""
    plan = dataset.plan.eval.checks
    attack = plan.attack if plan else dataset.key_attack
    large = Pgd(eps=plan.large_eps, steps=attack.steps).text if plan else "a large radius"
    columns = {"any": "any iterate counts", "last": "the last iterate counts"}
    columns["restarts"] = f"{plan.restarts if plan else 'several'} random starts"
    columns = {key: Column(key, f"{attack.text}, {name} (%)", "percent", "max") for key, name in columns.items()}
    columns["large_eps"] = Column("large_eps", f"{large} (%)", "percent")
    lines = [
        {Column("network", "Network"): name, CLEAN: share_value(network.test.clean, network.test.images)}
        | _checks(network, columns)
        for name, network in final_networks(dataset)
    ]
    notes = [
        *setting(dataset),
        "Random starts: an image is lost if PGD succeeds from any of them. Accuracy at the large radius must be about "
        "0: what is left there, an attack has failed to find.",
        *first_training(dataset),
        f"{BOLD} The large radius has none: more is not better there.",
    ]
    title, images = f"Is the attack strong enough, {dataset.name}", dataset.images["test"]
    return Table.of(f"{dataset.name}-attack-checks", title, lines, notes, dataset.name, images=images)


def _checks(network: TrainedNetwork, columns: Mapping[str, Column]) -> dict[Column, Value]:
    if not network.checks:
        return dict.fromkeys(columns.values()) | {columns["any"]: Value(text=f"{NOT_RUN} (eval.checks)")}
    shares = {column: network.checks[key] for key, column in columns.items()}
    return {column: share_value(share, network.test.images) for column, share in shares.items()}
