"""Which instructions torch computes with: chosen before it is imported, or not at all."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from tamnas.errors import InputError
from tamnas.pipeline import instructions
from tamnas.pipeline.instructions import AVX2, has_avx2, use_instructions


@pytest.fixture(autouse=True)
def fresh(monkeypatch) -> None:
    """As in a fresh process on a processor with AVX2, where torch is not imported yet."""
    for name in AVX2:
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(instructions, "has_avx2", lambda: True)


def environment() -> dict[str, str]:
    return {name: os.environ[name] for name in AVX2 if name in os.environ}


def test_the_environment_is_set_before_torch():
    use_instructions("avx2")
    assert environment() == AVX2
    use_instructions("native")
    assert environment() == {}


def test_what_a_user_set_otherwise_gives_way():
    os.environ["ATEN_CPU_CAPABILITY"] = "avx512"
    use_instructions("avx2")
    assert environment() == AVX2


@pytest.mark.parametrize(
    ("present", "setting", "told"),
    [
        ({}, "avx2", "native"),
        (AVX2, "native", ", ".join(f"{name}={value}" for name, value in AVX2.items())),
        ({"ATEN_CPU_CAPABILITY": "default"}, "avx2", "ATEN_CPU_CAPABILITY=default"),
    ],
    ids=str,
)
def test_torch_with_other_instructions_is_refused(monkeypatch, present, setting, told):
    os.environ.update(present)
    monkeypatch.setitem(sys.modules, "torch", object())
    with pytest.raises(InputError) as caught:
        use_instructions(setting)
    assert str(caught.value) == (
        f"numerics.instruction_set is {setting!r}: torch was imported with other instructions in this process "
        f"({told}); start a new one"
    )
    assert environment() == present


@pytest.mark.parametrize("setting", ["avx2", "native"])
def test_torch_with_the_same_instructions_is_taken(monkeypatch, setting):
    use_instructions(setting)
    monkeypatch.setitem(sys.modules, "torch", object())
    use_instructions(setting)
    assert environment() == (AVX2 if setting == "avx2" else {})


@pytest.mark.parametrize(
    ("extensions", "able"),
    [
        ({"baseline": ["X86_V2"], "not found": ["X86_V3"]}, False),
        ({"baseline": [], "found": ["X86_V3"]}, True),
        ({}, False),
    ],
)
def test_what_numpy_leaves_out_is_not_there(monkeypatch, extensions, able):
    monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": extensions})
    assert has_avx2() is able


def test_a_processor_without_avx2_goes_on_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(instructions, "has_avx2", lambda: False)
    with caplog.at_level(logging.WARNING):
        use_instructions("avx2")
    assert "which this processor lacks: results may differ in their bits" in caplog.text
    assert environment() == {}
    caplog.clear()
    use_instructions("native")
    assert not caplog.records


@pytest.mark.skipif(not has_avx2(), reason="needs a processor with AVX2")
def test_torch_obeys():
    code = (
        "from tamnas.pipeline.instructions import use_instructions\n"
        "use_instructions('avx2')\n"
        "import torch; print(torch.backends.cpu.get_cpu_capability(), flush=True)\n"
        "torch.rand(64, 64) @ torch.rand(64, 64)"
    )
    environment = os.environ | {"MKL_VERBOSE": "1"}  # each product is told on stdout
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[0] == "AVX2"
    assert "CNR:COMPATIBLE" in done.stdout.splitlines()[-1]
