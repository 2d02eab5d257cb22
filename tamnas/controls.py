"""Control networks: what is trained beside a row's results, so that a reader can tell what made them.

A control changes one thing (the architecture, the order of layers, the learning rate, the attack, the
seed) and shares the rest with what it controls, its random keys included: the same initial weights
where the architecture is the same, the same batches, the same noise. Nothing here needs torch.
"""

from collections.abc import Sequence
from pathlib import Path

from tamnas.config.plan import DatasetPlan, LegoControls, RowPlan, Training
from tamnas.files import FORMAT
from tamnas.seeding import numpy_generator
from tamnas.space.architecture import Architecture
from tamnas.space.sampling import matching, reversed_order
from tamnas.space.space import SearchSpace

RUN, NOT_RUN, OWN = "run", "not run", "as the row's own"


def row_jobs(plan: RowPlan, selected: Sequence[dict], best: str, lego: Architecture, inherited: Path) -> list[dict]:
    """Specs (`tamnas.training.networks.train_network`) of all controls and repeats of a row.

    `selected`: the specs that were retrained; `best`: the id of the row's representative;
    `inherited`: the start points of fine-tuning.
    """
    space, controls, row = SearchSpace.from_params(plan), plan.controls, plan.row
    scratch, finetune = plan.retrain.scratch, plan.retrain.finetune
    archs = {spec["id"]: Architecture.from_plain(spec["architecture"]) for spec in selected}
    jobs = []
    if controls.random_networks:
        generator = numpy_generator(plan.seed, "controls", row, "random_networks")
        drawn = matching(space, map(space.parameters, archs.values()), generator, plan.search.budget, archs.values())
        jobs += [
            _job(f"random-{one}", "random_networks", "scratch", one, arch, scratch, (plan.seed, "retrain_scratch", row))
            for one, arch in zip(archs, drawn, strict=True)
        ]
    jobs += _lego_jobs(space, controls.legonet, lego, scratch, plan.seed, row, "legonet")
    for variant in controls.finetune:
        if not same_training(variant.training, finetune):
            key = (plan.seed, "retrain_finetune", row)
            jobs += [
                _job(f"{variant.control}-{one}", variant.control, "finetune", one, arch, variant.training, key)
                | {"inherited": str(inherited)}
                for one, arch in archs.items()
            ]
    if controls.common_attack and not same_training(controls.common_attack, scratch):
        key = (plan.seed, "retrain_scratch", row)
        jobs += [
            _job(f"common_attack-{one}", "common_attack", "scratch", one, arch, controls.common_attack, key)
            for one, arch in archs.items()
        ]
    for seed in plan.seeds:
        again = _job(f"seed-{seed}-finetune", "seeds", "finetune", best, archs[best], finetune,
                     (seed, "retrain_finetune", row))  # fmt: skip
        jobs += [
            _job(f"seed-{seed}-scratch", "seeds", "scratch", best, archs[best], scratch,
                 (seed, "retrain_scratch", row)),
            again | {"inherited": str(inherited)},
            _job(f"seed-{seed}-lego", "seeds", "legonet", "lego", lego, scratch, (seed, "legonet", row)),
        ]  # fmt: skip
    return jobs


def pooled_jobs(plan: DatasetPlan, lego: Architecture) -> list[dict]:
    """As `row_jobs`, of a dataset's pooled Lego-Net and hand-made networks."""
    space, dataset, training = SearchSpace.from_params(plan), plan.dataset, plan.pooled.training
    jobs = _lego_jobs(space, plan.controls.legonet, lego, training, plan.seed, dataset, "legonet_pooled")
    for seed in plan.seeds:
        jobs.append(
            _job(f"seed-{seed}-lego", "seeds", "legonet_pooled", "lego", lego, training, (seed, "legonet", dataset))
        )
        jobs += [
            _job(f"seed-{seed}-{name}", "seeds", "baselines", name, None, plan.baselines.training,
                 (seed, "baselines", dataset))
            for name in plan.baselines.names
        ]  # fmt: skip
    return jobs


def _lego_jobs(
    space: SearchSpace, controls: LegoControls, lego: Architecture, training: Training, seed: int, name: str, kind: str
) -> list[dict]:
    key = (seed, "legonet", name)
    jobs = []
    if controls.reversed:
        arch = reversed_order(space, lego)
        jobs.append(_job("lego-reversed", "lego_reversed", kind, "lego", arch, training, key))
    generator = numpy_generator(seed, "controls", name, "lego_random")
    drawn = matching(space, [space.parameters(lego)] * controls.random, generator, taken=[lego])
    return jobs + [
        _job(f"lego-random-{index}", "lego_random", kind, "lego", arch, training, key)
        for index, arch in enumerate(drawn, 1)
    ]


def _job(
    name: str, control: str, kind: str, of: str, arch: Architecture | None, training: Training, key: tuple
) -> dict:
    """A spec with its own training and random key. `of` is the id of what it stands beside, among `kind`."""
    return {
        "id": name, "architecture": arch.plain() if arch else None, "baseline": None if arch else of,
        "label": {"control": control, "kind": kind, "of": of, "seed": key[0]},
        "training": training.plain(), "key": list(key),
    }  # fmt: skip


def same_training(a: Training, b: Training) -> bool:
    """Whether both train alike: then the row's own networks are the control."""
    return a.recipe == b.recipe and a.attack.essence == b.attack.essence


def status(plan: RowPlan | DatasetPlan) -> dict:
    """For each control whether it was run, JSON-able; `OWN` where the row itself has its setting."""
    found = {
        "lego_reversed": RUN if plan.controls.legonet.reversed else NOT_RUN,
        "lego_random": RUN if plan.controls.legonet.random else NOT_RUN,
        "seeds": RUN if plan.seeds else NOT_RUN,
    }
    if isinstance(plan, RowPlan):
        controls, own = plan.controls, plan.retrain
        found["random_networks"] = RUN if controls.random_networks else NOT_RUN
        found["common_attack"] = NOT_RUN
        if controls.common_attack:
            found["common_attack"] = OWN if same_training(controls.common_attack, own.scratch) else RUN
        for variant in controls.finetune:
            found[variant.control] = OWN if same_training(variant.training, own.finetune) else RUN
    return {"format": FORMAT, "controls": found}
