"""The table of whether the supernet predicts which networks are good once they are trained."""

from collections.abc import Iterator

from tamnas.report.agreement import LEAST, RESAMPLES, agreements
from tamnas.report.study import Dataset, RowResults
from tamnas.report.tables.table import Column, Table, Value
from tamnas.report.terms import data_text, selection_images

PREDICTIONS = {
    "none": "inherited weights, BatchNorm as inherited",
    "clean": "the same, recalibrated on clean images",
    "adversarial": "recalibrated on attacked images",
    "mixed": "recalibrated on both",
    "parameters": "number of parameters",
    "chance": "chance",
}


def ranking_table(dataset: Dataset) -> Table:
    """Per row and recalibration: mean accuracy, rank correlation, the best that are found, regret; chance beside it."""
    ranked = [row for row in dataset.rows if len(row.ranking) >= LEAST]
    left_out = [row.name for row in dataset.rows if row not in ranked]
    notes = [
        f"{data_text(dataset)}, seed {dataset.plan.seed}; all accuracies on {selection_images(dataset)}: with "
        "inherited weights (robust under the search's attack) against after training from scratch (under "
        f"{dataset.plan.validation.attack.text}).",
        "Networks: the retrained subnets, Lego-Net, and controls that are other networks (random ones of matching "
        "size, Lego-Nets reversed or drawn at random), each architecture once; all trained from scratch by the row's "
        "recipe.",
        "Tau: Kendall's tau-b; 1 is the same order, 0 none. Top k found: the share of the k best after training that "
        "the prediction puts among its k best. Regret: how much worse, after training, the network is that the "
        "prediction puts first than the best there is. Ties are broken by chance, in expectation.",
        f"In square brackets, of tau: 95% percentile intervals of {RESAMPLES:,} bootstrap samples of the networks. "
        "With few networks they are wide, and one of no width (a tau of 1) says no more than that few agree; they "
        "cover the choice of networks and the noise of their training, not another supernet. Top k and regret have "
        "none: a bootstrap of the best is biased. Regret counts luck, too: of equal networks one trains best.",
        "Subnets of a front were selected by the accuracies that are judged here and lie close together, so that tau "
        "among them may understate what the supernet knows of its whole space: `controls.random_networks` adds others.",
        "BatchNorm is recalibrated on the same training images in each line; the search itself does so on clean ones "
        "or, with `search.bn_calibration_images: 0`, not at all.",
        "Nothing is bold: a line says how far to trust one prediction.",
    ]
    if left_out:
        notes.insert(1, f"Left out, for fewer than {LEAST} such networks: {', '.join(left_out)}.")
    lines = [line for row in ranked for line in _lines(row)]
    title = f"Does the supernet predict? {dataset.name}"
    images = dataset.images["validation"]
    return Table.of(f"{dataset.name}-ranking", title, lines, notes, dataset.name, validation_images=images)


def _lines(row: RowResults) -> Iterator[dict[Column, Value | str | int | None]]:
    networks = row.ranking
    for name, by_accuracy in agreements(networks).items():
        line = {
            Column("row", "Row"): row.name,
            Column("predicted_by", "Predicted by"): PREDICTIONS[name],
            Column("networks", "Networks", "count"): len(networks),
            Column("top", "k", "count"): by_accuracy["clean"].top,
        }
        known = name in networks[0].inherited
        for which in by_accuracy:
            mean = sum(network.inherited[name][which] for network in networks) / len(networks) if known else None
            line[Column(f"inherited_{which}", f"Inherited, mean {which} (%)", "percent")] = mean
        for which, agreed in by_accuracy.items():
            tau = Value(round(agreed.tau.value, 2), interval=agreed.tau.ends) if agreed.tau else None
            line[Column(f"tau_{which}", f"Tau, {which}", "number")] = tau
        for key, title, unit in (("overlap", "Top k found", "%"), ("regret", "Regret", "points")):
            for which, agreed in by_accuracy.items():
                line[Column(f"{key}_{which}", f"{title}, {which} ({unit})", "percent")] = getattr(agreed, key)
        yield line
