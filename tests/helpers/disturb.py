"""Disturbing stages: forked processes that are killed, starved of disk, doubled, and must end with the same bytes.

Stages are real processes on tiny settings (tests/helpers/tiny.py), on CPU. They are forked from this one, which has
imported everything: a kill at a random moment then hits the stage's work and not its imports. After each fault
the stage runs again; it must succeed, and all plans, data, weights, results and reports must be those of the
undisturbed run, byte for byte. Moments are random but seeded; what they hit depends on the machine's speed.
`tests/faults/matrix.py` says which faults, and counts.
"""

import contextlib
import importlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # nothing may have threads where processes are forked

from tamnas.pipeline.instructions import use_instructions

use_instructions("avx2")  # before torch is imported

import tamnas.data.prepare
import tamnas.evaluation.grid
import tamnas.legonet
import tamnas.report.build
import tamnas.search.random_search
import tamnas.training.networks
import tamnas.training.phases  # noqa: F401 - what stages import is imported before the fork
from tamnas.config.fields import read_yaml
from tamnas.pipeline.stages import Instance
from tests.helpers.tiny import dvc, environment, planned, project, smallest_params, write_params
from tests.helpers.tiny import stage as start

TREES = ("code", "plan", "source", "data", "runs", "results", "reports")
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Stage:
    """One stage instance: how to call it, how long it takes, and which files it makes."""

    name: str
    command: tuple[str, ...]
    seconds: float
    made: Files

    @property
    def checkpoints(self) -> bool:
        return self.name.partition("@")[0] not in ("fingerprint", "plan", "source", "prepare", "tables", "select")


@dataclass(frozen=True)
class Fault:
    """What was done to which stage, and what became of it: `lost` bytes, or `trouble` in words."""

    stage: str
    kind: str
    lost: int = 0
    trouble: str = ""

    @property
    def survived(self) -> bool:
        return not (self.lost or self.trouble)


def command_of(one: Instance) -> tuple[str, ...]:
    return one.stage.script.stem, *one.arguments


def _below(name: str, out: str) -> bool:
    return name == out or name.startswith(f"{out}/")


class Started:
    """A stage as a forked process; its stderr is read when it has ended."""

    def __init__(self, folder: Path, command: tuple[str, ...], file_size: int | None = None):
        self._errors, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._errors)
            _become(folder, command, write, file_size)
        os.close(write)
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float = 300) -> tuple[int, str]:
        """(exit code, stderr); a stage that hangs is killed and has code -9."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        with open(self._errors, errors="replace", closefd=True) as errors:
            return self._code, errors.read()


def _become(folder: Path, command: tuple[str, ...], errors: int, file_size: int | None) -> None:
    """In the child: be `python -m stages.<command>` in `folder`. Never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.pop("DVC_ROOT", None)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        importlib.import_module(f"stages.{command[0]}").main(list(command[1:]))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for top in TREES for path in (folder / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def lost_bytes(folder: Path, expected: Files) -> int:
    """Bytes of result files that are missing, differ, or should not be there."""
    found = tree(folder)
    return sum(
        max(len(found.get(name, b"")), len(expected.get(name, b"")), 1)
        for name in {*found, *expected}
        if found.get(name) != expected.get(name)
    )


class Harness:
    """An undisturbed run and ways to disturb copies of it."""

    def __init__(self, home: Path, seed: int):
        self.home, self.random, self.counter = home, random.Random(seed), 0
        self.base = home / "undisturbed"
        self.base.mkdir(parents=True)
        write_params(self.base, smallest_params())
        self._run()
        self.expected = tree(self.base)
        self.stages = list(self._stages())

    def _run(self) -> None:
        for one in planned(read_yaml(self.base / "params.yaml")):
            code, errors = Started(self.base, command_of(one)).wait()
            if code:
                raise SystemExit(f"the undisturbed run failed in {one.name}: {errors}")

    def _stages(self) -> Iterator[Stage]:
        times = [line.split(",") for line in (self.base / "logs" / "times.csv").read_text().splitlines()]
        seconds = {f"{stage}@{name}": float(time) for _, stage, name, time in times}
        for one in planned(read_yaml(self.base / "params.yaml")):
            outs = [str(out) for out in one.outs]
            made = {name: blob for name, blob in self.expected.items() if any(_below(name, out) for out in outs)}
            took = seconds.get(one.name) or seconds.get(f"{one.name}@run", 0.0)
            yield Stage(one.name, command_of(one), max(took, 0.05), made)

    @contextlib.contextmanager
    def copy(self, stage: Stage) -> Iterator[Path]:
        """The finished project as DVC leaves it before it runs `stage`: that stage's outputs are gone."""
        self.counter += 1
        folder = self.home / f"fault-{self.counter}"
        folder.mkdir()
        self.fill(folder, stage)
        yield folder
        shutil.rmtree(folder)

    def fill(self, folder: Path, stage: Stage) -> None:
        for name in TREES:
            if (self.base / name).exists():
                shutil.copytree(self.base / name, folder / name)
        shutil.copy(self.base / "params.yaml", folder)
        self.remove_outputs(folder, stage)

    def remove_outputs(self, folder: Path, stage: Stage) -> None:
        for name in stage.made:
            (folder / name).unlink(missing_ok=True)

    def finish(self, folder: Path, stage: Stage, kind: str, trouble: str = "", told: tuple[str, ...] = ()) -> Fault:
        """Run `stage` to its end; it must say all of `told` on stderr."""
        code, errors = Started(folder, stage.command).wait()
        if code:
            trouble = f"the next run failed with {code}: {errors[-300:]}"
        elif missing := [words for words in told if words not in errors]:
            trouble = f"the next run did not say {missing}: {errors[-300:]}"
        return Fault(stage.name, kind, lost_bytes(folder, self.expected), trouble)

    def struck(self, folder: Path, stage: Stage, how: int) -> tuple[int, str]:
        """Start `stage`, send `how` at a random moment; (exit code, stderr). Starts anew if it ended before."""
        seconds = stage.seconds
        for _ in range(20):
            started, process = time.monotonic(), Started(folder, stage.command)
            moment = self.random.uniform(0.02, 0.95) * seconds
            while process.poll() is None and time.monotonic() - started < moment:
                time.sleep(0.001)
            if process.poll() is None:
                os.kill(process.pid, how)
                code, errors = process.wait()
                if code != 0:  # else it ended while the signal was on its way
                    return code, errors
            seconds *= 0.8
            process.poll()
            self.remove_outputs(folder, stage)
            shutil.rmtree(folder / ".checkpoints", ignore_errors=True)
        raise SystemExit(f"{stage.name} is too fast to be struck")

    # -- the faults ----------------------------------------------------------------------------

    def killed(self, stage: Stage, kind: str, how: int) -> Fault:
        with self.copy(stage) as folder:
            for _ in range(self.random.choice((1, 1, 2))):
                self.struck(folder, stage, how)
                self.remove_outputs(folder, stage)  # as DVC does before a stage runs again
            return self.finish(folder, stage, kind)

    def kill(self, stage: Stage) -> Fault:
        return self.killed(stage, "SIGKILL", signal.SIGKILL)

    def terminate(self, stage: Stage) -> Fault:
        return self.killed(stage, "SIGTERM", signal.SIGTERM)

    def interrupt(self, stage: Stage) -> Fault:
        """Ctrl-C: exit code 130 and one line that says how to go on."""
        with self.copy(stage) as folder:
            code, errors = self.struck(folder, stage, signal.SIGINT)
            told = code == 130 and "interrupted; the next run goes on" in errors and "Traceback" not in errors
            return self.finish(folder, stage, "Ctrl-C", "" if told else f"ended with {code}: {errors[-300:]}")

    def full_disk(self, stage: Stage) -> Fault:
        """No file may pass a limit that the stage's largest file passes: one clear line, and nothing half-written."""
        limit = int(self.random.uniform(0, 0.9) * max(map(len, stage.made.values())))
        with self.copy(stage) as folder:
            return self._starved(stage, folder, "full disk", Started(folder, stage.command, limit).wait())

    def _starved(self, stage: Stage, folder: Path, kind: str, ended: tuple[int, str]) -> Fault:
        code, errors = ended
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        told = code == 1 and len(lines) == 1 and "make room and run again" in lines[0] and "Traceback" not in errors
        half = {name for name, blob in tree(folder).items() if blob != self.expected.get(name)}
        trouble = "" if told and not half else f"ended with {code}, half-written {half}: {errors[-300:]}"
        return self.finish(folder, stage, kind, trouble)

    def full_tmpfs(self, stage: Stage) -> Fault | None:
        """A file system that is really full; None where this user may not mount one."""
        folder = self.home / "tmpfs"
        folder.mkdir(exist_ok=True)
        size = sum(map(len, self.expected.values())) + 2**25  # room for checkpoints once the ballast is gone
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        try:
            self.fill(folder, stage)
            ballast = folder / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
            os.truncate(ballast, ballast.stat().st_size - self.random.randrange(2) * 4096)  # no page is left, or one
            ended = Started(folder, stage.command).wait()
            ballast.unlink()
            return self._starved(stage, folder, "full tmpfs", ended)
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    def damage(self, stage: Stage) -> Fault:
        """A killed stage's checkpoint is cut short or altered: the previous one is used, and both are named."""
        with self.copy(stage) as folder:
            started, process = time.monotonic(), Started(folder, stage.command)
            moment = self.random.uniform(0.02, 0.95) * stage.seconds
            while process.poll() is None and not (self._kept(folder) and time.monotonic() - started > moment):
                time.sleep(0.001)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait()  # if it ended by itself, `dvc repro` may still have been killed before it could note it
            kept = self._kept(folder)
            victim = self.random.choice(sorted(kept))
            blob = bytearray(victim.read_bytes())
            if self.random.random() < 0.5:
                del blob[self.random.randrange(len(blob)) :]
            else:
                blob[self.random.randrange(len(blob))] ^= 1 << self.random.randrange(8)
            victim.write_bytes(blob)
            before = victim.with_name(victim.name + ".previous")
            # The state of a network that finished beside it is not read again.
            finished = victim.with_name(victim.name.replace(".state.", ".")).exists() and ".state." in victim.name
            told = (str(victim.relative_to(folder)),) if victim.suffix == ".safetensors" and not finished else ()
            told += (str(before.relative_to(folder)),) if before.exists() and not finished else ()
            self.remove_outputs(folder, stage)
            return self.finish(folder, stage, "damaged checkpoint", told=told)

    def _kept(self, folder: Path) -> list[Path]:
        found = [
            path for path in (folder / ".checkpoints").rglob("*") if path.suffix in (".safetensors", ".json", ".jsonl")
        ]
        return [path for path in found if path.exists() and path.stat().st_size > 1]

    def twins(self, stage: Stage) -> Fault:
        """Started twice at once: one waits for the other, both end well."""
        with self.copy(stage) as folder:
            both = [Started(folder, stage.command) for _ in range(2)]
            return self._both(stage, folder, "started twice", [one.wait() for one in both])

    def orphan(self, stage: Stage) -> Fault:
        """A child that outlives its killed `dvc repro`, whose successor empties the outputs and starts the stage."""
        with self.copy(stage) as folder:
            orphan = Started(folder, stage.command)
            time.sleep(self.random.uniform(0.05, 0.9) * stage.seconds)
            self.remove_outputs(folder, stage)
            second = Started(folder, stage.command)
            return self._both(stage, folder, "orphan", [orphan.wait(), second.wait()])

    def _both(self, stage: Stage, folder: Path, kind: str, ends: list[tuple[int, str]]) -> Fault:
        failed = [f"ended with {code}: {errors[-300:]}" for code, errors in ends if code]
        if failed:
            return Fault(stage.name, kind, 0, failed[0])
        return Fault(stage.name, kind, lost_bytes(folder, self.expected))

    def lost_worker(self, stage: Stage) -> Fault:
        """The machine kills a worker of a stage that runs its jobs in processes."""
        with self.copy(stage) as folder:
            raw = smallest_params()
            raw["compute"].update(engine="processes", workers=2)
            write_params(folder, raw)
            process = start(folder, *stage.command)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while len(children.read_text().split()) < 3:  # multiprocessing's resource tracker is one
                time.sleep(0.01)
            time.sleep(0.5)
            os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)
            _, errors = process.communicate(timeout=300)
            told = process.returncode == 1 and "error: a worker process was killed" in errors
            trouble = "" if told else f"ended with {process.returncode}: {errors[-300:]}"
            return self.finish(folder, stage, "lost worker", trouble)

    def whole_run(self, kills: int) -> Fault:
        """All stages in order from nothing, each start killed at a random moment until `kills` are spent."""
        folder = self.home / "whole"
        folder.mkdir()
        write_params(folder, smallest_params())
        left = kills
        for stage in self.stages:
            while left and self.random.random() < kills / (kills + len(self.stages)):
                self.struck(folder, stage, self.random.choice((signal.SIGKILL, signal.SIGTERM)))
                left -= 1
            code, errors = Started(folder, stage.command).wait()
            if code:
                return Fault("whole run", "SIGKILL", 0, f"{stage.name} failed with {code}: {errors[-300:]}")
        return Fault("whole run", f"{kills - left} kills", lost_bytes(folder, self.expected))

    def killed_dvc(self) -> Fault:
        """A real `dvc repro` is killed, its child lives on, and a second `dvc repro` starts at once."""
        folder = project(self.home / "dvc", smallest_params())
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"], cwd=folder, env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not list((folder / ".checkpoints").glob("retrain_scratch/*/*/*.state.safetensors")):
            if process.poll() is not None:
                return Fault("dvc repro", "orphan", 0, "it ended before it could be killed")
            time.sleep(0.01)
        process.kill()
        process.wait()
        try:
            output = dvc(folder, "repro")
        except AssertionError as error:
            return Fault("dvc repro", "orphan", 0, str(error)[-300:])
        shown = {name: blob for name, blob in tree(folder).items() if name.startswith(("results", "reports"))}
        expected = {name: blob for name, blob in self.expected.items() if name.startswith(("results", "reports"))}
        wrong = [
            name for name in {*shown, *expected} if ".gitignore" not in name and shown.get(name) != expected.get(name)
        ]
        trouble = "" if "Running stage 'retrain_scratch" in output else "it did not run the stage again"
        return Fault("dvc repro", "orphan", sum(len(shown.get(name, b" ")) for name in wrong), trouble)
