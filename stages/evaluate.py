"""Evaluate trained networks on test images: clean accuracy, the grid of PGD attacks, `eval.attacks`.

    python -m stages.evaluate scratch|finetune|legonet|controls ROW
    python -m stages.evaluate legonet_pooled|baselines|controls_pooled DATASET

The only stage that reads test images. Reads its plan, the prepared data (test) and the
weights of one kind. Writes to results/DATASET/evaluate_<kind>[/ROW]: evaluated.json (which networks
of which seed) and seed-<seed>/ with grid.csv (a line per network and attack; `attack` is its key, as in
metrics.json, or clean; `missed`: images that it leaves and fools within a smaller radius), attacks.csv (what
each of eval.attacks did, part by part, and the worst case over all attacks on its images), checks.csv (of
final networks), attack.csv (the loss of one attack, step by
step), costs.csv, metrics.json and, with eval.latency, latency.csv.
"""

from typing import Literal

from tamnas.config.plan import EvaluateBaselinesStagePlan, EvaluateStagePlan
from tamnas.evaluation.kinds import KINDS, seed_folders
from tamnas.files import FORMAT, write_json
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.deadline import require_complete
from tamnas.pipeline.paths import results, runs
from tamnas.pipeline.stage import stage_run


@stage_command
def main(kind: Literal[tuple(KINDS)], name: str) -> None:
    stage = f"evaluate_{kind}"
    kind_of_plan = EvaluateBaselinesStagePlan if kind == "baselines" else EvaluateStagePlan
    plan, trained = kind_of_plan.load(name, stage), runs(name, KINDS[kind].folder)
    folder, by_seed = results(plan.dataset, stage, plan.row), {}
    # What is evaluated is kept by each network's own weights: one network more, and the others are not attacked again.
    with stage_run(stage, plan, apart=[trained]) as checkpoints:
        if seed_folders(kind, trained, plan.seed):  # else controls that are off, or no baselines
            from tamnas.evaluation.grid import evaluate_and_write

            by_seed = evaluate_and_write(plan, kind, trained, checkpoints, folder)
        networks = {str(seed): list(metrics["networks"]) for seed, metrics in by_seed.items()}
        write_json(folder / "evaluated.json", {"format": FORMAT, "networks": networks})
        for metrics in by_seed.values():
            require_complete(metrics, f"evaluate {kind} {name}")


if __name__ == "__main__":
    main()
