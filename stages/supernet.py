"""Train one phase of a row's supernet with TRADES-YOPO: blocks first, then blocks and ratios.

    python -m stages.supernet block ROW
    python -m stages.supernet joint ROW

Reads its plan, the prepared data and, for the joint phase, the block weights. Writes
runs/ROW/<phase>.safetensors (weights and momentum) and
results/DATASET/supernet_<phase>/ROW/curve.csv, or diverged.json there if the loss becomes NaN or infinite.
"""

from typing import Literal

from tamnas.config.compute import load_compute
from tamnas.config.plan import PhaseStagePlan
from tamnas.errors import InputError
from tamnas.files import write_csv
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import results, runs
from tamnas.pipeline.stage import stage_run


@stage_command
def main(phase: Literal["block", "joint"], row: str) -> None:
    stage, compute = f"supernet_{phase}", load_compute()
    plan = PhaseStagePlan.load(row, stage)
    if plan.ranks > 1 and compute.engine != "ray":
        raise InputError(f"supernet.ranks is {plan.ranks}: compute.engine must be ray, not {compute.engine}")
    start = runs(row, "block.safetensors") if phase == "joint" else None
    with stage_run(stage, plan) as checkpoints:
        from tamnas.networks.trained import supernet_tensors
        from tamnas.pipeline import checkpoint
        from tamnas.training.loop import Resume
        from tamnas.training.parallel import PhaseTask, train_on_cluster
        from tamnas.training.phases import train_phase

        resume = Resume(checkpoints / "state.safetensors", compute.checkpoint_seconds)
        task = PhaseTask(plan, stage, start, resume, compute)
        runtime, split = task.context()
        if compute.engine == "ray":
            train_on_cluster(task)
        # What a cluster trained, or an earlier run, is only taken up.
        trained, outcome = train_phase(plan, stage, split, start, runtime, resume)
        checkpoint.write_weights(runs(row, f"{phase}.safetensors"), supernet_tensors(trained), {"row": row})
        write_csv(results(plan.dataset, stage, row) / "curve.csv", outcome.history)


if __name__ == "__main__":
    main()
