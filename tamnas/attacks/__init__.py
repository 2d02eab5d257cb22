"""Attacks; public: `pgd`, imported on first use."""

from tamnas import on_first_use

__getattr__ = on_first_use(__name__, {"pgd": "ascent"})
