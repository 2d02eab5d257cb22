"""The stages in order, in one process, without DVC: for machines that have torch and no DVC.

    python -m tamnas.pipeline.runner [--until STAGE] [--only STAGE ...] [--checkpoints FOLDER]
                            [--deadline SECONDS|TIME [--reserve SECONDS]] [--pack FOLDER]

Same stage functions, same files, same bits as `dvc repro`; every stage runs (what is finished
is picked up from the checkpoints). Reads params.yaml; the working directory is the root of all
paths. Before a deadline training stops with a checkpoint, what is trained is evaluated, the
reports are made and the results packed; the same command goes on from there. docs/gpu.md has
whole commands.
"""

import importlib
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from tamnas.config.params import Params
from tamnas.config.resolve import load_params
from tamnas.errors import DeadlineError, DivergenceError, InputError
from tamnas.pipeline.deadline import set_deadline
from tamnas.pipeline.jobs import kept_workers, release_gpu_memory
from tamnas.pipeline.paths import results
from tamnas.pipeline.stage import one_line_errors
from tamnas.pipeline.store import VARIABLE as CHECKPOINTS

log = logging.getLogger(__name__)

# (stage as in dvc.yaml, script, leading arguments, per "row", "dataset" or "run"), in an order
# that respects dvc.yaml's dependencies; a test compares the two.
STAGES: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("fingerprint", "fingerprint", (), "run"),
    ("plan", "plan", (), "run"),
    ("prepare", "prepare", (), "dataset"),
    ("supernet_block", "supernet", ("block",), "row"),
    ("supernet_joint", "supernet", ("joint",), "row"),
    ("search", "search", (), "row"),
    ("random_search", "random_search", (), "row"),
    ("select", "start_points", (), "row"),
    ("retrain_scratch", "retrain", ("scratch",), "row"),
    ("retrain_finetune", "retrain", ("finetune",), "row"),
    ("legonet", "legonet", ("row",), "row"),
    ("legonet_pooled", "legonet", ("pooled",), "dataset"),
    ("baselines", "baselines", (), "dataset"),
    ("controls", "controls", ("row",), "row"),
    ("controls_pooled", "controls", ("pooled",), "dataset"),
    ("evaluate_scratch", "evaluate", ("scratch",), "row"),
    ("evaluate_finetune", "evaluate", ("finetune",), "row"),
    ("evaluate_legonet", "evaluate", ("legonet",), "row"),
    ("evaluate_legonet_pooled", "evaluate", ("legonet_pooled",), "dataset"),
    ("evaluate_baselines", "evaluate", ("baselines",), "dataset"),
    ("evaluate_controls", "evaluate", ("controls",), "row"),
    ("evaluate_controls_pooled", "evaluate", ("controls_pooled",), "dataset"),
    ("tables", "tables", (), "run"),
)
NAMES = tuple(stage for stage, *_ in STAGES)

# Whose outputs a stage reads, beside the data: without them it is skipped. `tables` takes what there is.
NEEDS: dict[str, tuple[str, ...]] = {
    "supernet_joint": ("supernet_block",),
    "search": ("supernet_joint",),
    "select": ("search",),
    "retrain_scratch": ("select",),
    "retrain_finetune": ("select",),
    "legonet": ("retrain_scratch",),
    "legonet_pooled": ("retrain_scratch",),
    "evaluate_scratch": ("retrain_scratch",),
    "evaluate_finetune": ("retrain_finetune",),
    "evaluate_legonet": ("legonet",),
    "evaluate_legonet_pooled": ("legonet_pooled",),
    "evaluate_baselines": ("baselines",),
    "random_search": ("supernet_joint", "search"),
    "controls": ("select", "retrain_scratch", "legonet"),
    "controls_pooled": ("legonet_pooled",),
    "evaluate_controls": ("controls",),
    "evaluate_controls_pooled": ("controls_pooled",),
}


@dataclass(frozen=True)
class Call:
    """One stage instance: `name` as DVC writes it, how to call it, and the instances whose outputs it needs."""

    name: str
    script: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    results: Path | None = None

    @property
    def stage(self) -> str:
        return self.name.partition("@")[0]

    def __call__(self) -> None:
        importlib.import_module(f"stages.{self.script}").run(*self.arguments)


def calls(params: Params) -> Iterator[Call]:
    """Every stage instance of a run, in an order in which inputs come first."""
    rows = {name: row.dataset for name, row in params.run.rows.items()}
    instances = {"run": [None], "dataset": params.run.datasets, "row": list(rows)}
    kinds = {stage: per for stage, *_, per in STAGES}
    for stage, script, arguments, per in STAGES:
        for instance in instances[per]:
            if instance is None:
                yield Call(stage, script, arguments)
                continue
            needs = [
                f"{need}@{other}"
                for need in NEEDS.get(stage, ())
                for other in instances[kinds[need]]
                if other == instance or rows.get(other) == instance
            ]
            folder = results(rows.get(instance, instance), stage, instance if per == "row" else None)
            yield Call(f"{stage}@{instance}", script, (*arguments, instance), tuple(needs), folder)


@dataclass(frozen=True)
class Limits:
    """When what must end, in seconds since 1970: training before evaluation, evaluation before the reports."""

    end: float
    reserve: float

    def of(self, stage: str) -> float:
        return self.end - (self.reserve / 4 if stage.startswith("evaluate") else self.reserve)


def run(
    params_path: str = "params.yaml",
    until: str | None = None,
    only: Collection[str] = (),
    limits: Limits | None = None,
) -> list[str]:
    """Run everything, or what `until` and `only` leave. Returns a line per stage instance that is not finished.

    `until` is a stage, `only` holds stages; plans are always written. Results that a stage left
    earlier are removed before it runs or is skipped, as DVC does. Raises InputError.
    """
    wanted = set(NAMES[: NAMES.index(until) + 1] if until else NAMES) & set(only or NAMES) | {"plan"}
    unfinished: list[str] = []
    absent: set[str] = set()  # instances without valid outputs
    training_is_over = False
    with kept_workers():
        for call in calls(load_params(params_path)):
            if call.stage not in wanted:
                continue
            if call.results is not None:
                shutil.rmtree(call.results, ignore_errors=True)
            lacking = [need for need in call.needs if need in absent]
            if lacking:
                _note(unfinished, f"{call.name}: skipped, it needs {', '.join(lacking)}")
                absent.add(call.name)
                continue
            if limits is not None and call.stage not in ("fingerprint", "plan", "prepare", "tables"):
                is_training = not call.stage.startswith("evaluate")
                set_deadline(time.time() if is_training and training_is_over else limits.of(call.stage))
            log.info("stage %s", call.name)
            try:
                call()
            except DeadlineError as stop:
                _note(unfinished, f"{call.name}: {stop}")
                training_is_over = True
                if not stop.partial:
                    absent.add(call.name)
            except DivergenceError as error:  # other rows and stages are not lost with this one
                _note(unfinished, f"{call.name}: training diverged: {error}")
                absent.add(call.name)
            finally:
                set_deadline(None)
                release_gpu_memory()
    return unfinished


def _note(lines: list[str], line: str) -> None:
    lines.append(line)
    log.warning("stage %s", line)


def parse_deadline(text: str, now: float) -> float:
    """Seconds since 1970 from seconds after `now` or from an ISO time (local, if it has no zone). Raises InputError."""
    try:
        moment = now + float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text).timestamp()
        except ValueError:
            moment = float("nan")
    if not now < moment < float("inf"):
        raise InputError(
            f"--deadline is {text!r}; allowed: seconds from now, or a time to come such as 2030-01-31T14:30"
        )
    return moment


def _limits(deadline: str | None, reserve: float | None, started: float) -> Limits | None:
    if deadline is None:
        if reserve is not None:
            raise InputError("--reserve: is a part of --deadline, which is missing")
        return None
    end = parse_deadline(deadline, started)
    reserve = (end - started) / 5 if reserve is None else reserve
    if not 0 <= reserve < end - started:
        raise InputError(
            f"--reserve is {reserve:g}; allowed: 0 to less than the {end - started:.0f} s until the deadline"
        )
    return Limits(end, reserve)


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--until", metavar="STAGE", type=click.Choice(NAMES), help="The last stage to run.")
@click.option("--only", metavar="STAGE", type=click.Choice(NAMES), multiple=True, help="Run this; again for others.")
@click.option("--deadline", metavar="SECONDS|TIME", help="Be done by then: in so many seconds, or at an ISO time.")
@click.option("--reserve", type=float, help="Seconds of it for evaluation and reports; a fifth if not given.")
@click.option("--checkpoints", type=click.Path(file_okay=False), help="Their folder; .checkpoints if not given.")
@click.option("--pack", "folder", type=click.Path(file_okay=False), help="Pack the results into this folder.")
@click.option("--pack-checkpoints", is_flag=True, help="Pack checkpoints too, the newest first, where they fit.")
@click.option(
    "--pack-mib", type=click.IntRange(1, 112), default=64, show_default=True, help="Size of the pack at most."
)
@click.option("--commit", help="What the pack says was run; git's HEAD if not given.")
@one_line_errors
def main(until, only, deadline, reserve, checkpoints, folder, pack_checkpoints, pack_mib, commit) -> None:
    started = time.time()
    limits = _limits(deadline, reserve, started)
    if pack_checkpoints and not folder:
        raise InputError("--pack-checkpoints: needs --pack")
    if checkpoints:
        os.environ[CHECKPOINTS] = checkpoints
    load_params()  # bad parameters answer before folders are made
    unfinished = ["the run broke off"]
    try:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
        unfinished = run(until=until, only=only, limits=limits)
    finally:
        if folder:
            from tamnas.pipeline.pack import about, pack

            pack(Path(folder), about(unfinished, time.time() - started, commit), pack_mib, pack_checkpoints)
    if unfinished:
        log.warning("not finished:\n%s", "\n".join(f"  {line}" for line in unfinished))
        if any("training diverged" in line for line in unfinished):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
