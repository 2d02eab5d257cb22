"""Which source files a stage depends on: the tamnas modules it transitively imports, and all plugins.

The stage `fingerprint` writes them down, one list per script, and each stage depends on its own list: as
dependencies of their own they would make dvc.lock ten times as long, and DVC reads and writes
that file for every stage. The same digests go into a checkpoint's key.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"


def source_files(script: Path) -> list[Path]:
    """`script`, the plugins and every tamnas file they transitively import, relative to the project, sorted."""
    files: set[Path] = set()
    waiting = [ROOT / script, *PLUGINS.rglob("*.py")]
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            waiting += _imports(file)
    return sorted(file.relative_to(ROOT) for file in files)


@cache
def _imports(file: Path) -> tuple[Path, ...]:
    """Files of the tamnas modules that `file` imports, anywhere in it, and the data files beside it that it names."""
    if file.suffix != ".py":
        return ()
    beside = {path.name: path for path in file.parent.iterdir() if path.is_file() and path.suffix != ".py"}
    names: set[str] = set()
    files: set[Path] = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # never run
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and node.value in beside:
            files.add(beside[node.value])
    for name in names:
        parts = name.split(".")
        if parts[0] == "tamnas":
            # importing tamnas.data.loader runs tamnas/__init__.py and tamnas/data/__init__.py too
            packages = [ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
            files |= {file for file in (*packages, ROOT.joinpath(*parts).with_suffix(".py")) if file.is_file()}
    return tuple(sorted(files))


def scripts() -> list[Path]:
    """The stage scripts, relative to the project, sorted."""
    return sorted(file.relative_to(ROOT) for file in (ROOT / "stages").glob("*.py") if file.stem != "__init__")


def fingerprint(script: Path) -> str:
    """`<sha256>  <file>` for each of the stage's source files, as `sha256sum --check` reads them."""
    digests = {file: hashlib.sha256((ROOT / file).read_bytes()).hexdigest() for file in source_files(script)}
    return "".join(f"{digest}  {file}\n" for file, digest in digests.items())


def code_digest(script: Path) -> str:
    """sha256 over the stage's source files and their names."""
    return hashlib.sha256(fingerprint(script).encode()).hexdigest()
