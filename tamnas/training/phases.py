"""Training the supernet: block phase, then joint phase (paper, Section III-C and Algorithm 1)."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from tamnas.config.plan import PhaseStagePlan
from tamnas.data.loader import Split, steps_per_epoch
from tamnas.errors import InputError
from tamnas.networks.paths import Paths
from tamnas.networks.supernet import Supernet
from tamnas.networks.trained import load_supernet, load_tensors, supernet_tensors
from tamnas.pipeline.device import MEMORY_FORMAT, Runtime
from tamnas.pipeline.progress import Progress
from tamnas.pipeline.ranks import is_first
from tamnas.seeding import numpy_generator, torch_generator
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace
from tamnas.training.loop import Resume, TrainingOutcome, sgd, train


class SampledPaths:
    """A trainee that trains one drawn path of the supernet after another, or `plan.paths` of them at once.

    Draw k derives from (key, k) alone. The path's weights and momentum live in a standalone
    subnet while it is trained and return to the supernet when the path changes.
    """

    def __init__(self, supernet: Supernet, plan: PhaseStagePlan, steps: int, key: tuple):
        self.supernet, self.space, self.key = supernet.train(), supernet.space, key
        self.plan, self.every, self.steps = plan, plan.resample_every, steps
        self._draw = self.network = self._optimiser = None

    def stepped(self) -> None:
        if isinstance(self.network, Paths):
            self.network.share_statistics()

    def at(self, epoch: int, step: int):
        draw = epoch // self.every.epochs if self.every.epochs else (epoch * self.steps + step) // self.every.steps
        if draw != self._draw:
            self._return()
            self._draw = draw
            archs = [self.architecture(draw, path) for path in range(self.plan.paths)]
            subnets = [self.supernet.extract(arch, MEMORY_FORMAT) for arch in archs]
            self.network = subnets[0] if len(subnets) == 1 else Paths(self.supernet, subnets)
            self._optimiser = sgd(self.plan.recipe, list(self.network.parameters()))
            for subnet in subnets:
                self.supernet.lend_momentum(subnet, self._optimiser)
        return self.network, self._optimiser

    def architecture(self, draw: int, path: int = 0) -> Architecture:
        """Path `path` of draw number `draw`, over the ratios then open: uniform under the budget, or dealt fairly."""
        epoch = draw * self.every.epochs if self.every.epochs else draw * self.every.steps // self.steps
        ratios = self.space.ratios[-1:]
        if opening := self.plan.open_ratios:
            ratios = self.space.open_ratios(epoch, opening.first, opening.after, opening.every)
        random = numpy_generator(*self.key, "draw", draw, *([path] if path else []))
        if self.plan.draw == "uniform":
            return self.space.sample(random, self.plan.budget, ratios)
        return Architecture(
            tuple(self._dealt(layer, draw * self.plan.paths + path) for layer in range(len(self.space.layers))),
            tuple(random.choice(ratios, len(self.space.layers)).tolist()),
        )

    def _dealt(self, layer: int, path: int) -> int:
        """A block from the layer's shuffled deck: each one once in as many paths (FairNAS' strict fairness, 2021)."""
        deck = self.space.allowed_blocks(layer)
        shuffled = numpy_generator(*self.key, "deck", layer, path // len(deck)).permutation(deck)
        return int(shuffled[path % len(deck)])

    def _return(self) -> None:
        if self.network is not None:
            for subnet in self.network.subnets if isinstance(self.network, Paths) else [self.network]:
                self.supernet.absorb(subnet, self._optimiser)

    def weights(self) -> Iterator[Tensor]:
        self._return()
        return self.supernet.parameters()

    def tensors(self) -> dict[str, Tensor]:
        self._return()
        return supernet_tensors(self.supernet)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        load_tensors(self.supernet, tensors)
        self._draw = self.network = self._optimiser = None


def train_phase(
    plan: PhaseStagePlan, stage: str, split: Split, start: Path | None, runtime: Runtime, resume: Resume
) -> tuple[Supernet, TrainingOutcome]:
    """Train the phase of a `stage`; without the weights of an earlier phase to `start` from, from fresh ones.

    Raises InputError where ranks or paths do not divide a batch.
    """
    recipe, batch = plan.recipe, min(plan.recipe.batch_size, len(split))
    for name, number, least in (("ranks", plan.ranks, 1), ("paths", plan.paths, min(plan.paths, 2))):
        if batch % number or batch < least * number:
            allowed = f"divisors of a batch of the {batch} training images, {least} or more for each"
            raise InputError(f"supernet.{name} is {number}; allowed: {allowed}")
    key, space = (plan.seed, stage, plan.name), SearchSpace.from_params(plan)
    if start is None:
        supernet = Supernet(space, torch_generator(*key, "weights")).to(runtime.device)
    else:
        supernet = load_supernet(space, start, runtime)
    if not plan.keep_momentum:
        for tensor in supernet.momentum.values():
            tensor.zero_()
    paths = SampledPaths(supernet, plan, steps_per_epoch(split, recipe.batch_size), key)
    with Progress(f"{stage.replace('_', ' ')} {plan.name}", recipe.epochs, show=is_first()) as progress:
        outcome = train(
            paths,
            split,
            recipe=recipe,
            attack=plan.attack,
            clean_epochs=plan.clean_epochs,
            augment=plan.augment,
            key=key,
            runtime=runtime,
            resume=resume,
            progress=progress,
        )
    paths.tensors()  # returns the last path
    return supernet, outcome
