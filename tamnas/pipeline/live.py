"""What is at work in a checkout, read from what its stages leave while they run. Needs no torch, and writes nothing.

A stage instance holds its lock while it runs, and beside it stands how far it is (`tamnas.pipeline.progress`). Its
checkpoints hold the curves of the networks in training, beside which stands how far each is; the records of a search
hold what was evaluated.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
from safetensors import SafetensorError, safe_open

from tamnas.files import FORMAT, previous
from tamnas.pipeline.paths import TIMES
from tamnas.pipeline.progress import NETWORK
from tamnas.pipeline.store import LOCKS, unseal
from tamnas.space.architecture import Architecture

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Counter:
    """Units that are `done` of a `total`; `figures` of the last one, `notes` as of now (jobs that run and wait).

    `seconds_left` None: not known yet.
    """

    what: str
    done: int
    total: int
    seconds_left: float | None
    figures: dict
    notes: dict


@dataclass(frozen=True)
class SearchState:
    """Of a search: how many networks it evaluated, the best robust accuracy after each, the front of all of them."""

    count: int
    best_robust: list[float]
    front: list[dict]  # by growing number of parameters


@dataclass(frozen=True)
class Work:
    """A stage instance that is at work or, if it is not `alive`, was killed.

    `started` in seconds since 1970; `progress`: the outer counter first; `training`: a counter of epochs for each
    network in training; `curves`: by network in training, a row per epoch.
    """

    stage: str
    instance: str
    alive: bool
    started: float
    progress: list[Counter]
    training: list[Counter]
    curves: dict[str, list[dict]]
    evaluated: SearchState | None

    @property
    def name(self) -> str:
        """As DVC calls it."""
        return self.stage if self.instance == "run" else f"{self.stage}@{self.instance}"

    def plain(self) -> dict:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Ended:
    """A line of logs/times.csv: a stage instance that ended at a local time, such as 2030-01-31T14:30:00."""

    at: str
    stage: str
    instance: str
    seconds: float


def works() -> list[Work]:
    """All stage instances that are at work or were killed, in the order in which they started."""
    return sorted(_works(), key=lambda work: work.started)


def _works() -> Iterator[Work]:
    for path in LOCKS.glob("*/*.json"):
        alive = _is_held(path.with_suffix(".lock"))
        with suppress(OSError, ValueError, KeyError, TypeError):  # it ended meanwhile, or a power cut damaged its file
            record = json.loads(path.read_text())
            if record["format"] != FORMAT:
                continue
            folder = Path(record["checkpoints"]) if record["checkpoints"] else None
            counters, training = _counters(record), list(_training(folder, record["started"])) if folder else []
            if counters and training:
                counters[-1] = replace(counters[-1], seconds_left=_seconds_left(counters[-1], training))
            yield Work(
                path.parent.name,
                path.stem,
                alive,
                record["started"],
                counters,
                training,
                _curves(folder) if folder else {},
                _search_state(folder / "evaluated.jsonl") if folder else None,
            )


def _is_held(lock: Path) -> bool:
    """Whether a process holds it. A shared try for an instant: a stage that starts right then waits 50 ms."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _counters(record: dict) -> list[Counter]:
    return [Counter(**counter) for counter in record["progress"]]


def _training(folder: Path, since: float) -> Iterator[Counter]:
    """Of networks in training; a file from before `since` is of a run that was killed."""
    for path in sorted(folder.rglob(f"*{NETWORK}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_text())
            if record["started"] >= since:
                yield from _counters(record)


def _seconds_left(networks: Counter, training: Sequence[Counter]) -> float | None:
    """Of a counter of networks: at the mean pace of those in training, with as many beside each other as now.

    Its own pace says nothing before the first network ended, and too little where an earlier run had finished some.
    """
    known = [one for one in training if one.seconds_left is not None and one.done < one.total]
    if not known:
        return networks.seconds_left
    whole = fmean(one.seconds_left / (one.total - one.done) * one.total for one in known)
    others = max(networks.total - networks.done - len(known), 0)
    return (sum(one.seconds_left for one in known) + others * whole) / len(training)


def _curves(folder: Path) -> dict[str, list[dict]]:
    """Of networks that have a state and are not finished, by name; of a supernet by `supernet`."""
    curves = {}
    for path in sorted(folder.rglob(f"*state{SUFFIX}")):
        name = path.name.removesuffix(f"state{SUFFIX}").rstrip(".")
        if not name or not path.with_name(name + SUFFIX).exists():
            history = _history(path)
            if history:
                curves[name or "supernet"] = history
    return curves


def _history(path: Path) -> list[dict]:
    """Of a checkpoint's header, or of the one before it: between two renames the file is not there."""
    for candidate in (path, previous(path)):
        with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError), safe_open(candidate, "numpy") as file:
            return json.loads(json.loads(file.metadata()["tamnas"])["meta"])["history"]
    return []


def _search_state(path: Path) -> SearchState | None:
    """Of a search's records; a line that is only half there counts when it is whole."""
    from tamnas.search.front import Fitness, front_of  # here: most stages have no such file

    known = {}
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                arch, values, costs = unseal(line.decode())
                known[Architecture.parse(arch)] = Fitness(values, tuple(costs))
    if not known:
        return None
    best = np.maximum.accumulate([fitness.values["robust"] for fitness in known.values()]).tolist()
    front = [{"architecture": str(arch), **known[arch].values} for arch in front_of(list(known), known)]
    return SearchState(len(known), best, front)


def ended(times: Path = TIMES) -> list[Ended]:
    """The stage instances that ended, the last one last; a half-written line is left out."""
    lines = []
    with suppress(OSError):
        for line in times.read_text().splitlines():
            with suppress(ValueError):
                at, stage, instance, seconds = line.split(",")
                lines.append(Ended(at, stage, instance, float(seconds)))
    return lines
