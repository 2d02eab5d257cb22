"""One training step: ours against the literal TRADES-YOPO loop and TRADES-10 as published.

    python benchmarks/training_step.py [--geometry paper|default] [--batch 64] [--rounds 10]

(a) literal: per outer step a full propagation, then n inner steps that differentiate the first
layer by autograd, accumulating its weight gradients, which are thrown away later. (b) TRADES-10:
ten steps, each of which computes the clean logits again. Same network, batch and precision (fp32)
in one process, in alternation; the ratio is of medians. Prints a table, writes JSON with --out.
"""

import json
import statistics
import time
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamnas import SearchSpace, Subnet
from tamnas.device import Runtime
from tamnas.params import load_params, resolve_all
from tamnas.plan import Attack, RowPlan
from tamnas.training import train_step
from tamnas.yopo import start_noise, trades_loss

EPS = 8 / 255
ATTACK = Attack(eps=Fraction(8, 255), step_size=Fraction(2, 255), m=5, n=3)


def clip(eta: Tensor, x: Tensor) -> Tensor:
    return torch.min(torch.max(eta.clamp(-EPS, EPS), -x), 1 - x)


def finish(model: nn.Module, optimiser, x: Tensor, y: Tensor, eta: Tensor) -> None:
    model.train()
    optimiser.zero_grad()
    trades_loss(model, x, y, eta, lam=1.0)[0].backward()
    optimiser.step()


def literal_yopo(model, optimiser, x: Tensor, y: Tensor, noise: Tensor) -> None:
    """The method's reference code: m outer propagations, n inner first-layer steps each."""
    model.eval()
    eta = clip(noise, x)
    with torch.no_grad():
        soft = F.softmax(model(x), dim=1)
    for _ in range(ATTACK.m):
        adversarial = (x + eta).detach().requires_grad_(True)
        h = model.first_layer(adversarial)
        loss = F.kl_div(F.log_softmax(model.rest(h), dim=1), soft, reduction="sum")
        (p,) = torch.autograd.grad(loss, h)
        for _ in range(ATTACK.n):
            eta = eta.detach().requires_grad_(True)
            (p * model.first_layer(x + eta)).sum().backward()
            eta = clip(eta.detach() + float(ATTACK.step_size) * eta.grad.sign(), x)
    finish(model, optimiser, x, y, eta.detach())


def trades10(model, optimiser, x: Tensor, y: Tensor, noise: Tensor) -> None:
    """TRADES with ten steps as its official code runs it: clean logits in every step."""
    model.eval()
    adversarial = (x + noise).detach()
    for _ in range(10):
        adversarial.requires_grad_(True)
        with torch.enable_grad():
            loss = F.kl_div(F.log_softmax(model(adversarial), dim=1), F.softmax(model(x), dim=1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach() + 2 / 255 * gradient.sign()
        adversarial = torch.min(torch.max(adversarial, x - EPS), x + EPS).clamp(0, 1)
    finish(model, optimiser, x, y, adversarial - x)


def ours(model, optimiser, x: Tensor, y: Tensor, noise: Tensor) -> None:
    train_step(model.train(), optimiser, x, y, noise, ATTACK, None, Runtime(x.device, None))


def timed(function, *arguments) -> float:
    if arguments[2].is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    function(*arguments)
    if arguments[2].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--geometry", type=click.Choice(["paper", "default"]), default="default", show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--rounds", default=10, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(geometry: str, batch: int, rounds: int, device: str, threads: int, out: Path | None) -> None:
    torch.set_num_threads(threads)
    space, size = SearchSpace.paper(), 32
    if geometry == "default":
        plan = next(p for p in resolve_all(load_params()).values() if isinstance(p, RowPlan))
        space, size = SearchSpace.from_params(plan), plan.data.size
    generator = torch.Generator().manual_seed(0)
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(3)]
    x = torch.rand((batch, 3, size, size), generator=generator).to(device)
    y = torch.randint(0, 10, (batch,), generator=generator).to(device)
    noise = start_noise(x, EPS, None)
    seconds: dict[str, list[float]] = {"ours": [], "literal YOPO-5-3": [], "TRADES-10": []}
    for arch in archs:
        model = Subnet(space, arch, generator).to(device)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for round_ in range(rounds + 1):
            for name, function in zip(seconds, (ours, literal_yopo, trades10), strict=True):
                taken = timed(function, model, optimiser, x, y, noise)
                if round_:  # the first round warms up
                    seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{geometry} geometry, {size}x{size}, batch {batch}, {device}, {threads} threads, {rounds} rounds x 3 networks"
    )
    for name, value in medians.items():
        print(f"{name:18} {1e3 * value:9.1f} ms   {value / medians['ours']:.2f}x ours")
    if out:
        ratios = {name: value / medians["ours"] for name, value in medians.items()}
        out.write_text(json.dumps({"geometry": geometry, "batch": batch, "device": device, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
