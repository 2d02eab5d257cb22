"""The tables of test accuracies in the form of the paper's; the paper's own are in `published`."""

from collections.abc import Mapping, Sequence

from tamnas.attacks.registry import Attack, Pgd
from tamnas.paper import Published, published
from tamnas.report.accuracy import accuracy_value, share_value
from tamnas.report.study import Dataset, RowResults, TrainedNetwork
from tamnas.report.tables.search import votes
from tamnas.report.tables.table import Column, Table, Value
from tamnas.report.terms import (
    BODY,
    CLEAN,
    HEAD,
    LATENCY,
    MACS,
    SIZE,
    attack_column,
    attack_notes,
    by_validation,
    cost_notes,
    final_attacks,
    grid_attacks,
    in_order,
    lego_controls,
    name_of,
    notes_of,
    selection_images,
    trained_apart,
)
from tamnas.search.objectives import BASE, measured

LABEL = Column("network", "Network")
Entry = tuple[str, TrainedNetwork | None, Published | None]  # name, network if it was run, published


def network_values(
    network: TrainedNetwork | None, attacks: Sequence[Attack], paper: Published | None
) -> dict[Column, Value]:
    """Size, clean, and `attacks` on test, each with the published value; without a network, why."""
    columns = [CLEAN, *map(attack_column, attacks)]
    beside = paper.grid if paper else {}
    papers = [paper.clean if paper else None]
    papers += [beside.get((attack.eps * 255, attack.steps)) if type(attack) is Pgd else None for attack in attacks]
    if network:
        cells = [accuracy_value(network, *pair) for pair in zip((None, *attacks), papers, strict=True)]
    else:
        cells = [Value(paper=value) for value in papers]
    # The paper quotes the RobNets from the literature, and nobody trains them here.
    why = None if network else "quoted" if paper and paper.mode.startswith("robnet") else "not run"
    size = Value(network and network.parameters, paper and paper.size, why)
    return {SIZE: size, **dict(zip(columns, cells, strict=True))}


def grid_table(dataset: Dataset) -> Table:
    """The form of Tables II to VI: one row per mode."""
    attacks = grid_attacks(dataset.plan.eval)
    lines = [
        {Column("row", "Row"): plan.row, Column("subnet", "Subnet"): row and row.best.id}
        | network_values(row and row.best, attacks, published(dataset.published, plan.mode))
        for plan, row in in_order(dataset)
    ]
    return Table.of(
        f"{dataset.name}-grid",
        f"The best subnet of each mode under attack, {dataset.name} (form of Tables II to VI)",
        lines,
        notes_of(dataset, [by_validation(dataset)], dataset.key_attack),
        dataset.name,
        images=dataset.images["test"],
    )


def lego_table(dataset: Dataset) -> Table:
    """The form of Tables VIII and IX: Lego-Nets beside the best searched subnet."""
    attacks, entries = grid_attacks(dataset.plan.eval), lego_networks(dataset)
    if row := dataset.best_row:
        entries.append((f"{row.name} {row.best.id}", row.best, published(dataset.published, row.plan.mode)))
    return Table.of(
        f"{dataset.name}-lego",
        f"Lego-Net and the best searched subnet, {dataset.name} (form of Tables VIII and IX)",
        [{LABEL: name} | network_values(network, attacks, paper) for name, network, paper in entries],
        notes_of(dataset, [*votes(dataset), by_validation(dataset)], dataset.key_attack),
        dataset.name,
        images=dataset.images["test"],
    )


def lego_networks(dataset: Dataset) -> list[Entry]:
    """The pooled Lego-Net, without a network where it was not trained, and those of rows."""
    entries, mode = [], dataset.plan.pooled.mode
    if dataset.pooled or (dataset.missing and dataset.plan.pooled.trained):
        network = dataset.pooled and dataset.pooled.network
        entries.append(("Lego-Net, pooled", network, published(dataset.published, mode, lego=True)))
    return entries + [(f"Lego-Net of {row.name}", row.lego.network, None) for row in dataset.rows if row.lego]


def benchmark_table(dataset: Dataset) -> Table:
    """The form of Table X: hand-made networks, Lego-Nets and their controls, the best subnet of every mode."""
    entries = [
        (name_of(name), network, published(dataset.published, name)) for name, network in hand_made(dataset).items()
    ]
    entries += lego_networks(dataset)
    entries += [(name, network, None) for name, network in lego_controls(dataset)]
    for plan, row in in_order(dataset):
        name, network = (f"{plan.row} {row.best.id}", row.best) if row else (plan.row, None)
        entries.append((name, network, published(dataset.published, plan.mode)))
    attacks = final_attacks(dataset, [network for _, network, _ in entries if network])
    lines, costs = comparison(dataset, entries, attacks)
    notes = [by_validation(dataset), *trained_apart(dataset), *attack_notes(dataset.plan.eval, attacks), *costs]
    return Table.of(
        f"{dataset.name}-benchmark",
        f"Hand-made networks, Lego-Nets and searched subnets, {dataset.name} (form of Table X)",
        lines,
        notes_of(dataset, notes, attacks[0]),
        dataset.name,
        images=dataset.images["test"],
    )


def hand_made(dataset: Dataset) -> dict[str, TrainedNetwork | None]:
    """All that the plan names; None where one was not run."""
    by_id = {network.id: network for network in dataset.baselines}
    return {name: by_id.get(name) for name in dataset.plan.baselines.names}


def comparison(
    dataset: Dataset, entries: Sequence[Entry], attacks: Sequence[Attack]
) -> tuple[list[Mapping], list[str]]:
    """(lines, notes) of Table X: what each network costs beside what it reaches.

    The column of latencies is there where some network has one.
    """
    networks = [network for _, network, _ in entries if network]
    columns = {HEAD: "head", BODY: "body", MACS: "macs"}
    if any(network.costs.milliseconds is not None for network in networks):
        columns[LATENCY] = "milliseconds"
    lines = []
    for name, network, paper in entries:
        costs = {column: network and getattr(network.costs, cost) for column, cost in columns.items()}
        values = network_values(network, attacks, paper)
        lines.append({LABEL: name, SIZE: values[SIZE]} | costs | values)
    return lines, cost_notes(networks, dataset.plan.data.size)


def subnets_table(dataset: Dataset) -> Table:
    """Every retrained subnet: where its parameters are, and its accuracies at each stage."""
    reference = dataset.plan.validation.attack.text
    searches = sorted({row.plan.search.attack.text for row in dataset.rows})
    own = [
        f"Validation: n = {selection_images(dataset)}, intervals as on test (those of a choice made on the same "
        f"images, epoch or network, are too narrow). Robust: {reference} after training, {' or '.join(searches)} with "
        "inherited weights.",
        *cost_notes([], dataset.plan.data.size),
        *timed_notes(dataset),
    ]
    return Table.of(
        f"{dataset.name}-subnets",
        f"Every retrained subnet, {dataset.name}",
        [_subnet(dataset, row, network) for row in dataset.rows for network in row.scratch],
        notes_of(dataset, own, dataset.key_attack),
        dataset.name,
        images=dataset.images["test"],
        validation_images=dataset.images["validation"],
    )


def timed_notes(dataset: Dataset) -> list[str]:
    """How the latency was measured that searches optimise."""
    processors = sorted({row.timed_on for row in dataset.rows if row.timed_on})
    if not processors:
        return []
    return [
        f"Latency: sum of the network's parts, each timed once by the search on one thread ({', '.join(processors)}), "
        "BatchNorm folded into convolutions. It says what is fast on that machine; another finds other networks."
    ]


def _subnet(dataset: Dataset, row: RowResults, network: TrainedNetwork) -> dict[Column, Value]:
    inherited = next(subnet for subnet in row.selected if subnet.id == network.id)
    finetuned = next((subnet for subnet in row.finetune if subnet.id == network.id), None)
    head, attack = row.space.head_parameters, dataset.key_attack
    line = {
        Column("row", "Row"): row.name,
        Column("subnet", "Subnet"): network.id,
        Column("architecture", "Architecture (block@ratio per layer)"): str(network.architecture),
        Column("parameters", "Parameters", "count", "min"): network.parameters,
        Column("head", "of these in the head", "count"): head,
        Column("body", "in stem and blocks", "count", "min"): network.parameters - head,
        Column("macs", "MACs", "count", "min"): network.costs.macs,
    }
    # What searches of the dataset optimised besides what every search measures.
    names = dict.fromkeys(name for row in dataset.rows for name in row.plan.search.objectives)
    known = {column.key for column in line}  # every network's MACs are
    for objective in measured(tuple(names))[len(BASE) :]:
        kind, better = ("percent", "max") if objective.maximise else ("number", "min")
        column = Column(objective.column, f"{objective.title} ({objective.unit})", kind, better)
        if column.key not in known:
            line[column] = inherited.measured.get(objective.column)
    stages = [("inherited", "inherited", {"clean": inherited.clean, "robust": inherited.robust})]
    trained = (("scratch", "scratch", network), ("finetune", "fine-tuned", finetuned))
    for key, title, retrained in trained:
        for weights in ("best", "last"):
            shares = vars(retrained.record.score(weights)) if retrained else {}
            stages.append((f"{key}_{weights}", f"{title}, {weights} epoch", shares))
    for key, title, shares in stages:
        for which in ("clean", "robust"):
            column = Column(f"validation_{key}_{which}", f"Validation, {title}: {which} (%)", "percent", "max")
            line[column] = share_value(shares.get(which), dataset.images["validation"])
    for key, title, retrained in trained:
        for which, name, under in (("clean", "clean", None), (attack.key, attack.text, attack)):
            column = Column(f"test_{key}_{which}", f"Test, {title}: {name} (%)", "percent", "max")
            line[column] = accuracy_value(retrained, under) if retrained else None
    return line
