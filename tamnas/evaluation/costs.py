"""What a trained network costs to keep and to run: parameters, multiply-accumulates, latency.

The head of a searched network is all that follows its last choice block, that of a hand-made
one its classifier; the body is the rest, stem included.
"""

import platform
from collections.abc import Collection
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from tamnas.networks.batchnorm import modes_kept
from tamnas.networks.folding import Folded
from tamnas.networks.subnet import Subnet
from tamnas.networks.trained import build, load_network, trained_record
from tamnas.pipeline.device import MEMORY_FORMAT, Runtime
from tamnas.pipeline.progress import Progress
from tamnas.space.space import SearchSpace

WARM_UP, RUNS = 10, 100  # passes before the clock runs, and under it


def macs(model: nn.Module, size: int) -> int:
    """Multiply-accumulates of one `size` x `size` image.

    Convolutions, linear layers and the products of attention count; BatchNorm (which folds into
    convolutions), activations, gates and pooling do not. The model's mode is left as found.
    """
    counter = FlopCounterMode(display=False)
    # torch's counter knows the products inside fused attention on CUDA only
    with modes_kept(model), torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        model.eval()(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    return counter.get_total_flops() // 2


def head_of(model: nn.Module) -> nn.Module:
    return model.rest.head if isinstance(model, Subnet) else model.rest[-1]


def latency(model: nn.Module, size: int, channels: int = 3) -> float:
    """Median milliseconds of one `size` x `size` image (or map) on one CPU thread, BatchNorm folded, channels-last."""
    fast = Folded(model).network.cpu().to(memory_format=MEMORY_FORMAT)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, channels, size, size, generator=generator).to(memory_format=MEMORY_FORMAT)
    return milliseconds(fast, image)


def milliseconds(model: nn.Module, image: torch.Tensor) -> float:
    """Median over `RUNS` passes of `image`, on one thread of torch."""
    timer = Timer("model(image)", globals={"model": model, "image": image}, num_threads=1)
    with torch.inference_mode():
        timer.timeit(WARM_UP)
        return 1000 * median(timer.timeit(1).median for _ in range(RUNS))


def cost_rows(trained: Path, space: SearchSpace, size: int) -> list[dict]:
    """One row for each network in the folder `trained`, for images of `size` x `size`."""
    rows = []
    for path in sorted(trained.glob("*.safetensors")):
        record = trained_record(path)
        model = build(record.network, space)
        head = sum(p.numel() for p in head_of(model).parameters())
        parts = {"parameters": record.parameters, "head": head, "body": record.parameters - head}
        rows.append({"network": record.id, **parts, "size": size, "macs": macs(model, size)})
    return rows


def latency_rows(trained: Path, networks: Collection[str], space: SearchSpace, weights: str, size: int) -> list[dict]:
    """One row for each of `networks` (ids), one after another: wall times, which differ from run to run."""
    rows, cpu = [], Runtime(torch.device("cpu"), None)
    paths = [path for path in sorted(trained.glob("*.safetensors")) if path.stem in networks]
    with Progress("latency", len(paths)) as progress:
        for path in paths:
            model, record = load_network(space, path, weights, cpu)
            milliseconds = round(latency(model, size), 4)
            rows.append({"network": record.id, "milliseconds": milliseconds, "runs": RUNS, "processor": processor()})
            progress.step(network=record.id, milliseconds=milliseconds)
    return rows


def processor() -> str:
    """The CPU's model name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
