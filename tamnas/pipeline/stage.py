"""What every stage does around its work: paths, lock and checkpoints, logging, exit codes."""

import errno
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tamnas.errors import DeadlineError, DivergenceError, InputError, WorkerError
from tamnas.files import FORMAT, file_digest, write_json
from tamnas.pipeline.code import code_digest, fingerprint
from tamnas.pipeline.instructions import use_instructions
from tamnas.pipeline.paths import DIVERGED, LOGS
from tamnas.pipeline.store import Store, key_of

log = logging.getLogger(__name__)
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def stage_run(
    script: str, instance: str, parameters: Mapping, inputs: Sequence[Path] = (), trains: Path | None = None
) -> Iterator[Store]:
    """The stage's checkpoint store, locked, with its wall time logged at the end.

    The store's key covers `parameters` (JSON-able), the contents of `inputs` and the stage's
    code. `trains`: the results folder of a stage that trains; a DivergenceError inside is told there
    (`DIVERGED`) before it goes on. Raises InputError if an input is missing.
    """
    use_instructions(parameters["numerics"]["instruction_set"])
    name = Path(script).stem
    stage = f"{name}-{parameters['stage']}" if "stage" in parameters else name
    key = key_of(
        {
            "parameters": parameters,
            "inputs": {str(path): file_digest(path) for path in inputs},
            "code": code_digest(Path("stages") / Path(script).name),
        }
    )
    with Store(stage, instance, key) as store, timed(stage, instance), told_divergence(stage, instance, trains):
        yield store


@contextmanager
def told_divergence(stage: str, instance: str, folder: Path | None) -> Iterator[None]:
    """Leave `DIVERGED` in `folder` for the reports if training diverges inside, and none of an earlier run otherwise.

    The folder is the stage's own output: DVC and the runner remove it before the stage runs again.
    """
    if folder is not None:
        (folder / DIVERGED).unlink(missing_ok=True)  # a stage that was started by hand finds it there
    try:
        yield
    except DivergenceError as error:
        if folder is not None:
            told = {"format": FORMAT, "stage": stage, "instance": instance, **error.details}
            write_json(folder / DIVERGED, told)
        raise


@contextmanager
def timed(stage: str, instance: str) -> Iterator[None]:
    """Log the wall time of a stage, if it finishes or is stopped at a deadline.

    Wall times differ from run to run: they go beside the results, into logs/times.csv.
    """
    started = time.monotonic()
    try:
        yield
    except DeadlineError:
        _log_time(stage, instance, time.monotonic() - started)
        raise
    _log_time(stage, instance, time.monotonic() - started)


def _log_time(stage: str, instance: str, seconds: float) -> None:
    LOGS.mkdir(exist_ok=True)
    with (LOGS / "times.csv").open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')},{stage},{instance},{seconds:.1f}\n")
    log.info("%s %s: %.1f s", stage, instance, seconds)


def one_line_errors(function: Callable) -> Callable:
    """For a stage's main: what a user can mend or repeat ends it with one line; bad input exits with 2."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            _require_listed_code(Path(function.__code__.co_filename))
            return function(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            told = _told(error)
            if told is None:
                raise
            print(told[0], file=sys.stderr)
            sys.exit(told[1])

    return wrapper


def _require_listed_code(script: Path) -> None:
    """Under DVC: the code that is about to run is what this run's `fingerprint` listed, and what DVC will lock."""
    listed = Path("code") / f"{script.stem}.sha256"
    is_stage = "DVC_ROOT" in os.environ and script.parent.name == "stages" and script.stem != "fingerprint"
    if is_stage and listed.is_file() and listed.read_text() != fingerprint(Path("stages") / script.name):
        raise InputError(f"{listed}: the code changed after it was listed; run `dvc repro` again")


def _told(error: BaseException) -> tuple[str, int] | None:
    """(line, exit code); None for a bug, which keeps its traceback."""
    match error:
        case InputError():
            return f"error: {error}", 2
        case DivergenceError():
            return f"error: training diverged: {error}", 1
        case WorkerError():
            return f"error: {error}", 1
        case DeadlineError():
            return f"{error}; the next run goes on from the last checkpoint", 3
        case KeyboardInterrupt():
            return "interrupted; the next run goes on from the last checkpoint", 130
        case OSError(errno=number, filename=name) if number in OUT_OF_SPACE:
            what = f"{name or 'a file'} cannot be written: {os.strerror(number).lower()}"
            return f"error: {what}; make room and run again: it goes on from the last checkpoint", 1
    return None
