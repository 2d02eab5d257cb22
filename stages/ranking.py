"""Measure a row's trained networks with inherited weights: does the supernet predict their order?

    python -m stages.ranking ROW

Reads its plan, the prepared data (train to recalibrate BatchNorm, validation to score), runs/ROW/joint.safetensors and
the validation accuracies of the networks trained from scratch: the retrained subnets, Lego-Net, and controls that are
other networks. Writes to results/DATASET/ranking/ROW: inherited.csv (a line per network and recalibration).
"""

from tamnas.config.compute import load_compute
from tamnas.config.plan import RankingStagePlan
from tamnas.files import write_csv
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.paths import prepared, results, runs
from tamnas.pipeline.stage import stage_run


@stage_command
def main(row: str) -> None:
    plan = RankingStagePlan.load(row, "ranking")
    supernet, folder = runs(row, "joint.safetensors"), results(plan.dataset, "ranking", row)
    trained = [results(plan.dataset, stage, row) for stage in ("retrain_scratch", "legonet", "controls")]
    # What is measured is kept by architecture: one network more, and the others are not measured again.
    with stage_run("ranking", plan, apart=trained) as checkpoints:
        from tamnas.search.ranking import ranking_rows

        rows = ranking_rows(plan, supernet, prepared(plan.dataset), load_compute(), checkpoints)
        write_csv(folder / "inherited.csv", rows)


if __name__ == "__main__":
    main()
