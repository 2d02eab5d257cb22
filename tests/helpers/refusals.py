"""What every refusal of bad input must be: one line, exit code 2, at once, and no output touched.

Seconds are of CPU: a busy machine is no fault.
"""

import time
from pathlib import Path

from tests.helpers.tiny import invoke

SECONDS = 5


def one_line(text: str) -> str:
    assert text.startswith("error: "), text
    assert text.endswith("\n"), text
    assert text.count("\n") == 1, text
    return text


def outputs(folder: Path) -> dict[str, bytes]:
    tops = ("data", "runs", "results", "reports")
    return {str(path): path.read_bytes() for top in tops for path in (folder / top).rglob("*") if path.is_file()}


def refused(folder: Path, words: str, script: str, *arguments: str) -> None:
    """Exit code 2, one line with `words`, within seconds, and no output made or changed."""
    before, started = outputs(folder), time.process_time()
    result = invoke(script, *arguments)
    assert time.process_time() - started < SECONDS
    assert result.exit_code == 2, result.exception
    assert words in one_line(result.stderr.splitlines(keepends=True)[-1])
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert outputs(folder) == before
