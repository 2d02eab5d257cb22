"""Functions as commands: arguments from the signature, help from the docstring, errors in one line, exit codes.

A stage's module imports what needs torch inside its function: bad input answers before seconds of imports.
"""

import errno
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args, get_origin

import click

from tamnas.errors import CheckError, DivergenceError, InputError, JobError, WorkerError
from tamnas.pipeline.code import ROOT, fingerprint
from tamnas.pipeline.plugins import load_plugins

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
# What torch says, in a RuntimeError, of memory that it did not get; the last is of a library that cannot be imported.
OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "shared memory"),
    "failed to map segment",
)


def stage_command(function: Callable[..., None]) -> click.Command:
    """The command of a stage's `main`; its attribute `run` is the function itself."""
    script = Path(function.__code__.co_filename)

    @functools.wraps(function)
    def checked(*args, **kwargs) -> None:
        _require_own_code(script)
        function(*args, **kwargs)

    command = one_line_errors(checked)
    for name, parameter in reversed(inspect.signature(function).parameters.items()):
        choices = get_args(parameter.annotation) if get_origin(parameter.annotation) is Literal else None
        metavar = None if choices else "ROW|DATASET" if name == "name" else name.upper()
        command = click.argument(name, type=click.Choice(choices) if choices else str, metavar=metavar)(command)
    made = click.command(help=help_of(function.__globals__["__doc__"]))(command)
    made.run = function
    return made


def help_of(docstring: str) -> str:
    """A module's docstring for click: lines and indented commands stay as they are."""
    return docstring.replace("\n\n", "\n\n\b\n")


def _require_own_code(script: Path) -> None:
    """The stage computes with the library beside it and, under DVC, with the code that `fingerprint` listed.

    Raises InputError.
    """
    if script.resolve().parents[1] != ROOT.resolve():
        raise InputError(f"{script}: tamnas was imported from {ROOT}, another checkout; run it from its own root")
    listed = Path("code") / f"{script.stem}.sha256"
    tracked = "DVC_ROOT" in os.environ and script.stem != "fingerprint" and listed.is_file()
    if tracked and listed.read_text() != fingerprint(Path("stages") / script.name):
        raise InputError(f"{listed}: the code changed after it was listed; run `dvc repro` again")


def one_line_errors(function: Callable) -> Callable:
    """What a user can mend or repeat ends the command with one line; bad input exits with 2."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            load_plugins()
            return function(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            line, code = _line_and_code(error)
            if line is None:  # a bug keeps its traceback
                raise
            print(line, file=sys.stderr)
            sys.exit(code)

    return wrapper


def _line_and_code(error: BaseException) -> tuple[str | None, int]:
    match error:
        case InputError():
            return f"error: {error}", 2
        case DivergenceError():
            return f"error: training diverged: {error}", 1
        case WorkerError() | CheckError():
            return f"error: {error}", 1
        case JobError():
            line, code = _line_and_code(error.cause)
            return line and line.replace("error: ", f"error: {error.name}: ", 1), code
        case KeyboardInterrupt():
            return "interrupted; the next run goes on from the last checkpoint", 130
        case OSError(errno=number, filename=name) if number in OUT_OF_SPACE:
            what = f"{name or 'a file'} cannot be written: {os.strerror(number).lower()}"
            return f"error: {what}; make room and run again: it goes on from the last checkpoint", 1
        case OSError(errno=number, filename=name) if number in NOT_ALLOWED:
            what = f"{name or 'a file'}: {os.strerror(number).lower()}"
            return f"error: {what}; is it another user's? Make it yours, or work in a checkout of your own", 1
        case MemoryError() | OSError(errno=errno.ENOMEM):
            return _memory_line(error), 1
        case RuntimeError() | ImportError() if any(words in str(error) for words in OUT_OF_MEMORY):
            return _memory_line(error), 1
    return None, 1


def _memory_line(error: BaseException) -> str:
    said = str(error).strip().partition("\n")[0][:200] or "no memory is left"
    less = "fewer compute.workers, or compute.engine: inline, need less"
    return f"error: {said}; {less}; the next run goes on from the last checkpoint"
