"""The few numbers that `dvc metrics diff` compares, and the long CSVs that DVC plots."""

import csv
import io
from collections.abc import Mapping, Sequence

from tamnas.attacks.registry import Attack
from tamnas.report.study import Dataset, Row, Trained


def metrics(datasets: Sequence[Dataset]) -> dict:
    """{dataset: {row: ..., pooled_lego, baselines}}; accuracies in percent, hypervolumes as shares."""
    found = {}
    for dataset in datasets:
        attack = dataset.key_attack
        found[dataset.name] = {row.name: _row(row, attack) for row in dataset.rows}
        if dataset.pooled:
            found[dataset.name]["pooled_lego"] = _network(dataset.pooled.network, attack)
        if dataset.baselines:
            found[dataset.name]["baselines"] = {one.id: _network(one, attack) for one in dataset.baselines}
    return found


def _row(row: Row, attack: Attack) -> dict:
    last = row.hypervolume[-1]
    later = {"best_finetune": row.best_finetuned, "lego": row.lego and row.lego.network}
    return {
        "front": {"size": len(row.front), "size_of_all_evaluated": len(row.archive_front)},
        "hypervolume": {
            "population": round(last["hypervolume"], 6),
            "all_evaluated": round(last["archive_hypervolume"], 6),
        },
        "best_scratch": _network(row.best, attack),
        **{name: _network(network, attack) for name, network in later.items() if network},
        "kendall_tau": {which: None if tau["tau"] is None else round(tau["tau"], 4) for which, tau in row.tau.items()},
    }


def _network(network: Trained, attack: Attack) -> dict:
    robust = network.test.grid.get(attack)
    return {
        "parameters": network.parameters,
        "clean": round(100 * network.test.clean, 2),
        attack.key: None if robust is None else round(100 * robust, 2),
    }


def hypervolume_csv(datasets: Sequence[Dataset]) -> str:
    """One line per row and generation, random search apart; shares of the box."""
    columns = ("run", "generation", "hypervolume", "archive_hypervolume")
    return _csv(
        [
            {**line, "run": name}
            for dataset in datasets
            for row in dataset.rows
            for name, lines in ((row.name, row.hypervolume), (f"{row.name} random search", row.random_search))
            for line in lines
        ],
        columns,
    )


def curves_csv(datasets: Sequence[Dataset]) -> str:
    """One line per run and epoch: the supernet's two phases in a row, and the mean over retrained subnets.

    Accuracies are shares, measured in training (on augmented batches) or on validation.
    """
    columns = ("run", "epoch", "loss", "train_clean", "train_robust", "validation_clean", "validation_robust")
    lines = []
    for dataset in datasets:
        for row in dataset.rows:
            for epoch, line in enumerate([*row.block_curve, *row.joint_curve]):
                lines.append({"run": f"{row.name} supernet", **line, "epoch": epoch})
            for kind, networks in (("scratch", row.scratch), ("finetune", row.finetune)):
                for same in zip(*(network.curve for network in networks), strict=True):
                    lines.append({"run": f"{row.name} {kind}", "epoch": same[0]["epoch"]} | _mean(same, columns[2:]))
    return _csv(lines, columns)


def _mean(lines: Sequence[Mapping], keys: Sequence[str]) -> dict:
    """Empty where any line is empty: robust accuracy is not measured in every epoch."""
    columns = {key: [line[key] for line in lines] for key in keys}
    return {key: None if None in values else sum(values) / len(values) for key, values in columns.items()}


def _csv(lines: Sequence[Mapping], columns: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()
