"""A user's own choice blocks, sources, objectives and attacks: the modules of plugins/ beside tamnas/."""

from importlib import import_module

from tamnas.pipeline.code import PLUGINS


def load_plugins() -> None:
    """Import each of them, so that what they register is there before parameters are read."""
    for file in sorted(PLUGINS.glob("*.py")):
        import_module(f"{PLUGINS.name}.{file.stem}")
