"""The `compute` section: where work runs. Read when a stage starts; in no plan, no params
dependency and no checkpoint key, so that changing it re-runs nothing.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tamnas.config.fields import Section, read_yaml, validated


class ComputeParams(Section):
    """`engine` inline runs jobs in the stage's own process; `workers`: at most 1024; at most one checkpoint in
    `checkpoint_seconds`.

    `graphs`: on CUDA, capture a network's training step once and replay it.
    """

    engine: Literal["inline", "processes"] = "processes"
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    graphs: bool = True
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0


def load_compute(path: Path | str = "params.yaml") -> ComputeParams:
    """The section in `path`; defaults where there is no such file. Raises InputError."""
    if not Path(path).exists():
        return ComputeParams()
    return validated(ComputeParams, read_yaml(path).get("compute") or {}, f"{path}: compute")
