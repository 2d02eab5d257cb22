"""Networks by name, what to train of them, and what came out. Plain values: no torch.

All choices among records look at validation accuracies only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from tamnas.config.sections import BASELINES, TrainingPlan
from tamnas.errors import InputError
from tamnas.files import read_json
from tamnas.space.architecture import Architecture

# Controls that differ from what they stand beside in the architecture alone.
OTHER_NETWORKS = ("random_networks", "lego_reversed", "lego_uniform", "lego_random")


@dataclass(frozen=True)
class NetworkSpec:
    """A network by name: a subnet's architecture, or a hand-made network (`baseline`)."""

    id: str
    architecture: Architecture | None = None
    baseline: str | None = None

    def plain(self) -> dict:
        arch = self.architecture.plain() if self.architecture else None
        return {"id": self.id, "architecture": arch, "baseline": self.baseline}

    @classmethod
    def from_plain(cls, plain: Mapping) -> Self:
        """Raises InputError for what is no network, or an id that is no plain file name."""
        if not isinstance(plain, Mapping) or not {"id", "architecture", "baseline"} <= set(plain):
            raise InputError(f"network {plain!r:.80}: needs id, architecture and baseline")
        arch = plain["architecture"]
        if Path(str(plain["id"])).name != plain["id"]:
            raise InputError(f"network id {plain['id']!r:.80}: must be a plain name, without folders")
        network = cls(plain["id"], None if arch is None else Architecture.from_plain(arch), plain["baseline"])
        if (network.architecture is None) == (network.baseline is None):
            raise InputError(f"network {network.id}: needs an architecture or a baseline, and not both")
        if network.baseline not in (None, *BASELINES):
            raise InputError(
                f"network {network.id}: baseline {network.baseline!r:.80}; allowed: {', '.join(BASELINES)}"
            )
        return network

    @property
    def identity(self) -> str:
        """What random numbers derive from: the network itself, not its place in a list."""
        return str(self.architecture) if self.architecture else self.baseline


@dataclass(frozen=True)
class Label:
    """Of a control (`tamnas.controls`): its name, the kind and id of what it stands beside, its training seed."""

    control: str
    kind: str
    of: str
    seed: int


@dataclass(frozen=True)
class Start:
    """Weights to start from: the tensors `<id>.<name>` of a file."""

    path: Path
    id: str


@dataclass(frozen=True)
class Job:
    """A network to train; `key` opens all its random keys. Without a `start` its weights are fresh.

    `folder`: below the checkpoints of its stage, for a training that their key leaves out.
    """

    network: NetworkSpec
    training: TrainingPlan
    key: tuple
    start: Start | None = None
    label: Label | None = None
    folder: str = ""


@dataclass(frozen=True)
class Score:
    """Validation accuracies in [0, 1] after an epoch."""

    epoch: int
    clean: float
    robust: float


@dataclass(frozen=True)
class Record:
    """A trained network: its size, and its scores with the weights of the last epoch and of the most robust one."""

    network: NetworkSpec
    parameters: int
    epochs: int
    last: Score
    best: Score
    label: Label | None = None

    @property
    def id(self) -> str:
        return self.network.id

    def score(self, weights: str) -> Score:
        """With `weights` "last" or "best"."""
        return {"last": self.last, "best": self.best}[weights]

    def plain(self) -> dict:
        """JSON-able."""
        scores = {"last": vars(self.last), "best": vars(self.best)}
        label = vars(self.label) if self.label else {}
        return {**self.network.plain(), **label, "parameters": self.parameters, "epochs": self.epochs, **scores}

    @classmethod
    def from_plain(cls, plain: Mapping, source: Path | str) -> Self:
        """The inverse of `plain`. Raises InputError naming its `source` and what is missing or wrong."""
        try:
            label = _taken(Label, plain) if "control" in plain else None
            last, best = (_taken(Score, plain[name]) for name in ("last", "best"))
            return cls(NetworkSpec.from_plain(plain), plain["parameters"], plain["epochs"], last, best, label)
        except InputError as error:
            raise InputError(f"{source}: record of a trained network: {error}") from None
        except (KeyError, TypeError) as error:
            raise InputError(f"{source}: record of a trained network: {error}: missing or of a wrong type") from None


def _taken(kind: type, plain: Mapping) -> Any:
    """A `kind` from what `plain` holds for each of its fields."""
    return kind(**{field.name: plain[field.name] for field in fields(kind)})


def merit(record: Record, weights: str) -> tuple[float, float, int]:
    """What a row's representative has most of: robust validation accuracy, then clean, then the fewest parameters."""
    score = record.score(weights)
    return score.robust, score.clean, -record.parameters


def best(records: Sequence[Record], weights: str) -> Record:
    """A row's representative."""
    return max(records, key=lambda record: merit(record, weights))


def read_records(path: Path) -> list[Record]:
    """Of a stage's validation.json. Raises InputError."""
    return [Record.from_plain(plain, path) for plain in read_json(path)["networks"]]
