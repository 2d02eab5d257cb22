"""Where stages read and write."""

from pathlib import Path

TIMES = Path("logs") / "times.csv"  # wall time of every stage that ended: when, stage, instance, seconds
DIVERGED = "diverged.json"  # in the results folder of a stage whose training diverged


def watched(dataset: str) -> Path:
    """The link to a user's own images, whose contents DVC compares."""
    return Path("source") / dataset / "files"


def prepared(dataset: str) -> Path:
    return Path("data") / f"{dataset}.npz"


def runs(name: str, kind: str) -> Path:
    """A folder or file of weights of a row or dataset (cached by DVC, not in git)."""
    return Path("runs") / name / kind


def results(dataset: str, stage: str, row: str | None = None) -> Path:
    """The folder of a stage's small results (in git): results/<dataset>/<stage>[/<row>]."""
    return Path("results") / dataset / stage / (row or "")


def seeded(folder: Path, seed: int) -> Path:
    """Results that depend on a training seed have a folder for each."""
    return folder / f"seed-{seed}"


def validation(dataset: str, stage: str, row: str | None, seed: int) -> Path:
    """The records of what a stage trained with a seed (`tamnas.records.read_records`)."""
    return seeded(results(dataset, stage, row), seed) / "validation.json"
