"""Evaluate trained networks on test images: clean accuracy and the grid of PGD attacks.

    python stages/evaluate.py scratch|finetune|legonet|controls ROW
    python stages/evaluate.py legonet_pooled|baselines|controls_pooled DATASET

The only stage that reads test images. Reads the plan, the prepared data (test) and the
weights of one kind. Writes to results/DATASET/evaluate_<kind>[/ROW]: evaluated.json (which networks
of which seed) and seed-<seed>/ with grid.csv, checks.csv (of final networks), attack.csv (the loss of
one attack, step by step), costs.csv, metrics.json and, with eval.latency, latency.csv.
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import load_dataset, load_row
from tamnas.evaluation.kinds import KINDS, seed_folders
from tamnas.files import FORMAT, write_csv, write_json
from tamnas.pipeline.deadline import require_complete
from tamnas.pipeline.paths import prepared, results, seeded, weights
from tamnas.pipeline.stage import one_line_errors, stage_run
from tamnas.space.space import SearchSpace


def run(kind: str, name: str) -> None:
    per_row = KINDS[kind].per_row
    plan = load_row(name) if per_row else load_dataset(name)
    data, trained = prepared(plan.dataset), weights(name, KINDS[kind].folder)
    parameters = {
        "stage": kind, "seed": plan.seed, "network": plan.network.plain(), "numerics": plan.numerics.plain(),
        "eval": {key: value for key, value in plan.eval.plain().items() if key != "latency"},
    }  # fmt: skip
    folder = results(plan.dataset, f"evaluate_{kind}", name if per_row else None)
    found = {}
    with stage_run(__file__, name, parameters, [data]) as store:
        folders = seed_folders(kind, trained, plan.seed)
        if folders:  # else controls that are off, or no baselines: nothing to evaluate
            from tamnas.evaluation.costs import cost_rows, latency_rows  # here, because torch takes seconds to import
            from tamnas.evaluation.grid import GridTask, evaluate_kind

            space, size = SearchSpace.from_params(plan), plan.data.size
            task = GridTask(
                key=("evaluate",), space=space, data=data, plan=plan.eval, numerics=plan.numerics,
                compute=load_compute(), folder=store.folder,
            )  # fmt: skip
            found = evaluate_kind(task, kind, trained, plan.seed, f"evaluate {kind} {name}")
        for seed, one in found.items():
            out = seeded(folder, seed)
            write_csv(out / "grid.csv", one.grid)
            if one.checks:
                write_csv(out / "checks.csv", one.checks)
            write_csv(out / "attack.csv", one.attack)
            write_json(out / "metrics.json", one.metrics)
            write_csv(out / "costs.csv", cost_rows(folders[seed], space, size))
            (out / "latency.csv").unlink(missing_ok=True)
            final = {row["network"] for row in one.grid if row["final"]}
            if plan.eval.latency and final:
                write_csv(out / "latency.csv", latency_rows(folders[seed], final, space, plan.eval.weights, size))
        networks = {str(seed): list(one.metrics["networks"]) for seed, one in found.items()}
        write_json(folder / "evaluated.json", {"format": FORMAT, "networks": networks})
        for one in found.values():
            require_complete(one.metrics, f"evaluate {kind} {name}")


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name", metavar="ROW|DATASET")
@one_line_errors
def main(kind: str, name: str) -> None:
    run(kind, name)


if __name__ == "__main__":
    main()
