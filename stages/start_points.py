"""Choose which subnets of a row's front are retrained, and with which weights they start.

    python stages/start_points.py ROW

Reads plan/ROW.yaml, the front and runs/ROW/joint.safetensors. Writes
results/DATASET/select/ROW/selected.json (ids, architectures, inherited accuracies),
runs/ROW/start-scratch.json (architectures alone) and runs/ROW/start-finetune.safetensors (the
inherited weights, BatchNorm recalibrated): changed weights re-run no training from scratch.
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import load_row
from tamnas.files import FORMAT, read_json, write_json
from tamnas.pipeline.paths import prepared, results, weights
from tamnas.pipeline.stage import one_line_errors, stage_run


def run(row: str) -> None:
    plan = load_row(row)
    joint, data, found = weights(row, "joint.safetensors"), prepared(plan.dataset), results(plan.dataset, "search", row)
    parameters = {"max_subnets": plan.retrain.max_subnets, "numerics": plan.numerics.plain()}
    with stage_run(__file__, row, parameters, [data, joint, found]):
        from tamnas.pipeline import checkpoint  # here, because torch takes seconds to import
        from tamnas.search.fitness import inherited_weights, load_context
        from tamnas.search.front import spread

        front = read_json(found / "fronts.json")["front"]
        chosen = [front[index] for index in spread(len(front), plan.retrain.max_subnets)]
        context = load_context(plan, joint, data, load_compute())
        specs = [{"id": one["id"], "architecture": one["architecture"], "baseline": None} for one in chosen]
        start = {"format": FORMAT, "networks": specs}
        inherited = inherited_weights(context, chosen)
        write_json(weights(row, "start-scratch.json"), start)
        checkpoint.write_weights(weights(row, "start-finetune.safetensors"), inherited, start)
        write_json(results(plan.dataset, "select", row) / "selected.json", {"format": FORMAT, "networks": chosen})
    click.echo(f"{row}: {len(chosen)} of {len(front)} subnets of the front")


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("row")
@one_line_errors
def main(row: str) -> None:
    run(row)


if __name__ == "__main__":
    main()
