"""Training standalone networks, many at a time: retraining, Lego-Net, baselines, controls.

A job trains one network and leaves its weights in the stage's checkpoint folder, so that a finished one is never
trained twice.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tamnas.config.compute import ComputeParams, load_compute
from tamnas.config.images import AugmentParams
from tamnas.config.plan import BaselinesStagePlan, TrainingStagePlan
from tamnas.config.sections import NumericsParams, ValidationParams
from tamnas.data.loader import Split, load_split
from tamnas.errors import DeadlineError, DivergenceError
from tamnas.evaluation.accuracy import Validator
from tamnas.files import FORMAT, read_json, remove, write_csv, write_json
from tamnas.networks.trained import build
from tamnas.pipeline import checkpoint, device
from tamnas.pipeline.checkpoint import with_prefix
from tamnas.pipeline.deadline import Pace, require_complete, unfinished_marks
from tamnas.pipeline.device import Runtime
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.paths import prepared, runs
from tamnas.pipeline.progress import NETWORK, Progress, recorded
from tamnas.records import Job, NetworkSpec, Record, Score, Start
from tamnas.seeding import torch_generator
from tamnas.space.space import SearchSpace
from tamnas.training.loop import Resume, Single, train


@dataclass(frozen=True)
class TrainingContext:
    """What training needs beside the job; loaded once per worker."""

    task: "TrainingTask"
    runtime: Runtime
    train: Split
    validation: Split
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True)
class TrainingTask:
    """What the jobs of a stage share; picklable. `folder` keeps checkpoints and finished networks."""

    space: SearchSpace
    data: Path
    validation: ValidationParams
    augment: AugmentParams
    numerics: NumericsParams
    compute: ComputeParams
    folder: Path

    @classmethod
    def of(cls, plan: TrainingStagePlan | BaselinesStagePlan, folder: Path) -> "TrainingTask":
        """As a stage's plan says, checkpoints and finished networks in `folder`."""
        hand_made = isinstance(plan, BaselinesStagePlan)
        space = SearchSpace(num_classes=plan.classes) if hand_made else SearchSpace.from_params(plan)
        data, compute = prepared(plan.dataset), load_compute()
        return cls(space, data, plan.validation, plan.augment, plan.numerics, compute, folder)

    def context(self) -> TrainingContext:
        runtime = device.start(self.numerics, self.compute)
        splits = (load_split(self.data, split, runtime.device) for split in ("train", "validation"))
        return TrainingContext(self, runtime, *splits)


def retraining_jobs(plan: TrainingStagePlan, init: str) -> list[Job]:
    """Of a row's chosen subnets: "scratch" or "finetune", from its start points. Raises InputError."""
    key = (plan.seed, f"retrain_{init}", plan.name)
    if init == "scratch":
        path = runs(plan.name, "start-scratch.json")
        networks, inherited = read_json(path)["networks"], False
    else:
        path = runs(plan.name, "start-finetune.safetensors")
        networks, inherited = checkpoint.load(path)[1]["networks"], True
    specs = map(NetworkSpec.from_plain, networks)
    return [Job(spec, plan.training, key, Start(path, spec.id) if inherited else None) for spec in specs]


def train_unless_stopped(job: Job, context: TrainingContext, show: bool = False) -> Record | None:
    """As `train_network`; None if the deadline stopped it, so that the others end at an epoch, too.

    Raises DivergenceError with the network's id among its details.
    """
    try:
        return train_network(job, context, show)
    except DeadlineError:
        return None
    except DivergenceError as error:
        raise DivergenceError(str(error), {"network": job.network.id, **error.details}) from None


def train_network(job: Job, context: TrainingContext, show: bool = False) -> Record:
    """Train one network and write `<id>.safetensors` into the task's folder; `show` its progress.

    Raises DeadlineError, leaving a checkpoint.
    """
    task, network = context.task, job.network
    finished = _finished(task.folder, job)
    finished.parent.mkdir(parents=True, exist_ok=True)
    if (state := checkpoint.load_latest(finished)) is not None:  # a damaged one is told, and trained again
        return Record.from_plain(state[1]["record"], finished)
    key, training, recipe = (*job.key, network.identity), job.training, job.training.recipe
    model = build(network, task.space, torch_generator(*key, "weights"))
    if job.start is not None:
        stored = with_prefix(checkpoint.load(job.start.path)[0], f"{job.start.id}.")
        checkpoint.fill(model, stored, job.start.path)
    trainee = Single(model.to(context.runtime.device, memory_format=device.MEMORY_FORMAT), recipe)
    with (
        recorded(finished.with_name(f"{network.id}{NETWORK}")),
        Progress(f"training {network.id}", recipe.epochs, show=show) as progress,
    ):
        outcome = train(
            trainee,
            context.train,
            recipe=recipe,
            attack=training.attack,
            augment=task.augment,
            key=key,
            runtime=context.runtime,
            validate=Validator(context.validation, task.validation, recipe.epochs, key),
            validated_at=task.validation.attack.eps,
            resume=Resume(finished.with_name(f"{network.id}.state.safetensors"), task.compute.checkpoint_seconds),
            progress=progress,
            pace=context.pace,
        )
    parameters = sum(p.numel() for p in model.parameters())
    last, best = (_score(outcome.history[epoch]) for epoch in (-1, outcome.best_epoch))
    record = Record(network, parameters, recipe.epochs, last, best, job.label)
    tensors = {f"last.{name}": tensor for name, tensor in trainee.network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in outcome.best.items()}
    checkpoint.write_weights(finished, tensors, {"record": record.plain(), "history": outcome.history})
    return record


def _finished(folder: Path, job: Job) -> Path:
    return folder / job.folder / f"{job.network.id}.safetensors"


def _score(row: dict) -> Score:
    return Score(row["epoch"], row["validation_clean"], row["validation_robust"])


@dataclass(frozen=True)
class Trained:
    """The records of a stage's jobs in their order; fewer than `planned` after a deadline. `files`: by id."""

    records: list[Record]
    planned: int
    files: Mapping[str, Path]

    def plain(self) -> dict:
        """JSON-able: the stage's validation.json."""
        marks = unfinished_marks(len(self.records), self.planned)
        return {"format": FORMAT, **marks, "networks": [record.plain() for record in self.records]}


def train_networks(task: TrainingTask, jobs: Sequence[Job], what: str) -> Trained:
    """Train all of `jobs`. Raises DeadlineError if none is finished at the deadline."""
    records: dict[int, Record] = {}
    function = partial(train_unless_stopped, show=True) if len(jobs) == 1 else train_unless_stopped
    name = operator.attrgetter("network.id")
    with Progress(what, len(jobs)) as progress, Jobs(task.context, task.compute, [task.data], progress) as workers:
        for index, record in workers.run_jobs(function, jobs, name):
            if record is not None:
                records[index] = record
                progress.step(network=record.id, clean=record.last.clean, robust=record.last.robust)
    if jobs and not records:
        raise DeadlineError(f"{what}: stopped at the deadline before a network was finished")
    files = {job.network.id: _finished(task.folder, job) for job in jobs}
    return Trained([records[index] for index in sorted(records)], len(jobs), files)


def train_and_write(task: TrainingTask, jobs: Sequence[Job], what: str, out: Path, results: Path) -> None:
    """Train all of `jobs` and write a stage's outputs. Raises DeadlineError, after writing what is finished."""
    trained = train_networks(task, jobs, what)
    write_trained(trained, out, results)
    require_complete(trained.plain(), what)


def write_trained(trained: Trained, out: Path, results: Path) -> None:
    """What `train_networks` left, as a stage's outputs.

    `out` gets one file per network; `results` gets validation.json (their records) and
    curves.csv (one row per network and epoch).
    """
    rows = []
    # DVC emptied the folder before this stage ran, but not of what an orphan of a killed run wrote since.
    remove(out)
    out.mkdir(parents=True)
    for record in trained.records:
        tensors, meta = checkpoint.load(trained.files[record.id])
        checkpoint.write_weights(out / f"{record.id}.safetensors", tensors, {"record": meta["record"]})
        rows += [{"network": record.id, **row} for row in meta["history"]]
    write_csv(results / "curves.csv", rows)
    write_json(results / "validation.json", trained.plain())
