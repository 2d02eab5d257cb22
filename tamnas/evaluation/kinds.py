"""What the evaluate stages evaluate. Apart from `grid`, because a stage without networks needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from tamnas.errors import InputError


@dataclass(frozen=True)
class Kind:
    """What an evaluate stage evaluates: the stage that trains it, what it is, and which networks are final.

    Final networks (`all`, the `best` by validation, of controls those `beside` a final network, or `none`) get the
    further attacks of Table X and `eval.attacks` and the checks of the attack.
    """

    trained_by: str
    text: str
    per_row: bool
    final: str
    may_be_empty: bool = False

    @property
    def folder(self) -> str:
        """Of the weights, below that of the row or dataset."""
        return self.trained_by.removesuffix("_pooled")


KINDS = {
    "scratch": Kind("retrain_scratch", "networks trained from scratch", True, "best"),
    "finetune": Kind("retrain_finetune", "fine-tuned networks", True, "none"),
    "legonet": Kind("legonet", "Lego-Net", True, "all"),
    "legonet_pooled": Kind("legonet_pooled", "pooled Lego-Net", False, "all", may_be_empty=True),
    "baselines": Kind("baselines", "hand-made networks", False, "all", may_be_empty=True),
    "controls": Kind("controls", "controls", True, "beside", may_be_empty=True),
    "controls_pooled": Kind("controls_pooled", "controls of the pooled Lego-Net", False, "beside", may_be_empty=True),
}


def seed_folders(kind: str, trained: Path, seed: int) -> dict[int, Path]:
    """Where the weights of each training seed lie: in `trained` itself, or in a folder for each seed.

    Raises InputError if there is no such folder, or none in it and there must be.
    """
    if not trained.is_dir():
        raise InputError(f"{trained}: is missing; `dvc repro` makes what a stage needs")
    folders = {int(path.name.removeprefix("seed-")): path for path in trained.glob("seed-*")}
    folders |= {seed: trained} if any(trained.glob("*.safetensors")) else {}
    if not folders and not KINDS[kind].may_be_empty:
        raise InputError(f"{trained}: holds no trained network; `dvc repro` makes them")
    return dict(sorted(folders.items()))
