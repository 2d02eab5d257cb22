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
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from tamnas.config.resolve import load_params
from tamnas.errors import DeadlineError, DivergenceError, InputError
from tamnas.pipeline.command import help_of, one_line_errors
from tamnas.pipeline.deadline import set_deadline
from tamnas.pipeline.jobs import kept_workers, release_gpu_memory
from tamnas.pipeline.stages import Instance, instances, needs, stages
from tamnas.pipeline.store import VARIABLE as CHECKPOINTS

log = logging.getLogger(__name__)

STAGE = click.Choice(list(stages()))
UNTIMED = ("fingerprint", "plan", "source", "prepare", "tables")  # stages that no deadline stops


@dataclass(frozen=True)
class Limits:
    """When what must end, in seconds since 1970: training before evaluation, evaluation before the reports."""

    end: float
    reserve: float

    def of(self, stage: str) -> float:
        return self.end - (self.reserve / 4 if stage.startswith("evaluate") else self.reserve)


def run(until: str | None = None, only: Collection[str] = (), limits: Limits | None = None) -> list[str]:
    """Run everything, or what `until` and `only` leave. Returns a line per stage instance that is not finished.

    `until` is a stage, `only` holds stages; plans are always written. Results that a stage left
    earlier are removed before it runs or is skipped, as DVC does. Raises InputError.
    """
    names = list(stages())
    wanted = set(names[: names.index(until) + 1] if until else names) & set(only or names) | {"plan"}
    params = load_params()
    planned = instances({name: row.dataset for name, row in params.run.rows.items()}, params.run.datasets)
    unfinished: list[str] = []
    absent: list[Instance] = []  # without valid outputs
    training_is_over = False
    with kept_workers():
        for instance in planned:
            if instance.stage.name not in wanted:
                continue
            if instance.results is not None:
                shutil.rmtree(instance.results, ignore_errors=True)
            lacking = [other.name for other in absent if needs(instance, other)]
            if lacking and instance.stage.per != "run":  # the reports take what there is
                _note(unfinished, f"{instance.name}: skipped, it needs {', '.join(lacking)}")
                absent.append(instance)
                continue
            if limits is not None and instance.stage.name not in UNTIMED:
                is_training = not instance.stage.name.startswith("evaluate")
                set_deadline(time.time() if is_training and training_is_over else limits.of(instance.stage.name))
            log.info("stage %s", instance.name)
            try:
                call(instance)
            except DeadlineError as stop:
                _note(unfinished, f"{instance.name}: {stop}")
                training_is_over = True
                if not stop.partial:
                    absent.append(instance)
            except DivergenceError as error:  # other rows and stages are not lost with this one
                _note(unfinished, f"{instance.name}: training diverged: {error}")
                absent.append(instance)
            finally:
                set_deadline(None)
                release_gpu_memory()
    return unfinished


def call(instance: Instance) -> None:
    """Run a stage instance in this process."""
    importlib.import_module(f"stages.{instance.stage.script.stem}").main.run(*instance.arguments)


def _note(lines: list[str], line: str) -> None:
    lines.append(line)
    log.warning("stage %s", line)


def parse_deadline(text: str, now: float) -> float:
    """Seconds since 1970 from seconds after `now` or from an ISO time (local, if it has no zone). Raises InputError."""
    moment = float("nan")
    with suppress(ValueError):
        moment = datetime.fromisoformat(text).timestamp()
    with suppress(ValueError):
        moment = now + float(text)
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


@click.command(help=help_of(run))
@click.option("--until", metavar="STAGE", type=STAGE, help="The last stage to run.")
@click.option("--only", metavar="STAGE", type=STAGE, multiple=True, help="Run this; again for others.")
@click.option("--deadline", metavar="SECONDS|TIME", help="Be done by then: in so many seconds, or at an ISO time.")
@click.option("--reserve", type=float, help="Seconds of it for evaluation and reports; a fifth if not given.")
@click.option("--checkpoints", type=click.Path(file_okay=False), help="Their folder; .checkpoints if not given.")
@click.option("--pack", "folder", type=click.Path(file_okay=False), help="Pack the results into this folder.")
@click.option("--pack-checkpoints", is_flag=True, help="Pack checkpoints too, the newest first, where they fit.")
@click.option("--pack-mib", type=click.IntRange(1, 1024), default=1024, show_default=True, help="Files in it at most.")
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
