"""One training step: ours against the literal TRADES-YOPO loop and TRADES-10 as published.

    python -m benchmarks.training_step [--row ROW] [--geometry paper] [--batch 64] [--rounds 10]

(a) literal: per outer step a full propagation, then n inner steps that differentiate the first
layer by autograd, accumulating its weight gradients, which are thrown away later. (b) TRADES-10:
ten steps, each of which computes the clean logits again. All three start from equal weights and
train the same three networks in one process, in turns; ratios are of medians, on one CPU thread of the time that
the process computes. Ours runs as the training loop runs it; (a) and (b) run as their code does: with torch's own
BatchNorm, in contiguous memory, eagerly, in float32.
Where ours trains in bfloat16 (on CUDA), a second line gives it eagerly in float32, so that the
levers can be told apart; on CPU a second line gives (a) in channels-last memory.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import ATTACK, PLAIN, alternate, environment, own_clock, parameters, report, setting
from benchmarks.options import GEOMETRY, benchmark, click
from tamnas import Subnet
from tamnas.attacks.yopo import start_noise, trades_loss
from tamnas.pipeline.device import MEMORY_FORMAT, Runtime
from tamnas.seeding import numpy_generator, torch_generator
from tamnas.training.loop import sgd
from tamnas.training.step import Stepper

EPS = 8 / 255


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


def with_torchs_norms(model: nn.Module) -> nn.Module:
    """`model`, each of our BatchNorms changed into torch's."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d
    return model


def contenders(model: nn.Module, recipe, batch: tuple[Tensor, Tensor, Tensor], runtime: Runtime) -> dict:
    """A function per contender, each with its own copy of the network and its own optimiser."""
    x, y, noise = batch
    dense = x.to(memory_format=MEMORY_FORMAT)
    plain = recipe.model_copy(update=PLAIN)  # as the others

    def ours(runtime: Runtime):
        network = copy.deepcopy(model).to(memory_format=MEMORY_FORMAT).train()
        optimiser, stepper = sgd(recipe, list(network.parameters())), Stepper(ATTACK, plain, runtime)
        return lambda: stepper(network, optimiser, dense, y, noise, 0.01)

    def theirs(step, memory_format=torch.contiguous_format):
        network = with_torchs_norms(copy.deepcopy(model)).to(memory_format=memory_format)
        optimiser, images = torch.optim.SGD(network.parameters(), 0.01, 0.9), x.to(memory_format=memory_format)
        return lambda: step(network, optimiser, images, y, noise)

    steps = {
        "ours": ours(runtime),
        "(a) literal TRADES-YOPO-5-3": theirs(literal_yopo),
        "(b) TRADES-10": theirs(trades10),
    }
    if runtime.device.type == "cuda":
        return steps | {"ours, eager float32": ours(Runtime(runtime.device))}
    return steps | {"(a), channels-last": theirs(literal_yopo, MEMORY_FORMAT)}


@benchmark
@GEOMETRY
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--size", type=click.IntRange(min=8), help="Of the images.  [default: the geometry's]")
@click.option("--networks", type=click.IntRange(min=1), default=3, show_default=True)
def main(row, where, threads, out, geometry: str, batch: int, rounds: int, size: int | None, networks: int) -> None:
    at = setting(row, where, threads)
    space, own_size = at.geometry(geometry)
    size = size or own_size
    device, generator = at.runtime.device, torch_generator("benchmark", "images")
    x = torch.rand((batch, 3, size, size), generator=generator)
    y = torch.randint(0, 10, (batch,), generator=generator)
    images = tuple(tensor.to(device) for tensor in (x, y, start_noise(x, EPS, generator)))
    rows, ratios = [], {}
    for number in range(networks):
        arch = space.sample(numpy_generator("benchmark", number))
        model = Subnet(space, arch, torch_generator("benchmark", number)).to(device)
        steps = contenders(model, at.plan.retrain.scratch.recipe, images, at.runtime)
        taken = alternate(steps, rounds, device, 5, own_clock(device))
        for name, value in taken.items():
            ratios.setdefault(name, []).append(value / taken["ours"])
            rows.append([number, parameters(model), name, 1e3 * value, value / taken["ours"]])
    means = {name: sum(values) / len(values) for name, values in ratios.items()}
    rows += [["mean", "", name, "", ratio] for name, ratio in means.items()]
    title = f"TRADES-YOPO-5-3 step, {geometry} geometry at {size}x{size}, batch {batch}"
    columns = ["network", "parameters", "step", "ms", "time / ours"]
    result = environment(device, threads, rounds) | {"ratios": means, "geometry": geometry, "batch": batch}
    report(title, columns, rows, result, out)


if __name__ == "__main__":
    main()
