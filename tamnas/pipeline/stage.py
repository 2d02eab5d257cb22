"""What every stage does around its work: lock, checkpoints, wall time, what a divergence leaves."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tamnas.config.plan import StagePlan
from tamnas.errors import DeadlineError, DivergenceError
from tamnas.files import FORMAT, file_digest, remove, write_json
from tamnas.pipeline.code import code_digest
from tamnas.pipeline.instructions import use_instructions
from tamnas.pipeline.paths import DIVERGED, TIMES
from tamnas.pipeline.progress import recorded
from tamnas.pipeline.stages import instance
from tamnas.pipeline.store import checkpoint_folder, key_of, locked, record_path

log = logging.getLogger(__name__)


@contextmanager
def stage_run(stage: str, plan: StagePlan, apart: Collection[Path] = ()) -> Iterator[Path]:
    """The stage instance's checkpoint folder, locked, with its wall time logged at the end.

    The folder's key covers the plan, the stage's code and the contents of its inputs in dvc.yaml but those `apart`, by
    which the stage names its files in the folder.
    A DivergenceError inside leaves `DIVERGED` among the results. Raises InputError if an input is missing.
    """
    if hasattr(plan, "numerics"):
        use_instructions(plan.numerics.instruction_set)
    own = instance(stage, plan.name, plan.dataset)
    digests = {str(path): file_digest(path) for path in own.inputs}
    beside = {str(path): digests.pop(str(path)) for path in apart}
    key = key_of({"plan": plan.key(), "inputs": digests, "code": code_digest(own.stage.script)})
    noted = divergence_noted(stage, plan.name, own.results)
    shared = f"-{key_of(beside)}" if beside else ""
    with (
        checkpoint_folder(stage, plan.name, key, apart=shared) as folder,
        recorded(record_path(stage, plan.name), folder),
        timed(stage, plan.name),
        noted,
    ):
        yield folder


@contextmanager
def exclusive(stage: str, name: str = "run") -> Iterator[None]:
    """For a stage without checkpoints: locked, its wall time logged."""
    with locked(stage, name), recorded(record_path(stage, name)), timed(stage, name):
        yield


@contextmanager
def divergence_noted(stage: str, name: str, folder: Path) -> Iterator[None]:
    """Leave `DIVERGED` in `folder` for the reports if training diverges inside, and none of an earlier run otherwise.

    The folder is the stage's own output: DVC and the runner remove it before the stage runs again.
    """
    (folder / DIVERGED).unlink(missing_ok=True)  # a stage that was started by hand finds it there
    try:
        yield
    except DivergenceError as error:
        write_json(folder / DIVERGED, {"format": FORMAT, "stage": stage, "instance": name, **error.details})
        raise


@contextmanager
def timed(stage: str, name: str) -> Iterator[None]:
    """Log the wall time of a stage that finishes or is stopped at a deadline; it goes into logs/times.csv, too."""
    started, stopped = time.monotonic(), None
    try:
        yield
    except DeadlineError as error:
        stopped = error
    seconds = time.monotonic() - started
    TIMES.parent.mkdir(exist_ok=True)
    with TIMES.open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')},{stage},{name},{seconds:.1f}\n")
    log.info("%s %s: %.1f s", stage, name, seconds)
    if stopped is not None:
        raise stopped


def renewed(folders: Iterable[Path], name: str, plain: dict[str, Any]) -> None:
    """Each folder anew, with a JSON file alone: what an earlier run left goes, also where a stage
    was started by hand.
    """
    for folder in folders:
        remove(folder)
        write_json(folder / name, {"format": FORMAT, **plain})
