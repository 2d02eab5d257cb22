"""The final grid: trained networks under PGD on test images (paper, Section IV; Tables II to X)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from tamnas import device
from tamnas.attack_trace import attack_trace
from tamnas.compute import Compute
from tamnas.data import Split, load_split
from tamnas.errors import InputError
from tamnas.evaluation import accuracy, evaluate_grid, grid_cells
from tamnas.fields import FORMAT, format_fraction
from tamnas.health import trace_signs
from tamnas.jobs import Jobs
from tamnas.plan import Eval, Numerics
from tamnas.progress import Progress
from tamnas.retraining import NetworkSpec, load_network, trained_record
from tamnas.seeding import torch_generator
from tamnas.space import SearchSpace
from tamnas.stage import write_text
from tamnas.statistics import best
from tamnas.store import seal, unseal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """What an evaluate stage evaluates: its weights' folder, and which networks are final.

    Final networks (all, or the best by validation, or none) get the extra cells of Table X.
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
}


@dataclass(frozen=True)
class GridTask:
    """How to evaluate; picklable. `folder` keeps what is finished."""

    key: tuple
    space: SearchSpace
    data: Path
    plan: Eval
    numerics: Numerics
    compute: Compute
    folder: Path

    def context(self) -> "GridContext":
        runtime = device.start(self.numerics, self.compute.device)
        return GridContext(self, runtime, load_split(self.data, "test", runtime.device))


@dataclass(frozen=True)
class GridContext:
    task: GridTask
    runtime: device.Runtime
    test: Split


def evaluate_network(spec: dict, context: GridContext) -> list[dict]:
    """A job: one row per cell of one network; the clean accuracy is the cell of eps 0."""
    task, path = context.task, Path(spec["weights"])
    finished = task.folder / f"{path.stem}.json"
    if finished.exists():
        try:
            return unseal(finished.read_bytes().decode())["cells"]
        except ValueError as error:
            log.warning("%s: is damaged (%s); evaluating its network again", finished, error)
    model, record = load_network(task.space, path, task.plan.weights, context.runtime)
    key = (*task.key, NetworkSpec.from_plain(record).identity)
    cells = [(None, 0, accuracy(model, context.test))]
    cells += evaluate_grid(model, context.test, task.plan, grid_cells(task.plan, spec["final"]), key)
    rows = [
        {
            "network": record["id"], "parameters": record["parameters"], "weights": task.plan.weights,
            "epoch": record[task.plan.weights]["epoch"], "final": spec["final"],
            "eps": format_fraction(eps) if eps else "0/255", "steps": steps, "success": task.plan.success,
            "images": len(context.test), "accuracy": share,
        }
        for eps, steps, share in cells
    ]  # fmt: skip
    write_text(finished, seal({"cells": rows, "attack": _attack_rows(record["id"], model, context)}))
    return rows


def _attack_rows(network: str, model: nn.Module, context: "GridContext") -> list[dict]:
    """The strongest attack of the grid, step by step (`tamnas.attack_trace`), to see whether it attacks at all."""
    plan, eps = context.task.plan, max(context.task.plan.eps)
    rows = attack_trace(
        model, context.test, eps=float(eps), step_size=float(eps) / plan.step_divisor, steps=max(plan.steps),
        generator=torch_generator(*context.task.key, "trace", str(eps), device=context.test.images.device),
    )  # fmt: skip
    return [{"network": network, "eps": format_fraction(eps), **row} for row in rows]


def attack_rows(task: GridTask, trained: Path) -> list[dict]:
    """The traces of all networks that `evaluate_kind` evaluated; logs what they say against a network."""
    rows = []
    for path in sorted(trained.glob("*.safetensors")):
        own = unseal((task.folder / f"{path.stem}.json").read_text())["attack"]
        for line in trace_signs(own):
            log.warning("warning: %s: %s", own[0]["network"], line)
        rows += own
    return rows


def evaluate_kind(task: GridTask, kind: str, trained: Path, what: str) -> tuple[list[dict], dict]:
    """All networks in the folder `trained`: (rows of every cell, metrics per network)."""
    paths = sorted(trained.glob("*.safetensors"))
    records = [trained_record(path) for path in paths]
    if not records:
        raise InputError(f"{trained}: holds no trained network; `dvc repro` makes them")
    final = {"all": {r["id"] for r in records}, "none": set()}.get(KINDS[kind].final)
    if final is None:
        final = {best(records, task.plan.weights)["id"]}
    specs = [
        {"weights": str(path), "final": record["id"] in final} for path, record in zip(paths, records, strict=True)
    ]
    found: dict[int, list[dict]] = {}
    with Jobs(partial(GridTask.context, task), task.compute) as jobs, Progress(what, len(specs)) as progress:
        for index, rows in jobs.run_jobs(evaluate_network, specs):
            found[index] = rows
            progress.step(network=rows[0]["network"], clean=rows[0]["accuracy"])
    rows = [row for index in range(len(specs)) for row in found[index]]
    return rows, _metrics(rows)


def _metrics(rows: Sequence[dict]) -> dict:
    metrics: dict[str, dict] = {}
    for row in rows:
        name = "clean" if row["steps"] == 0 else f"pgd{row['steps']}_{row['eps'].replace('/', '_')}"
        metrics.setdefault(row["network"], {})[name] = row["accuracy"]
    return {"format": FORMAT, "networks": metrics}
