"""`tamnas watch` in a terminal beside a real run of two rows at once, which starts when the watch is there already."""

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.helpers.tiny import ROOT, tiny_params, write_params

ROWS = ("digits-base", "digits-other")


def tamnas(*arguments: str, **how) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "150", "LINES": "60", "TERM": "xterm"}
    return subprocess.Popen(
        [sys.executable, "-m", "tamnas", *arguments], env=environment, stderr=subprocess.DEVNULL, **how
    )


@pytest.mark.slow
def test_two_lanes_are_watched_from_before_they_start(folder):
    raw = tiny_params()
    raw["modes"]["other"] = {"supernet": {"eps": "4/255"}}
    raw["run"]["rows"]["digits-other"] = {"dataset": "digits", "mode": "other"}
    raw["supernet"]["block"]["epochs"] = 30
    write_params(folder, raw)
    screen, terminal = pty.openpty()
    watch, run = tamnas("watch", "--plots", stdout=terminal, stdin=subprocess.DEVNULL), None
    os.close(terminal)
    shown, until = "", time.monotonic() + 120
    try:
        while not all(f"supernet_block@{row}" in shown for row in ROWS) or "training loss" not in shown:
            assert time.monotonic() < until, shown
            shown += os.read(screen, 65536).decode(errors="replace")
            if run is None and "Waiting" in shown:
                run = tamnas("run", "--until", "supernet_block", "--parallel", "2", stdout=subprocess.DEVNULL)
        assert (folder / "live" / "curves" / "now.csv").read_text().startswith("run,epoch,loss,train_clean,")
        watch.send_signal(signal.SIGINT)
        with suppress(OSError):  # the terminal's end
            while end := os.read(screen, 65536):
                shown += end.decode(errors="replace")
        assert watch.wait() == 0
        assert "The run goes on; `tamnas watch` shows it again." in shown
        assert run.wait() == 0
    finally:
        for process in (watch, run):
            if process is not None and process.poll() is None:
                process.kill()
        os.close(screen)
    left = sorted(path.name for path in (folder / ".locks" / "supernet_block").iterdir())
    assert left == sorted(f"{row}.lock" for row in ROWS)
