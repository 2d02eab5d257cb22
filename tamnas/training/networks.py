"""Training standalone networks, many at a time: retraining, Lego-Net, baselines.

A network is described by a JSON-able spec (`NetworkSpec.plain()`); a job trains one and leaves
its weights in the stage's checkpoint folder, so that a finished network is never trained twice.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tamnas.config.compute import Compute
from tamnas.config.fields import validated
from tamnas.config.plan import Augment, Numerics, Training, Validation
from tamnas.data.loader import Split, load_split
from tamnas.errors import DeadlineError, DivergenceError
from tamnas.evaluation.accuracy import Validator
from tamnas.files import FORMAT, write_csv, write_json
from tamnas.networks.trained import NetworkSpec
from tamnas.pipeline import checkpoint, device
from tamnas.pipeline.checkpoint import with_prefix
from tamnas.pipeline.deadline import require_complete, unfinished_marks
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.progress import Progress
from tamnas.seeding import torch_generator
from tamnas.space.space import SearchSpace
from tamnas.training.loop import Resume, Single, train


@dataclass(frozen=True)
class TrainingContext:
    """What a training job needs beside its spec; loaded once per worker."""

    space: SearchSpace
    train: Split
    validation: Split
    training: Training
    reference: Validation
    augment: Augment
    runtime: device.Runtime
    folder: Path
    checkpoint_seconds: float
    key: tuple


@dataclass(frozen=True)
class TrainingTask:
    """A list of networks to train alike. `key` opens every job's random key; all fields picklable."""

    key: tuple
    space: SearchSpace
    data: Path
    training: Training
    reference: Validation
    augment: Augment
    numerics: Numerics
    compute: Compute
    folder: Path

    def context(self) -> TrainingContext:
        runtime = device.start(self.numerics, self.compute)
        return TrainingContext(
            self.space, load_split(self.data, "train", runtime.device),
            load_split(self.data, "validation", runtime.device), self.training, self.reference,
            self.augment, runtime, self.folder, self.compute.checkpoint_seconds, self.key,
        )  # fmt: skip


def train_unless_stopped(spec: dict, context: TrainingContext) -> dict | None:
    """A job: as `train_network`; None if the deadline stopped it, so that the others end at an epoch, too.

    Raises DivergenceError with the network's id among its details.
    """
    try:
        return train_network(spec, context)
    except DeadlineError:
        return None
    except DivergenceError as error:
        raise DivergenceError(str(error), {"network": spec["id"], **error.details}) from None


def train_network(spec: dict, context: TrainingContext) -> dict:
    """Train one network, write `<id>.safetensors` into the folder, return its record.

    `spec` is a NetworkSpec's plain form; with an `inherited` path, training starts from the
    weights stored there under the network's id. A control (`tamnas.controls`) brings its own
    `training` and random `key`, and a `label` that goes into the record; its weights are
    inherited under the id that the label's `of` names. Raises DeadlineError, leaving a checkpoint.
    """
    network = NetworkSpec.from_plain(spec)
    finished = context.folder / f"{network.id}.safetensors"
    state = checkpoint.load_latest(finished)  # a damaged file is told, and the network trained again
    if state is not None:
        return state[1]["record"]
    training = validated(Training, spec["training"], network.id) if "training" in spec else context.training
    key, label = (*spec.get("key", context.key), network.identity), spec.get("label", {})
    model = network.build(context.space, torch_generator(*key, "weights"))
    if spec.get("inherited"):
        source, inherited = Path(spec["inherited"]), label.get("of", network.id)
        stored = with_prefix(checkpoint.load(source)[0], f"{inherited}.")
        checkpoint.require_match(source, stored, model.state_dict())
        model.load_state_dict(stored)
    model = model.to(context.runtime.device, memory_format=device.MEMORY_FORMAT)
    recipe = training.recipe
    with Progress(f"training {network.id}", recipe.epochs, show=bool(spec.get("alone"))) as progress:
        trainee = Single(model, recipe)
        outcome = train(
            trainee, context.train, recipe=recipe, attack=training.attack,
            augment=context.augment, key=key, runtime=context.runtime,
            validate=Validator(context.validation, context.reference, recipe.epochs, key),
            resume=Resume(context.folder / f"{network.id}.state.safetensors", context.checkpoint_seconds),
            progress=progress,
        )  # fmt: skip
    last, best = outcome.history[-1], outcome.history[outcome.best_epoch]
    record = {
        **network.plain(),
        **label,
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": recipe.epochs,
        **{
            name: {"epoch": row["epoch"], "clean": row["validation_clean"], "robust": row["validation_robust"]}
            for name, row in (("last", last), ("best", best))
        },
    }
    tensors = {f"last.{name}": tensor for name, tensor in trainee.network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in outcome.best.items()}
    checkpoint.write_weights(finished, tensors, {"record": record, "history": outcome.history})
    return record


def train_networks(task: TrainingTask, specs: Sequence[dict], what: str) -> dict:
    """Train all `specs`; the result (JSON-able) lists their records in the order given.

    After a deadline those of the finished ones, with `unfinished_marks`. Raises DeadlineError if there is none.
    """
    records: dict[int, dict] = {}
    if len(specs) == 1:
        specs = [{**specs[0], "alone": True}]
    with Jobs(partial(TrainingTask.context, task), task.compute) as jobs, Progress(what, len(specs)) as progress:
        for index, record in jobs.run_jobs(train_unless_stopped, specs):
            if record is not None:
                records[index] = record
                progress.step(network=record["id"], clean=record["last"]["clean"], robust=record["last"]["robust"])
    if specs and not records:
        raise DeadlineError(f"{what}: stopped at the deadline before a network was finished")
    marks = unfinished_marks(len(records), len(specs))
    return {"format": FORMAT, **marks, "networks": [records[index] for index in sorted(records)]}


def train_and_write(task: TrainingTask, specs: Sequence[dict], what: str, weights: Path, results: Path) -> None:
    """Train all `specs` and write a stage's outputs. Raises DeadlineError, after writing what is finished."""
    trained = train_networks(task, specs, what)
    write_trained(task.folder, trained, weights, results)
    require_complete(trained, what)


def write_trained(folder: Path, trained: dict, weights: Path, results: Path) -> None:
    """What `train_networks` left in `folder`, as a stage's outputs.

    `weights` gets one file per network; `results` gets validation.json (their records) and
    curves.csv (one row per network and epoch).
    """
    rows = []
    # DVC emptied the folder before this stage ran, but not of what an orphan of a killed run wrote since.
    shutil.rmtree(weights, ignore_errors=True)
    weights.mkdir(parents=True)
    for record in trained["networks"]:
        tensors, meta = checkpoint.load(folder / f"{record['id']}.safetensors")
        checkpoint.write_weights(weights / f"{record['id']}.safetensors", tensors, {"record": meta["record"]})
        rows += [{"network": record["id"], **row} for row in meta["history"]]
    write_csv(results / "curves.csv", rows)
    write_json(results / "validation.json", trained)
