"""tamnas: one-shot search for tiny image classifiers that resist white-box attack.

The public names are imported on first use: importing torch costs seconds, and
reading parameters or printing a table needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers, who see no `__getattr__`
    from tamnas.config.resolve import load_params as load_params
    from tamnas.evaluation.any_model import evaluate as evaluate
    from tamnas.networks.subnet import Subnet as Subnet
    from tamnas.networks.supernet import Supernet as Supernet
    from tamnas.release.network import load as load
    from tamnas.space.architecture import Architecture as Architecture
    from tamnas.space.space import SearchSpace as SearchSpace

__version__ = "0.1.0"


def on_first_use(package: str, homes: dict[str, str]):
    """A package's `__getattr__` for names that its modules define (name: module)."""

    def load(name: str):
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return load


_HOMES = {
    "Architecture": "space.architecture",
    "SearchSpace": "space.space",
    "Subnet": "networks.subnet",
    "Supernet": "networks.supernet",
    "evaluate": "evaluation.any_model",
    "load": "release.network",
    "load_params": "config.resolve",
}
__all__ = [*_HOMES, "__version__"]
__getattr__ = on_first_use("tamnas", _HOMES)
