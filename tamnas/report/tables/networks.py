"""The tables of test accuracies in the form of the paper's; the paper's own are in `published`."""

from collections.abc import Sequence

from tamnas.attacks.registry import Attack
from tamnas.paper import Published, published
from tamnas.report.accuracy import accuracy_value
from tamnas.report.intervals import wilson
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
    name_of,
    notes_of,
    selection_images,
    shown_example,
)
from tamnas.search.objectives import BASE, Objective, measured


def network_values(
    network: TrainedNetwork | None, attacks: Sequence[Attack], paper: Published | None, missing: str = "not run"
) -> list[Value]:
    """Size, clean, and `attacks` on test, each with the published value; without a network, `missing`."""
    beside = paper.grid if paper else {}
    papers = [paper.size if paper else None, paper.clean if paper else None]
    papers += [beside.get((attack.eps * 255, attack.steps)) if attack.kind == "pgd" else None for attack in attacks]
    if network is None:
        return [Value(paper=papers[0], text=missing)] + [Value(paper=value) for value in papers[1:]]
    accuracies = zip((None, *attacks), papers[1:], strict=True)
    return [Value(network.parameters, papers[0]), *(accuracy_value(network, *pair) for pair in accuracies)]


def grid_table(dataset: Dataset) -> Table:
    """The form of Tables II to VI: one row per mode."""
    attacks = grid_attacks(dataset.plan.eval)
    rows = [
        [Value(plan.row), Value(row.best.id if row else None),
         *network_values(row.best if row else None, attacks, published(dataset.name, plan.mode))]
        for plan, row in in_order(dataset)
    ]  # fmt: skip
    return Table(
        f"{dataset.name}-grid",
        f"The best subnet of each mode under attack, {dataset.name} (form of Tables II to VI)",
        [Column("row", "Row"), Column("subnet", "Subnet"), SIZE, CLEAN, *map(attack_column, attacks)],
        rows,
        notes_of(dataset, [by_validation(dataset)], shown_example(dataset, dataset.key_attack)),
        dataset.name,
        images=dataset.images["test"],
    )


def lego_table(dataset: Dataset) -> Table:
    """The form of Tables VIII and IX: Lego-Nets beside the best searched subnet."""
    attacks = grid_attacks(dataset.plan.eval)
    rows = [[Value(name), *network_values(network, attacks, paper)] for name, network, paper in lego_networks(dataset)]
    return Table(
        f"{dataset.name}-lego",
        f"Lego-Net and the best searched subnet, {dataset.name} (form of Tables VIII and IX)",
        [Column("network", "Network"), SIZE, CLEAN, *map(attack_column, attacks)],
        rows,
        notes_of(dataset, [*votes(dataset), by_validation(dataset)], shown_example(dataset, dataset.key_attack)),
        dataset.name,
        images=dataset.images["test"],
    )


def lego_networks(dataset: Dataset) -> list[tuple[str, TrainedNetwork | None, Published | None]]:
    """(name, network, published) of the Lego-Nets and the best subnet of all rows; no network: not run."""
    found, mode = [], dataset.plan.pooled.mode
    if dataset.pooled or dataset.missing:
        network = dataset.pooled.network if dataset.pooled else None
        found.append(("Lego-Net, pooled", network, published(dataset.name, mode, lego=True)))
    found += [(f"Lego-Net of {row.name}", row.lego.network, None) for row in dataset.rows if row.lego]
    if row := dataset.best_row:
        found.append((f"{row.name} {row.best.id}", row.best, published(dataset.name, row.plan.mode)))
    return found


def benchmark_table(dataset: Dataset) -> Table:
    """The form of Table X: hand-made networks, Lego-Nets, the best subnet of every mode."""
    attacks = final_attacks(dataset)
    entries = [(name_of(name), network, published(dataset.name, name), "not run")
               for name, network in hand_made(dataset).items()]  # fmt: skip
    entries += [(*one, "not run") for one in lego_networks(dataset) if one[0].startswith("Lego")]
    for plan, row in in_order(dataset):
        name, network = (f"{plan.row} {row.best.id}", row.best) if row else (plan.row, None)
        entries.append((name, network, published(dataset.name, plan.mode), "not run"))
    columns, rows, costs = comparison(dataset, entries, attacks)
    notes = [by_validation(dataset), *attack_notes(dataset.plan.eval), *costs]
    return Table(
        f"{dataset.name}-benchmark",
        f"Hand-made networks, Lego-Nets and searched subnets, {dataset.name} (form of Table X)",
        columns,
        rows,
        notes_of(dataset, notes, shown_example(dataset, attacks[0])),
        dataset.name,
        images=dataset.images["test"],
    )


def hand_made(dataset: Dataset) -> dict[str, TrainedNetwork | None]:
    """All that the plan names; None where one was not run."""
    found = {network.id: network for network in dataset.baselines}
    return {name: found.get(name) for name in dataset.plan.baselines.names}


# Name, network, published, what to say without a network.
Entry = tuple[str, TrainedNetwork | None, Published | None, str]


def comparison(dataset: Dataset, entries: Sequence[Entry], attacks: Sequence[Attack]) -> tuple[list, list, list[str]]:
    """(columns, rows, notes) of Table X: what each network costs beside what it reaches.

    The column of latencies is there where some network has one.
    """
    networks = [network for _, network, _, _ in entries if network]
    costs = [HEAD, BODY, MACS] + [LATENCY] * any(one.costs.milliseconds is not None for one in networks)
    rows = []
    for name, network, paper, missing in entries:
        size, *accuracies = network_values(network, attacks, paper, missing)
        own = network.costs if network else None
        values = [own.head, own.body, own.macs, own.milliseconds] if own else [None] * 4
        rows.append([Value(name), size, *(Value(value) for value in values[: len(costs)]), *accuracies])
    columns = [Column("network", "Network"), SIZE, *costs, CLEAN, *map(attack_column, attacks)]
    return columns, rows, cost_notes(networks, dataset.plan.data.size)


def subnets_table(dataset: Dataset) -> Table:
    """Every retrained subnet: where its parameters are, and its accuracies at each stage."""
    attack = dataset.key_attack
    columns = [
        Column("row", "Row"), Column("subnet", "Subnet"),
        Column("architecture", "Architecture (block@ratio per layer)"),
        Column("parameters", "Parameters", "count", "min"), Column("head", "of these in the head", "count"),
        Column("body", "in stem and blocks", "count", "min"), Column("macs", "MACs", "count", "min"),
    ]  # fmt: skip
    objectives = _further_objectives(dataset)
    for objective in objectives:
        kind, better = ("percent", "max") if objective.maximise else ("number", "min")
        columns.append(Column(objective.column, f"{objective.title} ({objective.unit})", kind, better))
    for key, title in (
        ("inherited", "inherited"), ("scratch_best", "scratch, best epoch"), ("scratch_last", "scratch, last epoch"),
        ("finetune_best", "fine-tuned, best epoch"), ("finetune_last", "fine-tuned, last epoch"),
    ):  # fmt: skip
        columns += [Column(f"validation_{key}_{which}", f"Validation, {title}: {which} (%)", "percent", "max")
                    for which in ("clean", "robust")]  # fmt: skip
    for key, title in (("scratch", "scratch"), ("finetune", "fine-tuned")):
        columns += [Column(f"test_{key}_clean", f"Test, {title}: clean (%)", "percent", "max"),
                    Column(f"test_{key}_{attack.key}", f"Test, {title}: {attack.text} (%)", "percent",
                           "max")]  # fmt: skip
    images = dataset.images["validation"]
    rows = [_subnet(row, network, attack, images, objectives) for row in dataset.rows for network in row.scratch]
    reference = dataset.plan.validation.attack.text
    searches = sorted({row.plan.search.attack.text for row in dataset.rows})
    own = [
        f"Validation: n = {selection_images(dataset)}, intervals as on test (those of a choice made on the same "
        f"images, epoch or network, are too narrow). Robust: {reference} after training, {' or '.join(searches)} with "
        "inherited weights.",
        *cost_notes([], dataset.plan.data.size),
    ]
    title = f"Every retrained subnet, {dataset.name}"
    notes = notes_of(dataset, own, shown_example(dataset, attack))
    return Table(f"{dataset.name}-subnets", title, columns, rows, notes, dataset.name, images=dataset.images["test"],
                 validation_images=images)  # fmt: skip


def _further_objectives(dataset: Dataset) -> list[Objective]:
    """What searches of the dataset optimised besides what every search measures."""
    names = dict.fromkeys(name for row in dataset.rows for name in row.plan.search.objectives)
    return measured(tuple(names))[len(BASE) :]


def _subnet(
    row: RowResults, network: TrainedNetwork, attack: Attack, images: int, objectives: Sequence[Objective]
) -> list[Value]:
    """`images`: how many validation images there are."""
    inherited = next(one for one in row.selected if one.id == network.id)
    finetuned = next((one for one in row.finetune if one.id == network.id), None)
    head = row.space.head_parameters
    values = [row.name, network.id, str(network.architecture), network.parameters, head, network.parameters - head,
              network.costs.macs, *(inherited.measured.get(one.column) for one in objectives)]  # fmt: skip
    shown = [inherited.clean, inherited.robust]
    for one in (network, finetuned):
        for weights in ("best", "last"):
            shown += [one.validation[weights][which] if one else None for which in ("clean", "robust")]
    validation = [Value() if one is None else Value(one, interval=wilson(one, images)) for one in shown]
    tests = [accuracy_value(one, which) if one else Value() for one in (network, finetuned) for which in (None, attack)]
    return [*map(Value, values), *validation, *tests]
