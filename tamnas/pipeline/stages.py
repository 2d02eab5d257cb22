"""The table of stages, read from dvc.yaml: which there are, for what, how they are called, what they read and write.

An instance is a stage of one row, of one dataset or of the run; its name is DVC's, such as `search@digits-base`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from tamnas.config.fields import read_yaml
from tamnas.errors import InputError

PIPELINE = Path(__file__).parents[2] / "dvc.yaml"
PER = {None: "run", "${run.rows}": "row", "${run.datasets}": "dataset"}  # by the block's `foreach`


@dataclass(frozen=True)
class Stage:
    """A block of dvc.yaml, its texts with `${key}`, `${item}` and `${item.dataset}` still in them."""

    name: str
    per: str  # "run", "row" or "dataset"
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def script(self) -> Path:
        """The script of `python -m stages.SCRIPT ...`."""
        return Path("stages") / f"{self.command.split()[2].removeprefix('stages.')}.py"


@dataclass(frozen=True)
class Instance:
    """One stage instance: its arguments and the paths that it reads and writes, below the working directory."""

    stage: Stage
    name: str
    arguments: tuple[str, ...]
    deps: tuple[Path, ...]
    outs: tuple[Path, ...]

    @property
    def results(self) -> Path | None:
        """Its folder of small results, if it has one."""
        return next((out for out in self.outs if out.parts[0] == "results"), None)

    @property
    def inputs(self) -> list[Path]:
        """What it computes from, beside its plan, its code and a user's files."""
        return [dep for dep in self.deps if dep.parts[0] not in ("plan", "code", "source")]


@cache
def stages() -> dict[str, Stage]:
    """All stages by name, in the order of dvc.yaml."""
    return {name: _stage(name, block) for name, block in read_yaml(PIPELINE)["stages"].items()}


def _stage(name: str, block: Mapping[str, Any]) -> Stage:
    body = block.get("do", block)
    outs = [*body.get("outs", ()), *body.get("metrics", ()), *body.get("plots", ())]
    paths = tuple(next(iter(out)) if isinstance(out, dict) else out for out in outs)
    return Stage(name, PER[block.get("foreach")], body["cmd"], tuple(body["deps"]), paths)


def instance(stage: str, name: str | None, dataset: str | None = None) -> Instance:
    """The instance of `stage` for the row or dataset `name` (None: the run). Raises InputError for no such stage."""
    if stage not in stages():
        raise InputError(f"stage {stage!r} does not exist; there are: {', '.join(stages())}")
    definition = stages()[stage]
    words = {"key": name, "item": name, "item.dataset": dataset}

    def filled(text: str) -> str:
        return re.sub(r"\$\{(.+?)\}", lambda match: words[match[1]], text)

    return Instance(
        definition,
        stage if name is None else f"{stage}@{name}",
        tuple(filled(definition.command).split()[3:]),
        *(tuple(Path(filled(path)) for path in paths) for paths in (definition.deps, definition.outs)),
    )


def instances(rows: Mapping[str, str], datasets: Sequence[str]) -> list[Instance]:
    """Every stage instance of a run in dvc.yaml's order, where inputs come first; `rows` maps them to datasets."""
    nodes = []
    for stage in stages().values():
        names = {"run": {None: None}, "row": rows, "dataset": {dataset: dataset for dataset in datasets}}[stage.per]
        nodes += [instance(stage.name, name, dataset) for name, dataset in names.items()]
    return nodes


def order_of(chosen: Sequence[Instance]) -> TopologicalSorter:
    """Of these stage instances, prepared: which is ready when which others are done."""
    sorter = TopologicalSorter({node: [other for other in chosen if needs(node, other)] for node in chosen})
    sorter.prepare()
    return sorter


def needs(reader: Instance, writer: Instance) -> bool:
    """Whether `reader` reads what `writer` writes."""
    return (
        any(dep == out or dep in out.parents or out in dep.parents for dep in reader.deps for out in writer.outs)
        and reader.name != writer.name
    )
