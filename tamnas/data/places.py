"""Where a `path` of the parameters leads."""

import os
from pathlib import Path


def located(path: str) -> Path:
    """`path` with `~` and `$VARIABLES` filled in; a relative one that is not here is below the repository.

    `dvc exp run --temp` and `--queue` run in a workspace of their own, which holds only what git and DVC track;
    DVC_ROOT names the repository there, too.
    """
    filled = os.path.expandvars(os.path.expanduser(path))
    return Path(filled) if os.path.exists(filled) else Path(os.environ.get("DVC_ROOT", ""), filled)


def shown(path: Path | str) -> str:
    """A path for a message of one line: quoted where a name holds a line end or another odd character."""
    return str(path) if str(path).isprintable() else repr(str(path))
