"""Search a row's space with NSGA-II over the weights inherited from its supernet.

    python -m stages.search ROW

Reads its plan, the prepared data (train to recalibrate BatchNorm, validation to score)
and runs/ROW/joint.safetensors. Writes to results/DATASET/search/ROW: individuals.csv (every
evaluated individual), fronts.json (of the archive and the final population) and hypervolume.csv; where latency is an
objective latencies.json (of every block on this machine), too.
"""

from tamnas.config.compute import load_compute
from tamnas.config.plan import SearchStagePlan
from tamnas.files import write_csv, write_json
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import prepared, results, runs
from tamnas.pipeline.stage import stage_run


@stage_command
def main(row: str) -> None:
    plan, compute = SearchStagePlan.load(row, "search"), load_compute()
    with stage_run("search", plan) as checkpoints:
        from tamnas.search.latency import measured_latencies
        from tamnas.search.nsga2 import fronts, individuals, run_search

        latencies = measured_latencies(plan, checkpoints)
        supernet, memo = runs(row, "joint.safetensors"), checkpoints / "evaluated.jsonl"
        result, fitness = run_search(plan, latencies, supernet, prepared(plan.dataset), compute, memo)
        folder = results(plan.dataset, "search", row)
        write_csv(folder / "individuals.csv", individuals(result, fitness))
        write_csv(folder / "hypervolume.csv", result.hypervolume)
        write_json(folder / "fronts.json", fronts(result, fitness))
        if latencies is not None:
            write_json(folder / "latencies.json", latencies)


if __name__ == "__main__":
    main()
