"""Training the supernet: block phase, then joint phase (paper, Section III-C and Algorithm 1)."""

from pathlib import Path

from torch import Tensor

from tamnas.config.plan import JointPhase, RowPlan
from tamnas.data.loader import Split, steps_per_epoch
from tamnas.networks.supernet import Supernet
from tamnas.networks.trained import load_supernet, load_tensors, supernet_tensors
from tamnas.pipeline.device import MEMORY_FORMAT, Runtime
from tamnas.pipeline.progress import Progress
from tamnas.seeding import numpy_generator, torch_generator
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace
from tamnas.training.loop import Outcome, Resume, sgd, train


class SampledPaths:
    """A trainee that trains one drawn path of the supernet after another.

    Draw k derives from (key, k) alone. The path's weights and momentum live in a standalone
    subnet while it is trained and return to the supernet when the path changes.
    """

    def __init__(self, supernet: Supernet, plan: RowPlan, phase: str, steps: int, key: tuple):
        self.supernet, self.space, self.key = supernet.train(), supernet.space, key
        self.phase = getattr(plan.supernet, phase)
        self.every = plan.supernet.resample_every
        self.steps = steps
        self.make_optimiser = sgd(self.phase.recipe)
        self._draw: int | None = None
        self._subnet = self._optimiser = None

    @property
    def network(self):
        return self._subnet

    def stepped(self) -> None:
        """Nothing: averages of paths that change would mix them."""

    def at(self, epoch: int, step: int):
        draw = epoch // self.every.epochs if self.every.epochs else (epoch * self.steps + step) // self.every.steps
        if draw != self._draw:
            self._return()
            self._draw = draw
            arch = self.architecture(draw)
            self._subnet, self._optimiser = self.supernet.extract(arch, self.make_optimiser, MEMORY_FORMAT)
        return self._subnet, self._optimiser

    def architecture(self, draw: int) -> Architecture:
        """Draw number `draw`: uniform under the phase's budget, over the ratios then open."""
        epoch = draw * self.every.epochs if self.every.epochs else draw * self.every.steps // self.steps
        ratios = self.space.ratios[-1:]
        if isinstance(self.phase, JointPhase):
            opening = self.phase.open_ratios
            ratios = self.space.open_ratios(epoch, opening.first, opening.after, opening.every)
        return self.space.sample(numpy_generator(*self.key, "draw", draw), self.phase.budget, ratios)

    def _return(self) -> None:
        if self._subnet is not None:
            self.supernet.absorb(self._subnet, self._optimiser)

    def tensors(self) -> dict[str, Tensor]:
        self._return()
        return supernet_tensors(self.supernet)

    def restore(self, tensors: dict[str, Tensor], epoch: int) -> None:
        load_tensors(self.supernet, tensors)
        self._draw = self._subnet = self._optimiser = None


def train_phase(
    plan: RowPlan, phase: str, split: Split, start: Path | None, runtime: Runtime, resume: Resume
) -> tuple[Supernet, Outcome]:
    """Train one phase, "block" or "joint"; the joint phase starts from the block weights."""
    key = (plan.seed, f"supernet_{phase}", plan.row)
    if start is None:
        supernet = Supernet(SearchSpace.from_params(plan), torch_generator(*key, "weights")).to(runtime.device)
    else:
        supernet = load_supernet(plan, start, runtime)
    settings = getattr(plan.supernet, phase)
    if not getattr(settings, "keep_momentum", True):
        for tensor in supernet.momentum.values():
            tensor.zero_()
    recipe = settings.recipe
    paths = SampledPaths(supernet, plan, phase, steps_per_epoch(split, recipe.batch_size), key)
    with Progress(f"supernet {phase} {plan.row}", recipe.epochs) as progress:
        outcome = train(
            paths, split, recipe=recipe, attack=plan.supernet.attack, augment=plan.data.augment,
            key=key, runtime=runtime, resume=resume, progress=progress,
        )  # fmt: skip
    paths.tensors()  # brings the last path home
    return supernet, outcome
