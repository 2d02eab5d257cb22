"""Choose which subnets of a row's front are retrained, and with which weights they start.

    python -m stages.select ROW

Reads its plan, the front and runs/ROW/joint.safetensors. Writes
results/DATASET/select/ROW/selected.json (ids, architectures, inherited accuracies),
runs/ROW/start-scratch.json (architectures alone) and runs/ROW/start-finetune.safetensors (the
inherited weights, BatchNorm recalibrated): changed weights re-run no training from scratch.
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import SelectStagePlan
from tamnas.files import FORMAT, read_json, write_json
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import prepared, results, runs
from tamnas.pipeline.stage import stage_run


@stage_command
def main(row: str) -> None:
    plan = SelectStagePlan.load(row, "select")
    with stage_run("select", plan):
        from tamnas.pipeline import checkpoint
        from tamnas.search.fitness import inherited_weights, load_context
        from tamnas.search.front import spread

        front = read_json(results(plan.dataset, "search", row) / "fronts.json")[plan.front]
        chosen = [front[index] for index in spread(len(front), plan.max_subnets)]
        context = load_context(plan, runs(row, "joint.safetensors"), prepared(plan.dataset), load_compute())
        inherited = inherited_weights(context, chosen)
        networks = [{"id": subnet["id"], "architecture": subnet["architecture"], "baseline": None} for subnet in chosen]
        start = {"format": FORMAT, "networks": networks}
        write_json(runs(row, "start-scratch.json"), start)
        checkpoint.write_weights(runs(row, "start-finetune.safetensors"), inherited, start)
        write_json(results(plan.dataset, "select", row) / "selected.json", {"format": FORMAT, "networks": chosen})
    click.echo(f"{row}: {len(chosen)} of {len(front)} subnets of the {plan.front}'s front")


if __name__ == "__main__":
    main()
