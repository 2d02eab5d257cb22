"""Which processor instructions torch computes with: the same kernels on every machine give the same bits.

torch, oneDNN and MKL pick kernels by what the processor has, and sums in wider vectors round differently; MKL also by
who made it. They read the choice from the environment once, when torch is imported. Nothing here imports torch.
"""

import logging
import os
import sys
from pathlib import Path

import numpy as np

from tamnas.config.fields import read_yaml
from tamnas.errors import InputError

log = logging.getLogger(__name__)
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # the one set of kernels that MKL runs on Intel's and on AMD's processors alike
}


def has_avx2() -> bool:
    """Whether this processor can compute with AVX2 (every x86-64 one since about 2015; no ARM one)."""
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    kinds = ("baseline", "found")  # numpy leaves an empty one out
    return not {"AVX2", "X86_V3"}.isdisjoint(name for kind in kinds for name in extensions.get(kind, ()))


def instruction_set() -> str:
    """`numerics.instruction_set` of params.yaml here, not checked; avx2 where nothing is said. Raises InputError."""
    numerics = read_yaml(Path("params.yaml")).get("numerics") if Path("params.yaml").exists() else None
    return numerics.get("instruction_set", "avx2") if isinstance(numerics, dict) else "avx2"


def use_instructions(setting: str) -> None:
    """Hold this process and those it starts to `numerics.instruction_set` ("avx2" or "native").

    Call before torch is imported. Raises InputError where torch already computes with another setting. Without AVX2
    says that bits may differ, and goes on.
    """
    able = has_avx2()
    if setting == "avx2" and not able and "torch" not in sys.modules:
        log.warning("numerics.instruction_set is avx2, which this processor lacks: results may differ in their bits")
    wanted = AVX2 if setting == "avx2" and able else {}
    present = {name: os.environ[name] for name in AVX2 if name in os.environ}
    if "torch" in sys.modules and present != wanted:
        raise InputError(
            f"numerics.instruction_set is {setting!r}: torch was imported with other instructions in this process "
            f"({', '.join(f'{name}={value}' for name, value in present.items()) or 'native'}); start a new one"
        )
    for name in AVX2:
        os.environ.pop(name, None)
    os.environ |= wanted
