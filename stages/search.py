"""Search a row's space with NSGA-II over the weights inherited from its supernet.

    python stages/search.py ROW

Reads plan/ROW.yaml, the prepared data (train to recalibrate BatchNorm, validation to score)
and runs/ROW/joint.safetensors. Writes to results/DATASET/search/ROW: individuals.csv (every
evaluated individual), fronts.json (final population and archive) and hypervolume.csv.
"""

import click

from tamnas.config.compute import load_compute
from tamnas.config.plan import load_row
from tamnas.files import write_csv, write_json
from tamnas.pipeline.paths import prepared, results, weights
from tamnas.pipeline.stage import one_line_errors, stage_run


def run(row: str) -> None:
    plan, compute = load_row(row), load_compute()
    data, joint = prepared(plan.dataset), weights(row, "joint.safetensors")
    parameters = {
        "seed": plan.seed, "network": plan.network.plain(), "space": plan.space.plain(),
        "search": plan.search.plain(), "batch_size": plan.supernet.joint.recipe.batch_size,
        "augment": plan.data.augment.plain(), "numerics": plan.numerics.plain(),
    }  # fmt: skip
    with stage_run(__file__, row, parameters, [data, joint]) as store:
        from tamnas.search.nsga2 import fronts, individuals, run_search  # here, because torch takes seconds to import

        found, fitness = run_search(plan, joint, data, compute, store.folder / "evaluated.jsonl")
        folder = results(plan.dataset, "search", row)
        write_csv(folder / "individuals.csv", individuals(found, fitness))
        write_csv(folder / "hypervolume.csv", found.hypervolume)
        write_json(folder / "fronts.json", fronts(found, fitness))


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.argument("row")
@one_line_errors
def main(row: str) -> None:
    run(row)


if __name__ == "__main__":
    main()
