"""Evaluate trained networks on test images: clean accuracy and the grid of PGD attacks.

    python stages/evaluate.py scratch|finetune|legonet ROW
    python stages/evaluate.py legonet_pooled|baselines DATASET

The only stage that reads test images. Reads the plan, the prepared data (test) and the
weights of one kind. Writes grid.csv, attack.csv (the loss of one attack, step by step) and
metrics.json to results/DATASET/evaluate_<kind>[/ROW]/seed-<seed>.
"""

import click

from tamnas.compute import load_compute
from tamnas.grid import KINDS, GridTask, attack_rows, evaluate_kind
from tamnas.plan import load_dataset, load_row
from tamnas.space import SearchSpace
from tamnas.stage import one_line_errors, prepared, results, seeded, stage_run, weights, write_csv, write_json


def run(kind: str, name: str) -> None:
    per_row = KINDS[kind].per_row
    plan = load_row(name) if per_row else load_dataset(name)
    data, trained = prepared(plan.dataset), weights(name, KINDS[kind].folder)
    parameters = {
        "stage": kind, "seed": plan.seed, "network": plan.network.plain(), "eval": plan.eval.plain(),
        "numerics": plan.numerics.plain(),
    }  # fmt: skip
    with stage_run(__file__, name, parameters, [data, trained]) as store:
        task = GridTask(
            key=(plan.seed, "evaluate"), space=SearchSpace.from_params(plan), data=data, plan=plan.eval,
            numerics=plan.numerics, compute=load_compute(), folder=store.folder,
        )  # fmt: skip
        rows, metrics = evaluate_kind(task, kind, trained, f"evaluate {kind} {name}")
        folder = seeded(results(plan.dataset, f"evaluate_{kind}", name if per_row else None), plan.seed)
        write_csv(folder / "grid.csv", rows)
        write_csv(folder / "attack.csv", attack_rows(task, trained))
        write_json(folder / "metrics.json", metrics)


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name", metavar="ROW|DATASET")
@one_line_errors
def main(kind: str, name: str) -> None:
    run(kind, name)


if __name__ == "__main__":
    main()
