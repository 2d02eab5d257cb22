"""What the evaluate stages evaluate. Apart from `grid`, because a stage without networks needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from tamnas.errors import InputError


@dataclass(frozen=True)
class Kind:
    """What an evaluate stage evaluates: its weights' folder, and which networks are final.

    Final networks (`all`, the `best` by validation, repeats with other `seeds`, or `none`) get the
    extra cells of Table X and the checks of the attack.
    """

    folder: str
    per_row: bool
    final: str


KINDS = {
    "scratch": Kind("retrain_scratch", True, "best"),
    "finetune": Kind("retrain_finetune", True, "none"),
    "legonet": Kind("legonet", True, "all"),
    "legonet_pooled": Kind("legonet", False, "all"),
    "baselines": Kind("baselines", False, "all"),
    "controls": Kind("controls", True, "seeds"),
    "controls_pooled": Kind("controls", False, "seeds"),
}


def seed_folders(trained: Path, seed: int) -> dict[int, Path]:
    """Where the weights of each training seed lie: in `trained` itself, or in a folder for each seed.

    Raises InputError if there is no such folder.
    """
    if not trained.is_dir():
        raise InputError(f"{trained}: is missing; `dvc repro` makes what a stage needs")
    found = {int(path.name.removeprefix("seed-")): path for path in trained.glob("seed-*")}
    found |= {seed: trained} if any(trained.glob("*.safetensors")) else {}
    return dict(sorted(found.items()))
