"""Which packages this Python lacks, of all that tamnas needs to run without DVC.

    python3 gpu/missing.py

Prints their names; exit code 2 if there are any. Reads pyproject.toml, needs nothing but Python.
"""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

NOT_NEEDED = {"dvc", "rich"}
NAME = r"[A-Za-z0-9._-]+"  # in front of versions and conditions


def missing(names: list[str]) -> set[str]:
    """`names` and all they require, as far as what is installed says."""
    absent, seen, waiting = set(), set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = requires(name) or []
        except PackageNotFoundError:
            absent.add(name)
            continue
        # Requirements with a condition are extras, or for other systems and older Pythons.
        waiting += [re.match(NAME, need)[0] for need in needs if ";" not in need]
    return absent


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    names = [re.match(NAME, needed)[0] for needed in project["dependencies"]]
    found = sorted(missing([name for name in names if name not in NOT_NEEDED]))
    if found:
        version = ".".join(map(str, sys.version_info[:3]))
        print(f"error: {sys.executable} (Python {version}) lacks: {' '.join(found)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
