"""What the benchmarks share: the setting they run in, fair timing, and the record they leave."""

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tamnas import SearchSpace, device
from tamnas.compute import Compute
from tamnas.data import Split, load_split
from tamnas.data.prepare import prepare
from tamnas.errors import InputError
from tamnas.network import Subnet
from tamnas.params import load_params, resolve_all
from tamnas.plan import RowPlan, Schedule
from tamnas.seeding import numpy_generator, torch_generator
from tamnas.space import Architecture
from tamnas.stage import prepared
from tamnas.training import Single, train

# A recipe without what the steps it is compared with do not do.
PLAIN = {"clip_norm": None, "label_smoothing": 0.0, "ema": None, "awp": None}


@dataclass(frozen=True)
class Setting:
    """A row of params.yaml with its data, which is prepared in passing where it is not yet."""

    plan: RowPlan
    space: SearchSpace
    compute: Compute
    runtime: device.Runtime
    data: Path

    def split(self, name: str) -> Split:
        return load_split(self.data, name, self.runtime.device)

    def architecture(self, number: int) -> Architecture:
        return self.space.sample(numpy_generator("benchmark", number))

    def network(self, number: int) -> Subnet:
        model = Subnet(self.space, self.architecture(number), torch_generator("benchmark", number))
        return model.to(self.runtime.device, memory_format=device.MEMORY_FORMAT)


def setting(row: str | None, where: str, threads: int) -> Setting:
    """`row` of params.yaml, by default the first; on `where` (auto, cpu, cuda) with so many CPU threads."""
    rows = {name: plan for name, plan in resolve_all(load_params()).items() if isinstance(plan, RowPlan)}
    if row and row not in rows:
        raise InputError(f"--row is {row!r}; allowed: {', '.join(rows)}")
    plan = rows[row] if row else next(iter(rows.values()))
    compute = Compute(device=where)
    runtime = device.start(plan.numerics.model_copy(update={"threads": threads}), compute)
    data = prepared(plan.dataset)
    if not data.exists():
        data = Path(tempfile.mkdtemp()) / f"{plan.dataset}.npz"
        prepare(plan.dataset, plan.data, data)
    return Setting(plan, SearchSpace.from_params(plan), compute, runtime, data)


def trained(at: Setting, number: int, epochs: int) -> Subnet:
    """A subnet after so many epochs of the row's own training from scratch."""
    model = at.network(number)
    scratch = at.plan.retrain.scratch
    recipe = scratch.recipe.model_copy(update={"epochs": epochs, "schedule": Schedule(kind="cosine")})
    train(
        Single(model, recipe), at.split("train"), recipe=recipe, attack=scratch.attack, augment=at.plan.data.augment,
        key=("benchmark", number), runtime=at.runtime,
    )  # fmt: skip
    return model.eval()


def some_images(at: Setting, count: int) -> tuple[Split, str]:
    """So many images to attack: of validation if it has them, else of training; never of test."""
    for name in ("validation", "train"):
        split = at.split(name)
        if len(split) >= count or name == "train":
            images = min(count, len(split))
            return Split(split.images[:images], split.labels[:images], split.levels), name


def seconds(function: Callable[[], object], where: torch.device) -> float:
    """Wall time of one call, with the device idle before and after."""
    if where.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def alternate(
    runs: dict[str, Callable[[], object]], rounds: int, where: torch.device, warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each, run in turns: a busy machine slows all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + rounds):
        for name, run in runs.items():
            value = seconds(run, where)
            if turn >= warm_up:
                taken[name].append(value)
    return {name: statistics.median(values) for name, values in taken.items()}


def environment(where: torch.device, threads: int) -> dict:
    """What a figure was measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {threads} thread(s)"
    return {"device": name, "torch": torch.__version__, "commit": commit.stdout.strip() or "not a git checkout"}


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
