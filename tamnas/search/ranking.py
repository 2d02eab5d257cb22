"""Does the supernet predict? Inherited accuracies of the networks whose trained ones are known.

"The performance of the subnets using inherited weights [...] should be highly predictive" (paper, Section III-A).
"""

from functools import partial
from pathlib import Path

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import RankingStagePlan
from tamnas.evaluation.accuracy import accuracy, fast_copy, pgd_accuracy
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.paths import validation
from tamnas.pipeline.progress import Progress
from tamnas.pipeline.store import kept, key_of
from tamnas.records import OTHER_NETWORKS, Record, read_records
from tamnas.search.fitness import SearchContext, attack_key, calibration_batches, load_context
from tamnas.search.recalibration import recalibrations
from tamnas.space.architecture import Architecture


def alike_trained(plan: RankingStagePlan) -> list[Record]:
    """Every network of the row that was trained from scratch by its recipe, each architecture once. Raises InputError.

    The retrained subnets, Lego-Net, and the controls that are other networks.
    """
    records: dict[Architecture, Record] = {}
    for stage in ("retrain_scratch", "legonet", "controls"):
        path = validation(plan.dataset, stage, plan.name, plan.seed)
        for record in read_records(path) if stage != "controls" or path.exists() else ():
            if record.label is None or record.label.control in OTHER_NETWORKS:
                records.setdefault(record.network.architecture, record)
    return list(records.values())


def inherited_accuracies(arch: Architecture, context: SearchContext, folder: Path) -> dict[str, dict[str, float]]:
    """A job: clean and robust accuracy on validation, in [0, 1], with inherited weights, by recalibration.

    Robust under the search's attack with its noise: recalibrated on clean images the figures are the search's own.
    Kept in `folder`. Raises DeadlineError when another one would end after the deadline.
    """
    plan: RankingStagePlan = context.plan

    def measure() -> dict[str, dict[str, float]]:
        context.pace.require_time(f"ranking {plan.name}")
        accuracies, subnet = {}, context.supernet.extract(arch).eval()
        for name, calibrated in recalibrations(subnet, calibration_batches(context), plan.search.attack):
            network = fast_copy(calibrated)
            robust = pgd_accuracy(network, context.validation, plan.search.attack, attack_key(plan))
            accuracies[name] = {"clean": accuracy(network, context.validation), "robust": robust}
            if not plan.search.bn_calibration_images:
                break  # statistics as inherited are the search's own, and there are no others
        return accuracies

    return kept(folder / f"{key_of({'architecture': str(arch)})}.json", measure, "measuring its network")


def ranking_rows(
    plan: RankingStagePlan, supernet: Path, data: Path, compute: ComputeParams, folder: Path
) -> list[dict]:
    """A row per network and recalibration; what is finished is kept in `folder`."""
    records = alike_trained(plan)
    measured: dict[int, dict] = {}
    load, job = partial(load_context, plan, supernet, data, compute), partial(inherited_accuracies, folder=folder)
    what = f"ranking {plan.name}"
    with Progress(what, len(records)) as progress, Jobs(load, compute, [supernet, data], progress) as jobs:
        for index, accuracies in jobs.run_jobs(job, [record.network.architecture for record in records]):
            measured[index] = accuracies
            progress.step(network=records[index].id)
    return [
        {
            "network": record.id,
            "parameters": record.parameters,
            "architecture": str(record.network.architecture),
            "recalibration": recalibration,
            **{f"inherited_{which}": share for which, share in accuracies.items()},
            **{f"trained_{which}": getattr(record.score(plan.weights), which) for which in accuracies},
        }
        for index, record in enumerate(records)
        for recalibration, accuracies in measured[index].items()
    ]
