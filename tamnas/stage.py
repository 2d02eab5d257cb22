"""What every stage does around its work: paths, lock and checkpoints, logging, exit codes."""

import csv
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tamnas.codedeps import code_digest
from tamnas.errors import DeadlineError, DivergenceError, InputError
from tamnas.store import Store, file_digest, key_of

log = logging.getLogger(__name__)
LOGS = Path("logs")


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
def stage_run(script: str, instance: str, parameters: Mapping, inputs: Sequence[Path] = ()) -> Iterator[Store]:
    """The stage's checkpoint store, locked, with its wall time logged at the end.

    The store's key covers `parameters` (JSON-able), the contents of `inputs` and the stage's
    code. Raises InputError if an input is missing.
    """
    name = Path(script).stem
    stage = f"{name}-{parameters['stage']}" if "stage" in parameters else name
    key = key_of(
        {
            "parameters": parameters,
            "inputs": {str(path): file_digest(path) for path in inputs},
            "code": code_digest(Path("stages") / Path(script).name),
        }
    )
    with Store(stage, instance, key) as store, timed(stage, instance):
        yield store


@contextmanager
def timed(stage: str, instance: str) -> Iterator[None]:
    """Log the wall time of a stage's own work, imports apart, if it finishes or is stopped at a deadline.

    Wall times differ from run to run: they go beside the results, into logs/times.csv.
    """
    started = time.time()
    try:
        yield
    except DeadlineError:
        _log_time(stage, instance, time.time() - started)
        raise
    _log_time(stage, instance, time.time() - started)


def _log_time(stage: str, instance: str, seconds: float) -> None:
    LOGS.mkdir(exist_ok=True)
    with (LOGS / "times.csv").open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')},{stage},{instance},{seconds:.1f}\n")
    log.info("%s %s: %.1f s", stage, instance, seconds)


def one_line_errors(function: Callable) -> Callable:
    """For a stage's main: bad input exits with 2, divergence with 1, a deadline with 3, each with one line."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            return function(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except DivergenceError as error:
            print(f"error: training diverged: {error}", file=sys.stderr)
            sys.exit(1)
        except DeadlineError as error:
            print(f"{error}; the next run goes on from the last checkpoint", file=sys.stderr)
            sys.exit(3)
        except KeyboardInterrupt:
            print("interrupted; the next run goes on from the last checkpoint", file=sys.stderr)
            sys.exit(130)

    return wrapper


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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        if rows:
            writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path):
    """Raises InputError if the file is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__}); `dvc repro` makes it") from None
