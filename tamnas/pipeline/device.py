"""Device and precision, decided once per process."""

import os
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from tamnas.config.compute import ComputeParams
from tamnas.config.sections import NumericsParams
from tamnas.errors import InputError
from tamnas.pipeline.instructions import use_instructions

# Networks and images are channels-last everywhere: needed for fast bf16 on CUDA, and 1.2 to 1.4
# times as fast as contiguous on CPU with the paper's geometry (docs/log.md).
MEMORY_FORMAT = torch.channels_last


@dataclass(frozen=True)
class Runtime:
    """Where tensors live, in which precision networks train, and whether steps become CUDA graphs."""

    device: torch.device
    autocast_dtype: torch.dtype | None = None
    graphs: bool = False

    def autocast(self):
        """For training passes; reported accuracies are computed outside, in float32."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)


def start(numerics: NumericsParams, compute: ComputeParams) -> Runtime:
    """Apply threads and determinism to this process and pick device and precision.

    Raises InputError when a CUDA device is asked for and there is none.
    """
    use_instructions(numerics.instruction_set)
    device = compute.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    cuda = device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        raise InputError(f"compute.device is {device!r}: this machine has no CUDA device; allowed: auto, cpu")
    if ":" in device:
        torch.cuda.set_device(device)  # streams and graphs are made on the current device
    if numerics.threads:
        torch.set_num_threads(numerics.threads)
    # Attacks count on gradients that repeat; cuBLAS needs its workspace fixed for that.
    if numerics.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # TF32 keeps 10 bits: the 0.001 start noise would be at its resolution, and float32 would not be.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(numerics.deterministic)
    precision = numerics.precision
    if precision == "auto":
        precision = "bfloat16" if cuda else "float32"
    autocast_dtype = torch.bfloat16 if precision == "bfloat16" else None
    return Runtime(torch.device(device), autocast_dtype, graphs=cuda and compute.graphs)
