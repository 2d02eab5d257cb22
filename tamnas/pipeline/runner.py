"""The stages in order, one by one or beside each other, without DVC: for machines that have torch and no DVC.

    tamnas run [--until STAGE] [--only STAGE ...] [--parallel N] [--checkpoints FOLDER]
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
import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import click

from tamnas.config.plan import STUDY
from tamnas.config.resolve import load_params
from tamnas.errors import DeadlineError, DivergenceError, InputError, WorkerError
from tamnas.files import remove
from tamnas.pipeline.code import code_digest
from tamnas.pipeline.command import help_of, one_line_errors
from tamnas.pipeline.deadline import set_deadline
from tamnas.pipeline.jobs import release_gpu_memory
from tamnas.pipeline.lanes import lanes
from tamnas.pipeline.stages import Instance, instances, needs, order_of, stages
from tamnas.pipeline.store import VARIABLE as CHECKPOINTS
from tamnas.pipeline.store import locked

log = logging.getLogger(__name__)

STAGE = click.Choice(list(stages()))
KILLED = "a stage's process was killed (out of memory?); run again to go on, with a smaller --parallel perhaps"


@dataclass(frozen=True)
class Limits:
    """When what must end, in seconds since 1970: training before evaluation, evaluation before the reports."""

    end: float
    reserve: float

    def of(self, stage: str, training_is_over: bool = False) -> float:
        if stage.startswith("evaluate"):
            return self.end - self.reserve / 4
        return time.time() if training_is_over else self.end - self.reserve


@dataclass
class Fates:
    """What became of a run's stage instances that did not finish, and what this costs others."""

    unfinished: list[str] = field(default_factory=list)  # a line for each
    absent: list[Instance] = field(default_factory=list)  # without valid outputs
    errors: list[Exception] = field(default_factory=list)
    behind_errors: list[Instance] = field(default_factory=list)  # what failed, and what needs it
    diverged: bool = False
    training_is_over: bool = False

    def skips(self, instance: Instance) -> bool:
        """Whether it lacks an input. The reports take what there is, unless something failed."""
        behind = any(needs(instance, other) for other in self.behind_errors)
        lacking = [other.name for other in [*self.absent, *self.behind_errors] if needs(instance, other)]
        skipped = behind or (bool(lacking) and instance.stage.per != "run")
        if skipped:
            self._note(instance, f"skipped, it needs {', '.join(lacking)}")
            (self.behind_errors if behind else self.absent).append(instance)
        return skipped

    def settle(self, instance: Instance, error: BaseException | None) -> None:
        """How its call ended. Raises WorkerError if its process was killed."""
        match error:
            case None:
                return
            case DeadlineError():
                self._note(instance, str(error))
                self.training_is_over |= not instance.stage.name.startswith("evaluate")
                if not error.partial:
                    self.absent.append(instance)
            case DivergenceError():
                self._note(instance, f"training diverged: {error}")
                self.absent.append(instance)
                self.diverged = True
            case BrokenProcessPool() | SystemExit():  # by SIGKILL or SIGTERM
                raise WorkerError(KILLED) from None
            case _:
                self._note(instance, f"failed: {error}")
                self.errors.append(error)
                self.behind_errors.append(instance)

    def _note(self, instance: Instance, what: str) -> None:
        self.unfinished.append(f"{instance.name}: {what}")
        log.warning("stage %s", self.unfinished[-1])


def run(until: str | None = None, only: Collection[str] = (), limits: Limits | None = None, parallel: int = 1) -> Fates:
    """Run everything, or what `until` and `only` leave.

    `until` is a stage, `only` holds stages; plans are always written. `parallel` stage instances run at once. Results
    and weights that a stage left earlier are removed before it runs or is skipped, as DVC does; so a second run of the
    working directory waits. When a stage fails, all that does not need it still runs; then its error is raised.
    """
    names = list(stages())
    wanted = set(names[: names.index(until) + 1] if until else names) & set(only or names) | {"plan"}
    params = load_params()
    planned = instances({name: row.dataset for name, row in params.run.rows.items()}, params.run.datasets)
    chosen = [instance for instance in planned if instance.stage.name in wanted]
    order, fates = order_of(chosen), Fates()
    codes = {stage.name: code_digest(stage.script) for stage in {instance.stage for instance in chosen}}
    ready: list[Instance] = []
    running: dict[Future, Instance] = {}
    with locked("tamnas", "run", what="one here"), lanes(parallel) as executor:
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=chosen.index)
            while ready and len(running) < parallel:
                instance = ready.pop(0)
                _remove_outputs(instance)
                if fates.skips(instance):
                    order.done(instance)
                    continue
                log.info("stage %s", instance.name)
                moment = limits and limits.of(instance.stage.name, fates.training_is_over)
                code = codes[instance.stage.name]
                running[executor.submit(_call_until, instance.name, instance, code, moment)] = instance
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                instance = running.pop(future)
                fates.settle(instance, future.exception())
                order.done(instance)
    if fates.errors:
        raise fates.errors[0]
    return fates


def _remove_outputs(instance: Instance) -> None:
    for out in instance.outs:
        if out.parts[0] in ("results", "runs", "data"):
            remove(out)


def _call_until(instance: Instance, code: str, moment: float | None) -> None:
    """Raises InputError if its code is not what it was when the run began: the process may have imported that."""
    if code_digest(instance.stage.script) != code:
        raise InputError(f"{instance.stage.script}: its code has changed since the run began; run again to go on")
    set_deadline(moment)
    try:
        call(instance)
    finally:
        set_deadline(None)
        release_gpu_memory()


def call(instance: Instance) -> None:
    """Run a stage instance in this process."""
    importlib.import_module(f"stages.{instance.stage.script.stem}").main.run(*instance.arguments)


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


@click.command(help=help_of(__doc__))
@click.option("--until", metavar="STAGE", type=STAGE, help="The last stage to run.")
@click.option("--only", metavar="STAGE", type=STAGE, multiple=True, help="Run this stage alone; again for others.")
@click.option("--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Number of stages at once.")
@click.option("--deadline", metavar="SECONDS|TIME", help="Be done by then: in so many seconds, or at an ISO time.")
@click.option("--reserve", type=float, help="Seconds of it for evaluation and reports; a fifth if not given.")
@click.option("--checkpoints", type=click.Path(file_okay=False), help="Their folder; .checkpoints if not given.")
@click.option("--pack", "folder", type=click.Path(file_okay=False), help="Pack the results into this folder.")
@click.option("--pack-checkpoints", is_flag=True, help="Pack checkpoints too, the newest first, where they fit.")
@click.option("--pack-mib", type=click.IntRange(1, 1024), default=1024, show_default=True, help="Its size at most.")
@click.option("--commit", help="What the pack says was run; git's HEAD if not given.")
@one_line_errors
def main(until, only, parallel, deadline, reserve, checkpoints, folder, pack_checkpoints, pack_mib, commit) -> None:
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
        fates = run(until=until, only=only, limits=limits, parallel=parallel)
        unfinished = fates.unfinished
    finally:
        if folder and STUDY.is_file():  # else nothing has been planned
            from tamnas.pipeline.pack import about, pack

            pack(Path(folder), about(unfinished, time.time() - started, commit), pack_mib, pack_checkpoints)
    if unfinished:
        log.warning("not finished:\n%s", "\n".join(f"  {line}" for line in unfinished))
        if fates.diverged:
            raise SystemExit(1)
