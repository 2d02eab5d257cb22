"""Which source files a stage depends on: the tamnas modules it transitively imports.

DVC re-runs a stage when these change, so `dvc.yaml` must list them; `python -m tamnas.codedeps`
brings the lists up to date and a test fails when they lag behind. The same files go into a
checkpoint's key.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent


def source_files(script: Path) -> list[Path]:
    """`script` and every tamnas file it transitively imports, relative to the project, sorted."""
    found: set[Path] = set()
    waiting = [ROOT / script]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imports(file)
    return sorted(file.relative_to(ROOT) for file in found)


@cache
def _imports(file: Path) -> tuple[Path, ...]:
    """Files of the tamnas modules that `file` imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files: set[Path] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "tamnas":
            # importing tamnas.data.loader runs tamnas/__init__.py and tamnas/data/__init__.py too
            packages = [ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
            files |= {file for file in (*packages, ROOT.joinpath(*parts).with_suffix(".py")) if file.is_file()}
    return tuple(sorted(files))


def code_digest(script: Path) -> str:
    """sha256 over the stage's source files."""
    digest = hashlib.sha256()
    for file in source_files(script):
        digest.update(f"{file}\0".encode() + (ROOT / file).read_bytes())
    return digest.hexdigest()


def expected_deps(command: str) -> list[str]:
    """The code part of a stage's `deps`, from its command `python stages/<script> ...`."""
    script = Path(command.split()[1])
    return [str(file) for file in source_files(script)]


def main() -> None:
    """Rewrite the code part of every stage's deps in dvc.yaml; data dependencies stay."""
    from ruamel.yaml import YAML

    yaml, path = YAML(), ROOT / "dvc.yaml"
    yaml.width, yaml.preserve_quotes = 200, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    pipeline = yaml.load(path)
    for stage in pipeline["stages"].values():
        body = stage.get("do", stage)
        data = [dep for dep in body["deps"] if not dep.endswith(".py")]
        body["deps"] = expected_deps(body["cmd"]) + data
    with path.open("w") as file:
        yaml.dump(pipeline, file)


if __name__ == "__main__":
    main()
