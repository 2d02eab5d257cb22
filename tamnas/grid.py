"""The final grid: trained networks under PGD on test images (paper, Section IV; Tables II to X)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tamnas import checkpoint, device
from tamnas.compute import Compute
from tamnas.data import Split, load_split
from tamnas.deadline import Pace
from tamnas.errors import DeadlineError, InputError
from tamnas.evaluation import accuracy, evaluate_grid, grid_cells
from tamnas.fields import FORMAT, format_fraction
from tamnas.jobs import Jobs
from tamnas.plan import Eval, Numerics
from tamnas.progress import Progress
from tamnas.retraining import NetworkSpec, load_network
from tamnas.space import SearchSpace
from tamnas.stage import read_json, unfinished_marks, write_json
from tamnas.statistics import best
from tamnas.store import file_digest

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
    pace: Pace = field(default_factory=Pace)


def evaluate_network(spec: dict, context: GridContext) -> list[dict] | None:
    """A job: one row per cell of one network; the clean accuracy is the cell of eps 0.

    None if another evaluation would not end before the deadline.
    """
    task, path = context.task, Path(spec["weights"])
    # Named by the weights themselves: when one more network is trained, the others are not evaluated again.
    cells = "final" if spec["final"] else "grid"
    finished = task.folder / f"{path.stem}-{file_digest(path)[:16]}-{cells}.json"
    if finished.exists():
        try:
            return read_json(finished)
        except InputError as error:
            log.warning("%s; evaluating it again", error)
    try:
        context.pace.require_time(f"evaluate {path.stem}")
    except DeadlineError:
        return None
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
    write_json(finished, rows)
    return rows


def evaluate_kind(task: GridTask, kind: str, trained: Path, what: str) -> tuple[list[dict], dict]:
    """All networks in the folder `trained`: (rows of every cell, metrics per network).

    After a deadline those that are evaluated, the metrics with `unfinished_marks`. Raises
    DeadlineError if there is none.
    """
    paths = sorted(trained.glob("*.safetensors"))
    if not trained.is_dir():
        raise InputError(f"{trained}: is missing; `dvc repro` makes what a stage needs")
    records = [checkpoint.load(path)[1]["record"] for path in paths]
    final = {"all": {r["id"] for r in records}, "none": set()}.get(KINDS[kind].final)
    if final is None:
        final = {best(records, task.plan.weights)["id"]}
    specs = [
        {"weights": str(path), "final": record["id"] in final} for path, record in zip(paths, records, strict=True)
    ]
    found: dict[int, list[dict]] = {}
    with Jobs(partial(GridTask.context, task), task.compute) as jobs, Progress(what, len(specs)) as progress:
        for index, rows in jobs.run_jobs(evaluate_network, specs):
            if rows is not None:
                found[index] = rows
                progress.step(network=rows[0]["network"], clean=rows[0]["accuracy"])
    if specs and not found:
        raise DeadlineError(f"{what}: stopped at the deadline before a network was evaluated")
    rows = [row for index in sorted(found) for row in found[index]]
    return rows, _metrics(rows, unfinished_marks(len(found), len(specs)))


def _metrics(rows: Sequence[dict], marks: dict) -> dict:
    metrics: dict[str, dict] = {}
    for row in rows:
        name = "clean" if row["steps"] == 0 else f"pgd{row['steps']}_{row['eps'].replace('/', '_')}"
        metrics.setdefault(row["network"], {})[name] = row["accuracy"]
    return {"format": FORMAT, **marks, "networks": metrics}
