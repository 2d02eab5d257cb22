"""List the source files of every stage with their digests.

    python -m stages.fingerprint

Reads stages/, tamnas/ and plugins/. Writes code/<script>.sha256: the script and every file of tamnas that it
transitively needs, as `sha256sum --check` reads them. Each stage depends on its own list.
"""

from pathlib import Path

import click

from tamnas.files import write_text
from tamnas.pipeline.code import fingerprint, scripts
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.stage import exclusive

FOLDER = Path("code")


@stage_command
def main() -> None:
    with exclusive("fingerprint"):
        lists = {FOLDER / f"{script.stem}.sha256": fingerprint(script) for script in scripts()}
        for path, text in lists.items():
            write_text(path, text)
            click.echo(path)
        for stale in set(FOLDER.glob("*.sha256")) - set(lists):
            stale.unlink()


if __name__ == "__main__":
    main()
