"""A network as a file of another runtime, and such a file as a torch module again, for whatever asks it for logits.

Images go in as (N, 3, S, S) float32 in [0, 1], logits come out as (N, classes), as everywhere.
"""

import logging
import os
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from tamnas.errors import InputError
from tamnas.evaluation.models import read_model

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "executorch": ".pte"}
BATCH = ({0: torch.export.Dim("batch")},)


def require(format: str) -> None:
    """Raises InputError unless the packages of a format are installed."""
    try:
        if format == "onnx":
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        elif format == "executorch":
            import executorch.exir  # noqa: F401
    except ImportError as error:
        extra = {"onnx": "export", "executorch": "executorch"}[format]
        raise InputError(f"--format {format}: {error.name} is not installed; `pip install '.[{extra}]'`") from None


def write(model: nn.Module, format: str, size: int, path: Path) -> None:
    """`model` in eval mode as a file that takes any number of images; ExecuTorch's takes one at a time."""
    model = model.to(memory_format=torch.contiguous_format)
    with _quiet():
        if format == "onnx":
            path.write_bytes(_onnx(model, size))
        elif format == "pt2":
            torch.export.save(_program(model, size, 2), path)
        else:
            path.write_bytes(_executorch(model, size))


def _program(model: nn.Module, size: int, count: int) -> torch.export.ExportedProgram:
    """For any number of images if `count` is above 1: torch takes 1 for a constant."""
    return torch.export.export(model, (torch.rand(count, 3, size, size),), dynamic_shapes=BATCH if count > 1 else None)


def _onnx(model: nn.Module, size: int) -> bytes:
    program = torch.onnx.export(
        model, (torch.rand(2, 3, size, size),), dynamo=True, dynamic_shapes=BATCH, verbose=False,
        input_names=["images"], output_names=["logits"],
    )  # fmt: skip
    proto = program.model_proto
    for node in proto.graph.node:  # where in the source each came from: a third of the file, with this machine's paths
        del node.metadata_props[:]
    return proto.SerializeToString()


def _executorch(model: nn.Module, size: int) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    os.environ.setdefault("FLATC_EXECUTABLE", str(Path(sys.executable).with_name("flatc")))
    lowered = to_edge_transform_and_lower(_program(model, size, 1), partitioner=[XnnpackPartitioner()])
    return lowered.to_executorch().buffer


def write_int8(model: nn.Module, size: int, path: Path, images: Tensor) -> None:
    """As an ONNX file with 8-bit weights and activations, calibrated on `images`.

    Weights by channel, and of 7 bits: without VNNI instructions sums of 8-bit products overflow on x86.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        batches = iter(images.split(32))

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.contiguous().numpy()}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        exact, prepared = Path(folder) / "exact.onnx", Path(folder) / "prepared.onnx"
        write(model, "onnx", size, exact)
        quant_pre_process(exact, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, path, Images(), per_channel=True, reduce_range=True)


def read(path: Path) -> nn.Module:
    """An exported file, as a module. Raises InputError if it is damaged."""
    with _quiet():
        return ExecutorchNetwork(path) if path.suffix == ".pte" else read_model(str(path))


class ExecutorchNetwork(nn.Module):
    """A `.pte` file, one image at a time, on one thread: with two, one waits for the other most of the time."""

    def __init__(self, path: Path):
        from executorch.extension.pybindings import _portable_lib
        from executorch.runtime import Runtime

        super().__init__()
        _portable_lib._unsafe_reset_threadpool(1)  # before a program is loaded: unsafe for those that are
        try:
            self.method = Runtime.get().load_program(path).load_method("forward")
        except RuntimeError as error:
            raise InputError(f"{path}: cannot be read: {error}") from None

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.method.execute((image.contiguous(),))[0].clone() for image in x.split(1)])


@contextmanager
def _quiet():
    """Without what the exporters say of torch's code and of each step."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
