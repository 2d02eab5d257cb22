"""Arrows run one way: which code may import which, also inside functions; imports for type checkers do not count."""

import ast
from graphlib import TopologicalSorter

import pytest

from tests.helpers.tiny import ROOT

# From the bottom up: a module may import from its own room and from the lines above its room's line. A room is a
# package or, where it is named apart, a module. Parameters are checked against the registries, and these need no torch.
ROOMS = """
    errors  seeding  paper
    files
    space
    config.fields  search.objectives  data.archives  data.arrays  data.folders
    attacks.attack  data.sources  search.front
    attacks.listed
    attacks.registry
    config
    records  pipeline
    networks  data
    attacks
    evaluation
    training  search
    legonet  controls
    report
    pipeline.stage  pipeline.pack  pipeline.profiles  release
    pipeline.runner  export
    cli  stages
    __main__
"""
LEVELS = {room: level for level, line in enumerate(ROOMS.strip().splitlines()) for room in line.split()}


def module_name(path) -> str:
    """As in ROOMS: without `tamnas.`; of a package its own name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("tamnas.").removesuffix(".__init__")


FILES = {module_name(path): path for top in ("tamnas", "stages") for path in sorted((ROOT / top).rglob("*.py"))}
del FILES["__init__"]  # `tamnas` itself: public names, imported on first use


def imports(name: str) -> set[str]:
    """The modules of FILES that a module imports, anywhere in it."""
    found: set[str] = set()
    tree = ast.parse(FILES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{FILES[name]}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one.removeprefix("tamnas.") in FILES else node.module for one in inner}
    return {one.removeprefix("tamnas.") for one in found} & FILES.keys() - {name}


def room(name: str) -> str:
    parts = name.split(".")
    return next(room for end in range(len(parts), 0, -1) if (room := ".".join(parts[:end])) in LEVELS)


def test_every_room_is_there_and_every_module_is_in_one():
    assert {room(name) for name in FILES} == LEVELS.keys()


def test_the_listing_is_short():
    parts = {name.split(".")[0] for name, path in FILES.items() if path.is_relative_to(ROOT / "tamnas")} - {"__main__"}
    assert len(parts) <= 20


@pytest.mark.parametrize("name", FILES)
def test_arrows_run_one_way(name):
    own = room(name)
    for other in imports(name):
        assert room(other) == own or LEVELS[room(other)] < LEVELS[own], f"{name} imports {other}"


def test_no_module_needs_itself():
    list(TopologicalSorter({name: imports(name) for name in FILES}).static_order())
