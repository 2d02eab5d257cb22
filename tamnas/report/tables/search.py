"""Tables of what the search did and of what its best subnets have in common."""

from collections.abc import Sequence

from tamnas.attacks.registry import Pgd
from tamnas.report.accuracy import mean_difference
from tamnas.report.study import Dataset, LegoNet, RowResults
from tamnas.report.tables.table import Column, Table
from tamnas.report.terms import BOLD, counted, data_text, selection_images
from tamnas.search.objectives import OBJECTIVES


def search_table(dataset: Dataset) -> Table:
    """Per row: front, hypervolume, does scratch beat fine-tuning, do validation images flatter."""
    notes = [
        _data(dataset),
        f"Hypervolume: share of the box up to the space's largest values, of errors 100%, in {_objectives(dataset)}.",
        f"Scratch minus fine-tuned: mean of paired differences on {dataset.images['test']:,} test images, 95% t "
        "interval over subnets, p of Wilcoxon's signed-rank test. Both share seed and images; the interval covers "
        "the choice of subnets and the noise of their training, not another supernet.",
        "Validation minus test: mean over the subnets trained from scratch; empty where the test grid lacks the "
        "validation attack.",
        f"{BOLD} Only hypervolumes have one: counts and differences are no better for being large.",
    ]
    lines = [_search_line(dataset, row) for row in dataset.rows]
    return Table.of(f"{dataset.name}-search", f"The search, row by row, {dataset.name}", lines, notes, dataset.name)


def _objectives(dataset: Dataset) -> str:
    """What is minimised, by rows where they differ."""
    rows: dict[str, list[str]] = {}
    for row in dataset.rows:
        labels = ", ".join(OBJECTIVES[name].label for name in row.plan.search.objectives)
        rows.setdefault(labels, []).append(row.name)
    return "; ".join(labels if len(rows) == 1 else f"{labels} ({', '.join(own)})" for labels, own in rows.items())


def _search_line(dataset: Dataset, row: RowResults) -> dict[Column, str | float | None]:
    attack, last = dataset.key_attack, row.hypervolume[-1]
    clean, robust = (mean_difference(row.pairs, under) for under in (None, attack))
    minus, gap = "Scratch minus fine-tuned", validation_gap(row, dataset)
    return {
        Column("row", "Row"): row.name,
        Column("evaluated", "Subnets evaluated", "count"): last["evaluated"],
        Column("front", "Front", "count"): len(row.fronts["population"]),
        Column("archive_front", "Front of all evaluated", "count"): len(row.fronts["archive"]),
        Column("hypervolume", "Hypervolume", "number", "max"): float(last["hypervolume"]),
        Column("archive_hypervolume", "Hypervolume of all evaluated", "number", "max"): float(
            last["archive_hypervolume"]
        ),
        Column("scratch_minus_finetune_clean", f"{minus}, clean (points)"): clean and clean.points,
        Column("scratch_minus_finetune_robust", f"{minus}, {attack.text} (points)"): robust and robust.points,
        Column("validation_minus_test_clean", "Validation minus test, clean (points)", "number"): gap["clean"],
        Column("validation_minus_test_robust", "Validation minus test, robust (points)", "number"): gap["robust"],
    }


def validation_gap(row: RowResults, dataset: Dataset) -> dict[str, float | None]:
    """Mean validation minus test accuracy in points, over subnets trained from scratch."""
    reference, weights = dataset.plan.validation.attack, row.plan.eval.weights
    attack = Pgd(eps=reference.eps, steps=reference.steps)

    def mean(values: Sequence[float]) -> float:
        return round(100 * sum(values) / len(values), 2)

    gaps = {
        "clean": mean([network.record.score(weights).clean - network.test.clean for network in row.scratch]),
        "robust": None,
    }
    if all(attack in network.test.grid for network in row.scratch):
        gaps["robust"] = mean(
            [network.record.score(weights).robust - network.test.grid[attack] for network in row.scratch]
        )
    return gaps


def _data(dataset: Dataset) -> str:
    reference = dataset.plan.validation.attack.text
    return (
        f"{data_text(dataset)}, seed {dataset.plan.seed}; accuracies on {selection_images(dataset)} where not said "
        f"otherwise, robust under {reference} after training."
    )


def layers_table(dataset: Dataset) -> Table:
    """The lower part of Table VII: which blocks and ratios the best subnets use per layer."""
    scopes = [(row.name, row.lego) for row in dataset.rows if row.lego]
    if dataset.pooled:
        scopes.insert(0, ("pooled", dataset.pooled))
    lines = []
    for name, lego in scopes:
        for layer in sorted({line["layer"] for line in lego.counts}):
            line = {Column("scope", "Subnets of"): name, Column("layer", "Layer"): str(layer)}
            for gene in ("block", "ratio"):
                own = [choice for choice in lego.counts if (choice["layer"], choice["gene"]) == (layer, gene)]
                votes_each = ", ".join(f"{choice['value']:g} ({choice['count']})" for choice in own)
                line[Column(f"{gene}s", f"{gene.title()}s (count)")] = votes_each
            lines.append(line)
    notes = [
        _data(dataset),
        "Each entry: block id or ratio, and how many of the voters use it; the most frequent first, ties by mean "
        "robust validation accuracy.",
        *votes(dataset),
    ]
    title = f"Blocks and ratios of the best subnets per layer, {dataset.name} (lower part of Table VII)"
    return Table.of(f"{dataset.name}-layers", title, lines, notes, dataset.name)


def votes(dataset: Dataset) -> list[str]:
    """Who voted for each Lego-Net, the pooled one first."""
    mode = f"width and training attack of mode {dataset.plan.pooled.mode}"
    lines = [f"Lego-Net, pooled: {_voters(dataset.pooled)}; {mode}."] if dataset.pooled else []
    return lines + [f"Lego-Net of {row.name}: {_voters(row.lego)}." for row in dataset.rows if row.lego]


def _voters(lego: LegoNet) -> str:
    by_row: dict[str, list[str]] = {}
    for voter in lego.voters:
        by_row.setdefault(voter["row"], []).append(voter["id"])
    names = "; ".join(f"{row} {', '.join(ids)}" for row, ids in by_row.items())
    return f"the most frequent legal block and ratio per layer of {counted(len(lego.voters), 'subnet')} ({names})"
