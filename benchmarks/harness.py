"""What the benchmarks share: the setting they run in, fair timing, and the record they leave."""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from tamnas import SearchSpace
from tamnas.config.compute import ComputeParams
from tamnas.config.plan import RowPlan, StagePlan, row_stages
from tamnas.config.resolve import load_params, resolve_study
from tamnas.config.sections import SchedulePlan, TrainingAttackPlan
from tamnas.data.loader import Split, load_split
from tamnas.data.prepare import prepare
from tamnas.errors import InputError
from tamnas.networks.subnet import Subnet
from tamnas.pipeline import device
from tamnas.pipeline.paths import prepared
from tamnas.seeding import numpy_generator, torch_generator
from tamnas.space.architecture import Architecture
from tamnas.training.loop import Single, train

# A recipe without what the steps it is compared with do not do.
PLAIN = {"clip_norm": None, "label_smoothing": 0.0, "ema": None, "awp": None}
# The step that the targets speak of.
ATTACK = TrainingAttackPlan(eps="8/255", step_size="2/255", m=5, n=3)


@dataclass(frozen=True)
class Setting:
    """A row of params.yaml with its data, which is prepared in passing where it is needed and not there yet."""

    plan: RowPlan
    space: SearchSpace
    compute: ComputeParams
    runtime: device.Runtime

    @cached_property
    def data(self) -> Path:
        """The row's prepared images. Raises InputError where they cannot be had."""
        path = prepared(self.plan.dataset)
        if not path.exists():
            path = Path(tempfile.mkdtemp()) / f"{self.plan.dataset}.npz"
            prepare(self.plan.dataset, self.plan.data, path)
        return path

    def stage(self, name: str) -> StagePlan:
        """The plan of one of the row's stages."""
        return row_stages(self.plan)[name]

    def split(self, name: str) -> Split:
        return load_split(self.data, name, self.runtime.device)

    def geometry(self, name: str) -> tuple[SearchSpace, int]:
        """Space and image size of the `row`, or of the `paper`."""
        return (SearchSpace.paper(), 32) if name == "paper" else (self.space, self.plan.data.size)

    def architecture(self, number: int) -> Architecture:
        return self.space.sample(numpy_generator("benchmark", number))

    def network(self, number: int, seed: int = 0) -> Subnet:
        """Architecture `number`, with the weights of a `seed`."""
        model = Subnet(self.space, self.architecture(number), torch_generator("benchmark", number, "weights", seed))
        return model.to(self.runtime.device, memory_format=device.MEMORY_FORMAT)


def setting(row: str | None, where: str, threads: int) -> Setting:
    """`row` of params.yaml, by default the first; on `where` (auto, cpu, cuda) with so many CPU threads."""
    rows = resolve_study(load_params()).rows
    if row and row not in rows:
        raise InputError(f"--row is {row!r}; allowed: {', '.join(rows)}")
    plan = rows[row] if row else next(iter(rows.values()))
    compute = ComputeParams(device=where)
    runtime = device.start(plan.numerics.model_copy(update={"threads": threads}), compute)
    return Setting(plan, SearchSpace.from_params(plan), compute, runtime)


def trained(at: Setting, number: int, epochs: int, *, seed: int = 0, runtime: device.Runtime | None = None) -> Subnet:
    """A subnet after so many epochs of the row's own training from scratch, as `runtime` (the setting's) says."""
    model = at.network(number, seed)
    scratch = at.plan.retrain.scratch
    recipe = scratch.recipe.model_copy(update={"epochs": epochs, "schedule": SchedulePlan(kind="cosine")})
    train(
        Single(model, recipe),
        at.split("train"),
        recipe=recipe,
        attack=scratch.attack,
        augment=at.plan.data.augment,
        key=("benchmark", number, seed),
        runtime=runtime or at.runtime,
    )
    return model.eval()


def some_images(at: Setting, count: int) -> tuple[Split, str]:
    """So many images to attack: of validation if it has them, else of training; never of test."""
    for name in ("validation", "train"):
        split = at.split(name)
        if len(split) >= count or name == "train":
            return first_images(split, count), name


def first_images(split: Split, count: int) -> Split:
    """The first `count` images of `split`, or all."""
    return Split(split.images[:count], split.labels[:count], split.levels)


def random_images(count: int, size: int, classes: int, where: torch.device) -> Split:
    """So many images of noise, (count, 3, size, size); their content costs nothing."""
    generator = torch_generator("benchmark", count)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Split(images.to(where), labels.to(where), 255)


Clock = Callable[[], float]


def own_clock(where: torch.device) -> Clock:
    """For runs in this process alone: on one CPU thread the time it computes, whatever others do meanwhile."""
    return time.process_time if where.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def seconds(function: Callable[[], object], where: torch.device, clock: Clock = time.perf_counter) -> float:
    """Time of one call, with the device idle before and after."""
    if where.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    function()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def alternate(
    runs: dict[str, Callable[[], object]],
    rounds: int,
    where: torch.device,
    warm_up: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each, run in turns: a busy machine slows all of them alike.

    The first `warm_up` turns do not count; with a single round, which measures nothing, there is one at most.
    """
    warm_up = warm_up if rounds > 1 else min(warm_up, 1)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + rounds):
        for name, run in runs.items():
            value = seconds(run, where, clock)
            if turn >= warm_up:
                taken[name].append(value)
    return {name: statistics.median(values) for name, values in taken.items()}


def environment(where: torch.device, threads: int, rounds: int) -> dict:
    """What a figure was measured on, in how many turns.

    TAMNAS_COMMIT in the environment names the commit where the copy of the code has no history.
    """
    commit = os.environ.get("TAMNAS_COMMIT") or _head()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {threads} thread(s)"
    return {"device": name, "torch": torch.__version__, "commit": commit, "rounds": rounds}


def _head() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        commit = ""
    return commit or "not a git checkout"


def report(title: str, columns: list[str], rows: list[list], result: dict, out: Path | None) -> None:
    """Print a Markdown table with what it was measured on; write `result` and the table as JSON."""
    texts = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = [columns, ["---"] * len(columns), *texts]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    print(f"{title}\n\n{table}\n", flush=True)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"title": title, "table": table, **result}, indent=1) + "\n")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
