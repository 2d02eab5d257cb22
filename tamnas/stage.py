"""What every stage does around its work: paths, lock and checkpoints, logging, exit codes."""

import csv
import errno
import functools
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tamnas.codedeps import code_digest, fingerprint
from tamnas.errors import DeadlineError, DivergenceError, InputError, WorkerError
from tamnas.fields import FORMAT, require_format
from tamnas.files import write_bytes
from tamnas.instructions import use_instructions
from tamnas.store import Store, file_digest, key_of

log = logging.getLogger(__name__)
LOGS = Path("logs")
DIVERGED = "diverged.json"  # in the results folder of a stage whose training diverged
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def prepared(dataset: str) -> Path:
    """The prepared arrays of a dataset."""
    return Path("data") / f"{dataset}.npz"


def weights(name: str, kind: str) -> Path:
    """A folder or file of weights of a row or dataset (cached by DVC, not in git)."""
    return Path("runs") / name / kind


def results(dataset: str, stage: str, row: str | None = None) -> Path:
    """The folder of a stage's small results (in git): results/<dataset>/<stage>[/<row>]."""
    return Path("results") / dataset / stage / (row or "")


def seeded(folder: Path, seed: int) -> Path:
    """Results that depend on a training seed have a folder for each."""
    return folder / f"seed-{seed}"


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


def unfinished_marks(finished: int, planned: int) -> dict:
    """Keys that mark a result as part of what was planned; none where everything is there."""
    return {} if finished == planned else {"complete": False, "planned": planned}


def require_complete(result: Mapping, what: str) -> None:
    """Call after writing `result`. Raises DeadlineError if it carries `unfinished_marks`."""
    if not result.get("complete", True):
        text = f"{what}: {len(result['networks'])} of {result['planned']} networks until the deadline"
        raise DeadlineError(text, partial=True)


def write_json(path: Path, plain) -> None:
    """Stable, readable JSON; replaces the file, never appends."""
    write_text(path, json.dumps(plain, indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    """One line per row; the columns are the first row's (no rows: an empty file). None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write atomically: a reader finds the old file or the new one, whole."""
    write_bytes(path, text.encode())


def read_json(path: Path) -> dict:
    """A file that `write_json` wrote. Raises InputError if it is missing, no JSON or of another format."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__}); `dvc repro` makes it") from None
    require_format(path, plain.get("format") if isinstance(plain, dict) else None, "`dvc repro` makes it again")
    return plain
