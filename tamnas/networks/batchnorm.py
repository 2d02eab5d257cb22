"""BatchNorm: fast on narrow maps; its statistics recalibrated for inherited weights, left alone under attack."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.nn.functional import all_reduce
from torch.optim.swa_utils import update_bn

from tamnas.pipeline.ranks import ranks


class BatchNorm2d(nn.BatchNorm2d):
    """torch's BatchNorm, in training on CPU up to ten times as fast on narrow channels-last maps.

    torch's kernel falls to scalar code for what is left of each pixel's channels behind the last whole vector. Where
    that costs more than `Narrow` does, which is decided by shape (benchmarks/batchnorm.py), `Narrow` computes it.
    Between ranks (`tamnas.pipeline.ranks`) batch statistics are those of the whole batch, on CPU, too, where torch's
    SyncBatchNorm refuses.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.affine and (ranks() > 1 or is_narrow(x))):
            return super().forward(x)
        if ranks() > 1:
            y, mean, variance = self._of_all_ranks(x)
        else:
            y, mean, variance = Narrow.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            pixels = ranks() * (x.numel() // x.shape[1])
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (pixels / (pixels - 1)), momentum)
        return y

    def _of_all_ranks(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Narrow`, over the parts of all ranks, which are of one size; one exchange forward and one backward."""
        variance, mean = (moment.double() for moment in torch.var_mean(x.float(), (0, 2, 3), correction=0))
        # In double precision, in which the difference of squares loses nothing that counts.
        mean, square = (all_reduce(torch.stack((mean, variance + mean**2))) / ranks()).unbind()
        mean, variance = mean.float(), (square - mean**2).float()
        scale = self.weight * (variance + self.eps).rsqrt()
        y = (x.float() - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype), mean.detach(), variance.detach()


def is_narrow(x: Tensor) -> bool:
    """Whether `Narrow` takes (N, C, H, W) `x`, and takes less time than torch's kernel."""
    n, c, h, w = x.shape
    return (
        c % 8 != 0  # the vector of AVX2, and half of AVX-512's
        and c < 64
        and n * h * w >= 2048  # pixels that make up for the price of more calls
        and n * h * w % Narrow.PIXELS == 0
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


class Narrow(torch.autograd.Function):
    """BatchNorm with batch statistics of a channels-last map, seen as rows of `PIXELS` pixels: whole vectors.

    (x, weight, bias, eps) -> (y, mean, biased variance); Ioffe and Szegedy 2015, Algorithm 1 and its gradients.
    """

    PIXELS = 16

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        rows, pixels = _rows(x), x.numel() // x.shape[1]
        mean = _channel_sums(rows) / pixels
        centred = rows - _tiled(mean)
        y = centred * centred
        variance = _channel_sums(y) / pixels
        inverse = (variance + eps).rsqrt()
        torch.addcmul(_tiled(bias), centred, _tiled(inverse * weight), out=y)
        ctx.save_for_backward(centred, weight, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return _map(y, x), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, *_) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, weight, inverse = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        rows, pixels = _rows(gradient), gradient.numel() // gradient.shape[1]
        of_x = rows * centred
        of_bias = _channel_sums(rows)
        of_weight = _channel_sums(of_x) * inverse
        # dL/dx = s (dL/dy - mean(dL/dy) - xhat mean(dL/dy xhat)), s = weight / sigma, xhat = centred / sigma
        scale = inverse * weight
        shift, slope = -scale * of_bias / pixels, -scale * of_weight * inverse / pixels
        torch.addcmul(_tiled(shift), centred, _tiled(slope), out=of_x)
        of_x.addcmul_(rows, _tiled(scale))
        return _map(of_x, gradient), of_weight, of_bias, None


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W), channels-last -> (N H W / PIXELS, PIXELS C), a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, Narrow.PIXELS * x.shape[1])


def _map(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_rows`."""
    return rows.view(like.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)


def _channel_sums(rows: Tensor) -> Tensor:
    return rows.sum(0).view(Narrow.PIXELS, -1).sum(0)


def _tiled(channels: Tensor) -> Tensor:
    return channels.repeat(Narrow.PIXELS)


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace all running statistics by their cumulative average over `batches` (clean images).

    Weights, and the model's train/eval mode, stay as found.
    """
    with modes_kept(model), torch.no_grad():
        update_bn(batches, model)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Puts every module's train/eval mode back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """BatchNorm layers in train mode use their batch's statistics and leave the running ones alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    flags = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, flag in zip(norms, flags, strict=True):
            norm.track_running_stats = flag
