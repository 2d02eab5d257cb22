"""Control networks: what is trained beside a row's results, so that a reader can tell what made them.

A control changes one thing (the architecture, the order of layers, the learning rate, the attack, the
seed) and shares the rest with what it controls, its random keys included: where the architecture is the same, the same
initial weights, batches and noise; another architecture draws its own, as another seed would. Nothing here needs torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tamnas.config.plan import ControlsStagePlan, PooledControlsStagePlan, RowControlsStagePlan
from tamnas.config.sections import TrainingPlan
from tamnas.files import read_json
from tamnas.pipeline.deadline import require_complete
from tamnas.pipeline.paths import results, runs, seeded, validation
from tamnas.pipeline.store import key_of
from tamnas.records import Job, Label, NetworkSpec, Start, best, read_records
from tamnas.seeding import numpy_generator
from tamnas.space.architecture import Architecture
from tamnas.space.sampling import matching, reversed_order, uniform
from tamnas.space.space import SearchSpace

RUN, NOT_RUN, OWN = "run", "not run", "as the row's own"


def row_jobs(
    plan: RowControlsStagePlan, selected: Sequence[NetworkSpec], chosen: str, lego: Architecture, inherited: Path
) -> list[Job]:
    """All controls and repeats of a row.

    `selected`: the networks that were retrained; `chosen`: the id of the row's representative;
    `inherited`: the start points of fine-tuning.
    """
    row, seed, controls = plan.name, plan.seed, plan.controls
    archs = {network.id: network.architecture for network in selected}
    space, jobs = replace(SearchSpace.from_params(plan), max_macs=plan.max_macs), []
    scratch_key, finetune_key = (seed, "retrain_scratch", row), (seed, "retrain_finetune", row)
    if controls.random_networks:
        generator = numpy_generator(seed, "controls", row, "random_networks")
        drawn = matching(space, map(space.parameters, archs.values()), generator, plan.budget, archs.values())
        for of, arch in zip(archs, drawn, strict=True):
            label = Label("random_networks", "scratch", of, seed)
            jobs.append(_job(f"random-{of}", label, arch, plan.training, scratch_key))
    jobs += _lego_jobs(space, lego, plan, "legonet")
    for variant in controls.finetune:
        if not same_training(variant.training, plan.finetune):
            for of, arch in archs.items():
                label = Label(variant.control, "finetune", of, seed)
                jobs.append(_job(f"{variant.control}-{of}", label, arch, variant.training, finetune_key, inherited))
    jobs += _common_jobs(plan, "scratch", archs, scratch_key)
    for again in plan.seeds:
        for kind, of, arch, training, stage in (
            ("scratch", chosen, archs[chosen], plan.training, "retrain_scratch"),
            ("finetune", chosen, archs[chosen], plan.finetune, "retrain_finetune"),
            ("legonet", "lego", lego, plan.training, "legonet"),
        ):
            name = f"seed-{again}-{'lego' if kind == 'legonet' else kind}"
            start = inherited if kind == "finetune" else None
            jobs.append(_job(name, Label("seeds", kind, of, again), arch, training, (again, stage, row), start))
    return jobs


def pooled_jobs(plan: PooledControlsStagePlan, lego: Architecture | None) -> list[Job]:
    """As `row_jobs`, of a dataset's pooled Lego-Net, if it has one, and hand-made networks."""
    dataset, jobs = plan.name, []
    if lego:
        jobs += _lego_jobs(SearchSpace.from_params(plan), lego, plan, "legonet_pooled")
    for seed in plan.seeds:
        if lego:
            label = Label("seeds", "legonet_pooled", "lego", seed)
            jobs.append(_job(f"seed-{seed}-lego", label, lego, plan.training, (seed, "legonet", dataset)))
        for name in plan.baselines.names:
            label, key = Label("seeds", "baselines", name, seed), (seed, "baselines", dataset)
            jobs.append(_job(f"seed-{seed}-{name}", label, None, plan.baselines.training, key))
    return jobs


def _common_jobs(plan: ControlsStagePlan, kind: str, archs: Mapping[str, Architecture], key: tuple) -> list[Job]:
    """Networks of a `kind`, by id, trained under the common attack; none where that is their own."""
    common = plan.controls.common_attack
    if common is None or same_training(common, plan.training):
        return []
    labels = {of: Label("common_attack", kind, of, plan.seed) for of in archs}
    jobs = [_job(f"common_attack-{of}", labels[of], arch, common, key) for of, arch in archs.items()]
    return [replace(job, folder=key_of(common.plain())) for job in jobs]


def _lego_jobs(space: SearchSpace, lego: Architecture, plan: ControlsStagePlan, kind: str) -> list[Job]:
    key, controls = (plan.seed, "legonet", plan.name), plan.controls.legonet
    jobs = _common_jobs(plan, kind, {"lego": lego}, key)
    if controls.reversed:
        label = Label("lego_reversed", kind, "lego", plan.seed)
        jobs.append(_job("lego-reversed", label, reversed_order(space, lego), plan.training, key))
    if controls.uniform:
        label = Label("lego_uniform", kind, "lego", plan.seed)
        jobs.append(_job("lego-uniform", label, uniform(space, space.parameters(lego)), plan.training, key))
    generator = numpy_generator(plan.seed, "controls", plan.name, "lego_random")
    drawn = matching(space, [space.parameters(lego)] * controls.random, generator, taken=[lego])
    label = Label("lego_random", kind, "lego", plan.seed)
    return jobs + [_job(f"lego-random-{index}", label, arch, plan.training, key) for index, arch in enumerate(drawn, 1)]


def _job(
    id_: str, label: Label, arch: Architecture | None, training: TrainingPlan, key: tuple, inherited: Path | None = None
) -> Job:
    network = NetworkSpec(id_, arch, None if arch else label.of)
    return Job(network, training, key, Start(inherited, label.of) if inherited else None, label)


def same_training(a: TrainingPlan, b: TrainingPlan) -> bool:
    """Whether both train alike: then the row's own networks are the control."""
    return a.recipe == b.recipe and a.attack.essence == b.attack.essence


def status(plan: ControlsStagePlan) -> dict[str, str]:
    """For each control whether it is run; `OWN` where the row itself has its setting."""
    statuses = {
        "lego_reversed": RUN if plan.controls.legonet.reversed else NOT_RUN,
        "lego_uniform": RUN if plan.controls.legonet.uniform else NOT_RUN,
        "lego_random": RUN if plan.controls.legonet.random else NOT_RUN,
        "seeds": RUN if plan.seeds else NOT_RUN,
    }
    if isinstance(plan, RowControlsStagePlan):
        statuses["random_networks"] = RUN if plan.controls.random_networks else NOT_RUN
    common = plan.controls.common_attack
    statuses["common_attack"] = NOT_RUN if common is None else OWN if same_training(common, plan.training) else RUN
    if isinstance(plan, RowControlsStagePlan):
        for variant in plan.controls.finetune:
            statuses[variant.control] = OWN if same_training(variant.training, plan.finetune) else RUN
    return statuses


def train_controls(
    plan: RowControlsStagePlan | PooledControlsStagePlan, folder: Path, trained: Path, small: Path
) -> None:
    """Train what the plan switches on, checkpoints in `folder`; weights and small results by training seed.

    Raises DeadlineError, after writing what is finished.
    """
    from tamnas.training.networks import TrainingTask, train_networks, write_trained  # torch, for seconds

    source = results(plan.dataset, "legonet" if plan.row else "legonet_pooled", plan.row)
    designed = read_json(source / "statistics.json").get("architecture")
    lego = designed and Architecture.from_plain(designed)
    jobs = _jobs_of_row(plan, lego) if plan.row else pooled_jobs(plan, lego)
    trainings = train_networks(TrainingTask.of(plan, folder), jobs, f"controls {plan.name}")
    for seed in sorted({record.label.seed for record in trainings.records}):
        records = [record for record in trainings.records if record.label.seed == seed]
        own = replace(trainings, records=records, planned=sum(job.label.seed == seed for job in jobs))
        write_trained(own, seeded(trained, seed), seeded(small, seed))
    require_complete(trainings.plain(), f"controls {plan.name}")


def _jobs_of_row(plan: RowControlsStagePlan, lego: Architecture) -> list[Job]:
    row = plan.name
    selected = map(NetworkSpec.from_plain, read_json(runs(row, "start-scratch.json"))["networks"])
    records = read_records(validation(plan.dataset, "retrain_scratch", row, plan.seed))
    chosen = best(records, plan.weights).id
    return row_jobs(plan, list(selected), chosen, lego, runs(row, "start-finetune.safetensors"))
