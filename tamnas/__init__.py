"""tamnas: one-shot search for tiny image classifiers that resist white-box attack.

The public names are imported on first use: importing torch costs seconds, and
reading parameters or printing a table needs none of it.
"""

from importlib import import_module

_HOME = {
    "Architecture": "space.architecture",
    "SearchSpace": "space.space",
    "Subnet": "networks.subnet",
    "Supernet": "networks.supernet",
    "load_params": "config.resolve",
}

__all__ = [*_HOME, "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'tamnas' has no attribute {name!r}")
    return getattr(import_module(f"tamnas.{_HOME[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOME])
