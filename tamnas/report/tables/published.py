"""The paper's own results tables, row for row, with what this run measured beside them."""

from collections.abc import Sequence
from fractions import Fraction

from tamnas.attacks.registry import Pgd
from tamnas.paper import TABLES, Published, contradictions
from tamnas.report.study import Dataset, TrainedNetwork
from tamnas.report.tables.networks import LABEL, comparison, hand_made, network_values
from tamnas.report.tables.search import votes
from tamnas.report.tables.table import Table
from tamnas.report.terms import BOLD, PAPER, by_validation, name_of, setting, trained_apart

NUMBERS = {"II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6, "VIII": 8, "IX": 9, "X": 10}


def paper_tables(datasets: Sequence[Dataset]) -> list[Table]:
    """Tables II to VI and VIII to X of the datasets in this run, in the paper's order."""
    return [
        _paper_table(name, dataset)
        for name in sorted(NUMBERS, key=NUMBERS.get)
        for dataset in datasets
        if dataset.published == TABLES[name].dataset
    ]


def _paper_table(name: str, dataset: Dataset) -> Table:
    printed = TABLES[name]
    attacks = [Pgd(eps=Fraction(eps, 255), steps=steps) for eps, steps in printed.rows[0].grid]
    attacks.sort(key=lambda attack: (-attack.eps, attack.steps) if name == "X" else (attack.steps, attack.eps))
    entries = [(name_of(row.label), _own_network(row, dataset), row) for row in printed.rows]
    if name == "X":
        known = {row.mode for row in printed.rows}
        entries += [
            (name_of(baseline), network, None)
            for baseline, network in hand_made(dataset).items()
            if baseline not in known
        ]
        lines, costs = comparison(dataset, entries, attacks)
        costs = [*trained_apart(dataset), *costs]
    else:
        lines = [{LABEL: label} | network_values(network, attacks, paper) for label, network, paper in entries]
        costs = []
    suffix = "" if dataset.name == dataset.published else f"-{dataset.name}"
    own = [by_validation(dataset)]
    if any(row.lego and _own_network(row, dataset) for row in printed.rows):
        own = [votes(dataset)[0], *own]
    if any(row.mode.startswith("robnet") for row in printed.rows):
        own.append("Quoted: taken from the literature, never trained here.")
    notes = [*setting(dataset), *own, *costs, f"{BOLD} {PAPER}"]
    notes += [f"The paper as printed: {text}" for text in contradictions(name)]
    return Table.of(
        f"table-{NUMBERS[name]:02d}" + suffix,
        f"Table {name}. {printed.title}" + (f" (run on {dataset.name})" if suffix else ""),
        lines,
        notes,
        of_paper=True,
        images=dataset.images["test"],
    )


def _own_network(row: Published, dataset: Dataset) -> TrainedNetwork | None:
    """This run's network for a row of the paper; Lego-Net over all rows only where its mode is the paper's."""
    if row.lego:
        return dataset.lego.network if dataset.lego and dataset.plan.pooled.mode == row.mode else None
    baseline = next((network for network in dataset.baselines if network.id == row.mode), None)
    return baseline or next((searched.best for searched in dataset.rows if searched.plan.mode == row.mode), None)
