"""Train one phase of a row's supernet with TRADES-YOPO: blocks first, then blocks and ratios.

    python stages/supernet.py block ROW
    python stages/supernet.py joint ROW

Reads plan/ROW.yaml, the prepared data and, for the joint phase, the block weights. Writes
runs/ROW/<phase>.safetensors (weights and momentum) and
results/DATASET/supernet_<phase>/ROW/curve.csv, or diverged.json there if the loss becomes NaN or infinite.
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import load_row
from tamnas.files import write_csv
from tamnas.pipeline.paths import prepared, results, weights
from tamnas.pipeline.stage import one_line_errors, stage_run


def run(phase: str, row: str) -> None:
    plan, compute = load_row(row), load_compute()
    data = prepared(plan.dataset)
    start = weights(row, "block.safetensors") if phase == "joint" else None
    supernet = plan.supernet.plain()
    parameters = {
        "stage": phase, "seed": plan.seed, "network": plan.network.plain(), "space": plan.space.plain(),
        "supernet": [supernet[part] for part in ("attack", "resample_every", phase)],
        "augment": plan.data.augment.plain(), "numerics": plan.numerics.plain(),
    }  # fmt: skip
    folder = results(plan.dataset, f"supernet_{phase}", row)
    with stage_run(__file__, row, parameters, [data, *([start] if start else [])], folder) as store:
        from tamnas.data.loader import load_split
        from tamnas.networks.trained import supernet_tensors
        from tamnas.pipeline import checkpoint, device  # here, because torch takes seconds to import
        from tamnas.training.loop import Resume
        from tamnas.training.phases import train_phase

        runtime = device.start(plan.numerics, compute)
        resume = Resume(store.path("state"), compute.checkpoint_seconds)
        trained, outcome = train_phase(plan, phase, load_split(data, "train", runtime.device), start, runtime, resume)
        checkpoint.write_weights(weights(row, f"{phase}.safetensors"), supernet_tensors(trained), {"row": row})
        write_csv(folder / "curve.csv", outcome.history)


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("phase", type=click.Choice(["block", "joint"]))
@click.argument("row")
@one_line_errors
def main(phase: str, row: str) -> None:
    run(phase, row)


if __name__ == "__main__":
    main()
