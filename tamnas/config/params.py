"""The sections of `params.yaml`, and a mode's patch merged over them.

What follows from them is resolved into plans (`tamnas.config.resolve`). Nothing here needs torch.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tamnas.attacks.registry import Pgd
from tamnas.config import plan as plans
from tamnas.config.compute import Compute
from tamnas.config.fields import PixelFraction, Section, only_ints, validated
from tamnas.config.plan import Count, Name, Positive, Share


class Row(Section):
    dataset: Name
    mode: Name


class Run(Section):
    datasets: tuple[Name, ...] = Field(min_length=1)
    rows: dict[Name, Row] = Field(min_length=1)


class Yopo(Section):
    m: Positive
    n: Positive
    step_size: PixelFraction | None = None
    bn: Literal["eval", "batch"] | None = None


class TrainingAttackParams(Section):
    eps: PixelFraction
    attack_steps: Annotated[Literal[1, 2, 5, 10], only_ints(1, 2, 5, 10)] | None = None
    yopo: Yopo | None = None
    lam: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check(self):
        if (self.attack_steps is None) == (self.yopo is None):
            both = "neither is" if self.yopo is None else "both are"
            raise ValueError(f"set exactly one of attack_steps and yopo; here {both}")
        return self


class Recipe(plans.Regularised):
    epochs: Positive
    schedule: plans.ScheduleShape


class RetrainRecipe(Recipe):
    attack: TrainingAttackParams | None = None


class BaselineRecipe(Recipe):
    attack: TrainingAttackParams


class BlockPhase(Section):
    epochs: Positive
    budget: plans.Budget | None = None
    milestones: tuple[Positive, ...] = ()


class JointPhase(BlockPhase):
    open_ratios: plans.OpenRatios


class SupernetSchedule(Section):
    """`span: phase` restarts schedule and momentum with the joint phase, `both` runs on."""

    kind: Literal["milestones", "cosine", "one_cycle"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup: Count = 0
    span: Literal["phase", "both"] = "phase"


class Supernet(TrainingAttackParams, plans.Optimiser):
    lam: Annotated[float, Field(gt=0)] = 1.0
    resample_every: plans.ResampleEvery
    schedule: SupernetSchedule
    block: BlockPhase
    joint: JointPhase


class PgdParams(Section):
    """`eps` null: the supernet's; `step_size` null: eps / 4."""

    eps: PixelFraction | None = None
    steps: Positive
    step_size: PixelFraction | None = None


class Search(plans.Nsga2):
    attack: PgdParams


class ValidationParams(Section):
    attack: Pgd
    start: Share = 0.0


class Retrain(Section):
    max_subnets: Positive | None = None
    validation: ValidationParams
    scratch: RetrainRecipe
    finetune: RetrainRecipe


class Legonet(Section):
    top: Positive
    pooled_mode: dict[Name, Name] = Field(default_factory=dict)


class Controls(Section):
    random_networks: bool = False
    random_search: bool = False
    legonet: plans.LegoControls = plans.LegoControls()
    finetune_lr: tuple[Annotated[float, Field(gt=0)], ...] = ()
    finetune_equal_budget: bool = False
    common_attack: TrainingAttackParams | None = None

    @model_validator(mode="after")
    def _check(self):
        if len(set(self.finetune_lr)) != len(self.finetune_lr):
            raise ValueError(f"finetune_lr: {list(self.finetune_lr)}: must not repeat")
        return self


class Baselines(Section):
    names: tuple[Literal[plans.BASELINES], ...] = ()
    training: BaselineRecipe


class Base(Section):
    """Everything that a mode may patch."""

    seed: Count
    seeds: tuple[Count, ...] = ()
    data: dict[Name, plans.Data] = Field(min_length=1)
    network: plans.Network
    space: plans.Space
    supernet: Supernet
    search: Search
    retrain: Retrain
    eval: plans.Eval
    legonet: Legonet
    baselines: Baselines
    controls: Controls = Controls()
    numerics: plans.Numerics
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _check(self):
        if len({self.seed, *self.seeds}) != 1 + len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)}: must not repeat, nor hold seed itself ({self.seed})")
        return self


class Params(Base):
    """A whole `params.yaml`, and every row's parameters after its mode's patch."""

    run: Run
    modes: dict[Name, dict[str, Any]]

    def row(self, name: str) -> Base:
        """The parameters of one row: its mode merged over the base. Raises InputError."""
        mode = self.run.rows[name].mode
        raw = {key: value for key, value in self.plain().items() if key not in ("run", "modes")}
        return validated(Base, merge(raw, self.modes[mode]), f"params.yaml: modes.{mode}")


def merge(base: dict, patch: dict) -> dict:
    """Deep merge. A patch that sets one of `attack_steps` and `yopo` clears the base's other."""
    merged = dict(base)
    for key, other in (("attack_steps", "yopo"), ("yopo", "attack_steps")):
        if patch.get(key) is not None and patch.get(other) is None and other in merged:
            merged[other] = None
    for key, value in patch.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if nested else value
    return merged
