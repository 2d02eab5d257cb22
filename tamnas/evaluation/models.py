"""Models of others, from a Python reference or a file, as modules that map images (N, C, H, W) in [0, 1] to logits.

Reading any of these may run code that it holds, ONNX apart: use only what you trust.
"""

import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from tamnas.errors import InputError

ALLOWED = (
    "a released network, package.module:function, a TorchScript file (.pt), a torch.export file (.pt2) or ONNX (.onnx)"
)


class Opaque(nn.Module):
    """A function of images on `device` whose modes and weights are out of reach; `batch`: the one size it takes."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], device: torch.device | str = "cpu", batch: int | None = None
    ):
        super().__init__()
        self._functions, self._batch = (function,), batch  # in a tuple: a module as attribute would be part of this one
        self.register_buffer("place", torch.empty(0, device=device))  # says where its images must be
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        (function,) = self._functions
        if self._batch is None:
            return function(x)
        return torch.cat([_filled_up(function, part, self._batch) for part in x.split(self._batch)])


def _filled_up(function: Callable[[Tensor], Tensor], x: Tensor, batch: int) -> Tensor:
    copies = x[-1:].expand(batch - len(x), *x.shape[1:])
    return function(torch.cat([x, copies]))[: len(x)]


def read_model(reference: str, device: torch.device | str = "cpu") -> nn.Module:
    """The model that `reference` names (`ALLOWED`), on `device`; ONNX computes on the CPU. Raises InputError."""
    path = Path(reference)
    reader = {".pt": _torchscript, ".pt2": _exported, ".onnx": _onnx}.get(path.suffix)
    if reader is None and ":" in reference:
        return _from_python(reference).to(device)
    if reader is None:
        raise InputError(f"model {reference}: allowed: {ALLOWED}")
    if not path.is_file():
        raise InputError(f"model {reference}: there is no such file")
    return reader(path, torch.device(device))


def _from_python(reference: str) -> nn.Module:
    """What the function returns that is called without arguments, or the module itself that the name stands for."""
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        model = resolve_name(reference)
        if callable(model) and not isinstance(model, nn.Module):
            model = model()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"model {reference}: {_first_line(error)} ({Path(place.filename).name}, line {place.lineno})"
        ) from None
    if not isinstance(model, nn.Module):
        raise InputError(f"model {reference}: gave {type(model).__name__}; allowed: a torch.nn.Module")
    return model


def _torchscript(path: Path, device: torch.device) -> nn.Module:
    try:
        model = torch.jit.load(path, map_location=device)
    except Exception:
        raise InputError(
            f"model {path}: is no TorchScript file; allowed: what torch.jit.script or torch.jit.trace made, and no "
            "pickle of torch.save"
        ) from None
    if hasattr(model, "training"):  # a frozen one has no modes left
        model.eval()
    return Opaque(_frozen(model), device)


def _exported(path: Path, device: torch.device) -> nn.Module:
    log, level = logging.getLogger("torch.export"), logging.getLogger("torch.export").level
    try:
        log.setLevel(logging.CRITICAL)  # of a damaged file a page of warnings
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            program = torch.export.load(path)
    except Exception:
        raise InputError(f"model {path}: cannot be read as a torch.export file") from None
    finally:
        log.setLevel(level)
    program = move_to_device_pass(program, device)
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise InputError(f"model {path}: takes {len(inputs)} inputs; allowed: images alone")
    (size,) = (node.meta["val"].shape[0] for node in program.graph.nodes if node.name == inputs[0])
    return Opaque(_frozen(program.module()), device, size if isinstance(size, int) else None)


def _frozen(model: nn.Module) -> nn.Module:
    for tensor in model.parameters():  # TorchScript has no requires_grad_ of the whole module
        tensor.requires_grad_(False)
    return model


def _onnx(path: Path, device: torch.device) -> nn.Module:
    try:
        import onnxruntime  # here: who has no ONNX file needs none
    except ImportError:
        raise InputError(f"model {path}: ONNX needs onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"model {path}: cannot be read as ONNX ({type(error).__name__})") from None
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        kinds = ", ".join(f"{tensor.name} {tensor.type}" for tensor in inputs)
        raise InputError(f"model {path}: inputs {kinds}; allowed: one tensor(float), the images")

    def run(x: Tensor) -> Tensor:
        (logits, *_) = session.run(None, {inputs[0].name: x.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(logits).to(x.device)

    size = inputs[0].shape[0]
    return Opaque(run, device, size if isinstance(size, int) else None)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def called(model: nn.Module, x: Tensor) -> Any:
    """`model(x)`. Raises InputError where the model cannot take images of this shape."""
    try:
        return model(x)
    except Exception as error:
        raise InputError(f"the model fails on images of shape {tuple(x.shape)}: {_first_line(error)}") from None
