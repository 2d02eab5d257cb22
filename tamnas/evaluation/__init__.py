"""Evaluation; public: `robust_accuracy`, imported on first use."""

from importlib import import_module

_HOME = {"robust_accuracy": "accuracy"}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
