"""The `compute` section: where work runs. Read when a stage starts; in no plan, no params
dependency and no checkpoint key, so that changing it re-runs nothing.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tamnas.config.fields import Section, read_yaml, validated
from tamnas.errors import InputError


class ComputeParams(Section):
    """`engine` inline runs jobs in the stage's own process; `workers`: at most 1024; at most one checkpoint in
    `checkpoint_seconds`.

    `graphs`: on CUDA, capture a network's training step once and replay it. The rest is for `engine` ray
    (`tamnas.pipeline.ray_jobs`): the cluster's `address`, what of a machine one job takes, and how often a job whose
    worker died is tried again.
    """

    engine: Literal["inline", "processes", "ray"] = "processes"
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    graphs: bool = True
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0
    address: Annotated[str, Field(pattern=r"^(auto|[^/\s]+:\d+)$")] | None = None
    gpus_per_job: Annotated[float, Field(ge=0, le=1)] = 0.0
    cpus_per_job: Annotated[float, Field(gt=0, le=1024)] = 1.0
    max_retries: Annotated[int, Field(ge=0, le=1000)] = 3

    @model_validator(mode="after")
    def _check(self):
        if self.engine == "ray" and ":" in self.device:
            raise ValueError(f"device is {self.device!r}; allowed for ray, which gives each job a GPU: auto, cpu, cuda")
        if self.engine == "ray" and self.device == "cuda" and not self.gpus_per_job:
            raise ValueError("gpus_per_job is 0; allowed for ray on the device cuda: above 0, at most 1")
        return self


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
    if compute.engine == "ray" and find_spec("ray") is None:
        raise InputError(f"{path}: compute.engine is 'ray', which is not installed: pip install '.[cluster]'")
    return compute.model_copy(update={"workers": max(1, compute.workers // _sharing)})
