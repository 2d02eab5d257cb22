"""A user's own choice blocks, sources, objectives and attacks: the modules of plugins/ beside tamnas/."""

from importlib import import_module

from tamnas.pipeline.code import PLUGINS
from tamnas.pipeline.instructions import instruction_set, use_instructions


def load_plugins() -> None:
    """Import each of them, so that what they register is there before parameters are read.

    One may import torch, so torch is told first with which instructions it computes. Raises InputError.
    """
    files = sorted(PLUGINS.glob("*.py"))
    if files:
        use_instructions(instruction_set())
    for file in files:
        import_module(f"{PLUGINS.name}.{file.stem}".removesuffix(".__init__"))
