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


_sharing = 1  # stages that run beside each other and share the workers


def share_workers(stages: int) -> None:
    """From now on `load_compute` gives this process its part of the workers, one at least."""
    global _sharing
    _sharing = stages


def load_compute(path: Path | str = "params.yaml") -> ComputeParams:
    """The section in `path`; defaults where there is no such file. Raises InputError."""
    if not Path(path).exists():
        return ComputeParams()
    compute = validated(ComputeParams, read_yaml(path).get("compute") or {}, f"{path}: compute")
    return compute.model_copy(update={"workers": max(1, compute.workers // _sharing)})
