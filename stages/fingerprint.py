"""List the source files of every stage with their digests.

    python stages/fingerprint.py

Reads stages/ and tamnas/. Writes code/<script>.sha256: the script and every tamnas module that it transitively
imports, as `sha256sum --check` reads them. Each stage depends on its own list.
"""

from pathlib import Path

import click

from tamnas.files import write_bytes
from tamnas.pipeline.code import fingerprint, scripts
from tamnas.pipeline.stage import one_line_errors, timed
from tamnas.pipeline.store import locked

FOLDER = Path("code")


def run() -> None:
    with locked("fingerprint", "run"), timed("fingerprint", "run"):
        lists = {f"{script.stem}.sha256": fingerprint(script) for script in scripts()}
        for name, text in lists.items():
            write_bytes(FOLDER / name, text.encode())
            click.echo(FOLDER / name)
        for stale in FOLDER.glob("*.sha256"):
            if stale.name not in lists:
                stale.unlink()


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@one_line_errors
def main() -> None:
    run()


if __name__ == "__main__":
    main()
