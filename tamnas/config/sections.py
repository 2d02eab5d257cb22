"""Sections of parameters, mostly the same before and after they are resolved, and what others resolve to.

Nothing here needs torch.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tamnas.attacks.registry import AnyAttack, Attack, EvalAttack, Pgd
from tamnas.config.fields import PixelFraction, Positive, Ranks, Section, distinct, exactly_one, only_ints, several
from tamnas.search.objectives import OBJECTIVES
from tamnas.space.blocks import BLOCKS

Count = Annotated[int, Field(ge=0, lt=2**63)]
Channels = Annotated[int, Field(ge=1, le=2**16)]
Share = Annotated[float, Field(ge=0, le=1)]
TrainingLoss = Literal["trades", "pgd_at"]
Draw = Literal["uniform", "fair"]
ParameterRange = tuple[Count | None, Count | None]
# Names become folders and DVC stage names; DVC cannot resolve a dot inside a name.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
PAPER_BASELINES = ("resnet18", "shufflenetv2", "mobilenetv3", "resnet20", "resnet32", "wrn34_2")
BASELINES = (*PAPER_BASELINES, "resnet8", "resnet8_silu")


class HeadParams(Section):
    conv: Channels
    hidden: Annotated[int, Field(ge=4, le=2**16)]
    out: Channels


class NetworkParams(Section):
    stem_channels: Channels
    channels: tuple[Channels, ...] = Field(min_length=1, max_length=16)
    repeats: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(min_length=1, max_length=16)
    strides: tuple[Annotated[Literal[1, 2], only_ints(1, 2)], ...] = Field(min_length=1, max_length=16)
    head: HeadParams | None
    activation: Literal["relu", "silu"] = "relu"
    width: Annotated[float, Field(gt=0, le=16)] = 1

    @model_validator(mode="after")
    def _check(self):
        lengths = len(self.channels), len(self.repeats), len(self.strides)
        if len(set(lengths)) > 1:
            shown = "{}, {} and {}".format(*lengths)
            raise ValueError(f"channels, repeats and strides have {shown} entries; allowed: one per stage each")
        return self


class SpaceParams(Section):
    blocks: tuple[Count, ...] = Field(min_length=1)
    ratios: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _check(self):
        distinct(blocks=self.blocks, ratios=self.ratios)
        if max(self.blocks) >= len(BLOCKS):
            raise ValueError(f"blocks: {max(self.blocks)}; allowed: 0 to {len(BLOCKS) - 1}")
        return self


class ScheduleParams(Section):
    """`warmup` in epochs; at each of `milestones` the learning rate is multiplied by `factor`.
    `one_cycle` rises to the learning rate over `warmup` and falls to next to nothing, both along a cosine.
    """

    kind: Literal["milestones", "cosine", "one_cycle"]
    milestones: tuple[Positive, ...] = ()
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup: Count = 0


class SchedulePlan(ScheduleParams):
    """Learning rate over epochs; a phase covers `start` to `start + epochs` of `total`."""

    start: Count = 0
    total: Positive | None = None


class OptimiserParams(Section):
    """SGD with momentum; `clip_norm` is the largest gradient norm, null for no clipping."""

    batch_size: Annotated[int, Field(ge=2, lt=2**31)]
    lr: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)] | None = None


class RegularisedParams(OptimiserParams):
    """Beyond the paper, off by default: `ema`, decay per step of an average of weights; `awp`, size of their attack."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    awp: Annotated[float, Field(gt=0, lt=1)] | None = None


class RecipePlan(RegularisedParams):
    """How one network (or one supernet phase) is trained."""

    epochs: Positive
    schedule: SchedulePlan

    @model_validator(mode="after")
    def _check(self):
        milestones, end = self.schedule.milestones, self.schedule.total or self.epochs
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"schedule.milestones: {list(milestones)}: must increase")
        if milestones and milestones[-1] >= end:
            raise ValueError(f"schedule.milestones: {milestones[-1]} is past the last epoch, {end - 1}")
        if self.schedule.kind != "milestones" and milestones:
            raise ValueError(f"schedule.milestones: a {self.schedule.kind} schedule has none")
        if self.schedule.kind == "one_cycle" and self.schedule.warmup == 0:
            raise ValueError("schedule.warmup is 0; allowed for one_cycle: 1 or more")
        if self.schedule.warmup >= end:
            raise ValueError(f"schedule.warmup: {self.schedule.warmup} must be below the {end} epochs")
        return self


class TrainingAttackPlan(Section):
    """TRADES-YOPO-m-n: radius, inner step, m, n, BatchNorm mode, lam of Eq. 3. Or PGD-AT in such steps, without lam."""

    loss: TrainingLoss = "trades"
    eps: PixelFraction
    step_size: PixelFraction
    m: Positive
    n: Positive
    bn: Literal["eval", "batch"] = "eval"
    lam: Annotated[float, Field(gt=0)] | None = 1.0

    @property
    def name(self) -> str:
        return f"{'PGD-AT' if self.loss == 'pgd_at' else 'TRADES-YOPO'}-{self.m}-{self.n}"

    @property
    def essence(self) -> tuple:
        """Equal for equal perturbations: of n and the step size only the product counts."""
        return self.loss, self.eps, self.m, self.n * self.step_size, self.bn, self.lam


class ResampleParams(Section):
    epochs: Positive | None = None
    steps: Positive | None = None

    @model_validator(mode="after")
    def _check(self):
        exactly_one(epochs=self.epochs, steps=self.steps)
        return self


class OpenRatiosParams(Section):
    first: Positive
    after: Count
    every: Positive


class BlockPhasePlan(Section):
    recipe: RecipePlan
    clean_epochs: Count
    budget: ParameterRange | None


class JointPhasePlan(BlockPhasePlan):
    keep_momentum: bool
    open_ratios: OpenRatiosParams


class SupernetPlan(Section):
    attack: TrainingAttackPlan
    resample_every: ResampleParams
    draw: Draw
    block: BlockPhasePlan
    joint: JointPhasePlan
    ranks: Ranks = 1
    paths: Positive = 1


FrontName = Literal["archive", "population"]  # of all that the search evaluated, or of its final population


class Nsga2Params(Section):
    """The search; `stagnation` generations without hypervolume gain end it, null for never."""

    population: Annotated[int, Field(ge=2, le=100_000)]
    offspring: Annotated[int, Field(ge=1, le=100_000)]
    generations: Positive
    tournament: Annotated[int, Field(ge=2, le=100_000)]
    mutation_probability: Share
    mutation_unit: Literal["gene", "individual"] = "individual"
    objectives: tuple[str, ...] = ("clean_error", "robust_error", "parameters")
    crossover_probability: Share
    budget: ParameterRange | None = None
    max_macs: Positive | None = None
    bn_calibration_images: Annotated[Count, several]
    stagnation: Positive | None = None
    predictor: Literal["extra_trees"] | None = None

    @model_validator(mode="after")
    def _check(self):
        if self.tournament > self.population:
            raise ValueError(f"tournament: {self.tournament} is larger than the population, {self.population}")
        distinct(objectives=self.objectives)
        if not 2 <= len(self.objectives) <= 4:
            count, names = len(self.objectives), ", ".join(OBJECTIVES)
            raise ValueError(f"objectives: {count} are given; allowed: 2 to 4 of {names}")
        if unknown := [name for name in self.objectives if name not in OBJECTIVES]:
            raise ValueError(f"objectives: {unknown[0]!r}; allowed: {', '.join(OBJECTIVES)}")
        return self


class SearchPlan(Nsga2Params):
    attack: Pgd


class ValidationParams(Section):
    """The reference attack on validation images; PGD from `start` x epochs on, clean in every epoch."""

    attack: Pgd
    start: Share = 0.0

    def resolve(self) -> dict:
        attack = self.attack
        return {"attack": attack.plain() | {"step_size": attack.step_size or attack.eps / 4}, "start": self.start}


class TrainingPlan(Section):
    recipe: RecipePlan
    attack: TrainingAttackPlan


class RetrainPlan(Section):
    front: FrontName
    max_subnets: Positive | None
    validation: ValidationParams
    scratch: TrainingPlan
    finetune: TrainingPlan


class ChecksParams(Section):
    """Whether PGD is strong enough, on final networks: the other success rule and `restarts` random
    starts under `attack`, and a radius that nothing should survive, with the same number of steps.
    """

    attack: Pgd
    restarts: Annotated[int, Field(ge=2, lt=2**31)]
    large_eps: PixelFraction


class EvalParams(Section):
    """The grid of PGD attacks on test images; step size eps / `step_divisor` where an attack says none.

    `final`: more of PGD on final networks. `attacks`: whatever is registered (`tamnas.attacks.listed`), each on the
    networks and images that it names; `step_divisor` and `success` are not theirs. `latency` also times
    final networks: the one result that differs from run to run.
    """

    eps: tuple[PixelFraction, ...] = Field(min_length=1)
    steps: tuple[Positive, ...] = Field(min_length=1)
    final: tuple[Pgd, ...] = ()
    attacks: tuple[AnyAttack, ...] = ()
    checks: ChecksParams | None = None
    step_divisor: Annotated[float, Field(gt=0)] = 4.0
    success: Literal["any", "last"]
    weights: Literal["best", "last"]
    latency: bool = False

    @model_validator(mode="after")
    def _check(self):
        distinct(eps=self.eps, steps=self.steps)
        keys = [attack.key for attack in self.planned()]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"final and attacks: {', '.join(twice)}: must differ from each other and from the grid")
        return self

    def pgd(self, final: bool) -> list[Pgd]:
        """The grid by radius and step count, with the extra ones of a final network."""
        grid = {Pgd(eps=eps, steps=steps) for eps in self.eps for steps in self.steps}
        grid |= set(self.final if final else ())
        return sorted(grid, key=lambda attack: (attack.eps, attack.steps))

    def listed(self, final: bool) -> list[EvalAttack]:
        """Those of `attacks` that a network gets."""
        return [attack for attack in self.attacks if final or attack.networks == "all"]

    def planned(self) -> list[Attack]:
        """All that a final network gets."""
        return [*self.pgd(final=True), *self.attacks]


class NumericsParams(Section):
    """`instruction_set` avx2: the same bits on every x86-64 machine (`tamnas.pipeline.instructions`)."""

    instruction_set: Literal["avx2", "native"] = "avx2"
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Positive | None
    deterministic: bool


class LegoControlsParams(Section):
    """Lego-Net reversed, block 0 everywhere and so many random networks, the latter of about its size."""

    reversed: bool = False
    uniform: bool = False
    random: Count = 0


class VariantPlan(Section):
    """Another way to train, beside a row's own; `control` is its name in results and reports."""

    control: str
    training: TrainingPlan


class PooledControlsPlan(Section):
    """What stands beside a pooled Lego-Net. `common_attack` is training from scratch under that attack."""

    legonet: LegoControlsParams = LegoControlsParams()
    common_attack: TrainingPlan | None = None

    @property
    def training(self) -> bool:
        """Whether any control trains networks."""
        return bool(self.legonet.reversed or self.legonet.uniform or self.legonet.random or self.common_attack)


class ControlsPlan(PooledControlsPlan):
    """What stands beside a row's results."""

    random_networks: bool = False
    random_search: bool = False
    finetune: tuple[VariantPlan, ...] = ()

    @property
    def training(self) -> bool:
        return bool(super().training or self.random_networks or self.finetune)


class BaselinesPlan(Section):
    names: tuple[Literal[BASELINES], ...] = ()
    training: TrainingPlan


class LegonetParams(Section):
    top: Positive
    pooled_mode: dict[Name, Name] = Field(default_factory=dict)
