"""The few numbers that `dvc metrics diff` compares, and the long CSVs that DVC plots."""

from collections.abc import Mapping, Sequence

from tamnas.attacks.registry import Attack
from tamnas.files import csv_text
from tamnas.report.agreement import as_searched
from tamnas.report.study import Dataset, RowResults, TrainedNetwork


def metrics(datasets: Sequence[Dataset]) -> dict:
    """{dataset: {row: ..., pooled_lego, baselines}}; accuracies in percent, hypervolumes as shares."""
    figures = {}
    for dataset in datasets:
        attack = dataset.key_attack
        own = figures[dataset.name] = {row.name: _row_metrics(row, attack) for row in dataset.rows}
        if dataset.pooled:
            own["pooled_lego"] = _network_metrics(dataset.pooled.network, attack)
        if dataset.baselines:
            own["baselines"] = {network.id: _network_metrics(network, attack) for network in dataset.baselines}
    return figures


def _row_metrics(row: RowResults, attack: Attack) -> dict:
    last = row.hypervolume[-1]
    later = {"best_finetune": row.best_finetuned, "lego": row.lego and row.lego.network}
    return {
        "front": {"population": len(row.fronts["population"]), "all_evaluated": len(row.fronts["archive"])},
        "hypervolume": {
            "population": round(last["hypervolume"], 6),
            "all_evaluated": round(last["archive_hypervolume"], 6),
        },
        "best_scratch": _network_metrics(row.best, attack),
        **{name: _network_metrics(network, attack) for name, network in later.items() if network},
        "kendall_tau": {
            which: agreement.tau and round(agreement.tau.value, 4) for which, agreement in as_searched(row).items()
        },
    }


def _network_metrics(network: TrainedNetwork, attack: Attack) -> dict:
    robust = network.test.grid.get(attack)
    return {
        "parameters": network.parameters,
        "clean": round(100 * network.test.clean, 2),
        attack.key: None if robust is None else round(100 * robust, 2),
    }


def hypervolume_csv(datasets: Sequence[Dataset]) -> str:
    """One line per row and generation, random search apart; shares of the box."""
    columns = ("generation", "hypervolume", "archive_hypervolume")
    return csv_text(
        [
            {"run": name} | {column: line[column] for column in columns}
            for dataset in datasets
            for row in dataset.rows
            for name, lines in ((row.name, row.hypervolume), (f"{row.name} random search", row.random_search))
            for line in lines
        ]
    )


def curves_csv(datasets: Sequence[Dataset]) -> str:
    """One line per run and epoch: the supernet's two phases in a row, and the mean over retrained subnets.

    Accuracies are shares, measured in training (on augmented batches) or on validation.
    """
    lines = []
    for row in (row for dataset in datasets for row in dataset.rows):
        for epoch, line in enumerate([*row.block_curve, *row.joint_curve]):
            lines.append({"run": f"{row.name} supernet", "epoch": epoch} | _mean_of([line]))
        for kind, networks in (("scratch", row.scratch), ("finetune", row.finetune)):
            for same in zip(*(network.curve for network in networks), strict=True):
                lines.append({"run": f"{row.name} {kind}", "epoch": same[0]["epoch"]} | _mean_of(same))
    return csv_text(lines)


def _mean_of(lines: Sequence[Mapping]) -> dict:
    """Empty where any line is empty: robust accuracy is not measured in every epoch, a supernet's never."""
    columns = ("loss", "train_clean", "train_robust", "validation_clean", "validation_robust")
    values = {column: [line.get(column) for line in lines] for column in columns}
    return {column: None if None in own else sum(own) / len(own) for column, own in values.items()}
