"""The sections of `params.yaml`, a mode's patch merged over them, and what they resolve to.

Where a section leaves something to a default that depends on other parameters, its `resolve` writes it out: the plain
form of a plan's section (`tamnas.config.sections`), which is validated with the plan. Nothing here needs torch.
"""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tamnas.config import images, sections
from tamnas.config.compute import ComputeParams
from tamnas.config.fields import PixelFraction, Section, distinct, exactly_one, only_ints, validated
from tamnas.config.sections import Count, Name, Positive, TrainingLoss

# Attack steps of the paper's mode names -> (m, n) of TRADES-YOPO-m-n (docs/reading.md, item 22).
STEPS_TO_M_N = {1: (1, 2), 2: (2, 2), 5: (3, 2), 10: (5, 3)}


class RowParams(Section):
    dataset: Name
    mode: Name


class RunParams(Section):
    datasets: tuple[Name, ...] = Field(min_length=1)
    rows: dict[Name, RowParams] = Field(min_length=1)


class YopoParams(Section):
    m: Positive
    n: Positive
    step_size: PixelFraction | None = None
    bn: Literal["eval", "batch"] | None = None


class TrainingAttackParams(Section):
    eps: PixelFraction
    attack_steps: Annotated[Literal[1, 2, 5, 10], only_ints(1, 2, 5, 10)] | None = None
    yopo: YopoParams | None = None
    loss: TrainingLoss | None = None
    lam: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check(self):
        exactly_one(attack_steps=self.attack_steps, yopo=self.yopo)
        if self.loss == "pgd_at" and self.lam is not None:
            raise ValueError(f"lam is {self.lam:g}; the loss pgd_at has none; allowed: null")
        return self

    def resolve(self, loss: str, lam: float, bn: str) -> dict:
        """With `loss`, `lam` and BatchNorm mode `bn` where nothing else is said."""
        m, n = (self.yopo.m, self.yopo.n) if self.yopo else STEPS_TO_M_N[self.attack_steps]
        # At least eps / 4, and long enough that m * n steps can reach the border (docs/reading.md, item 23).
        step = max(self.eps / 4, Fraction(5, 4) * self.eps / (m * n))
        if self.yopo:
            step, bn = self.yopo.step_size or step, self.yopo.bn or bn
        loss = self.loss or loss
        lam = None if loss == "pgd_at" else self.lam or lam
        return {
            "loss": loss,
            "eps": self.eps,
            "step_size": min(step, Fraction(1)),
            "m": m,
            "n": n,
            "bn": bn,
            "lam": lam,
        }


class TrainingParams(sections.RegularisedParams):
    """`attack` null: the mode's, whose `loss` and `lam` are also those of an attack that names none."""

    epochs: Positive
    schedule: sections.ScheduleParams
    attack: TrainingAttackParams | None = None

    def resolve(self, attack: dict | None = None) -> dict:
        """`attack` is the mode's, resolved."""
        if self.attack:
            mode = attack or {"loss": "trades", "lam": None}
            attack = self.attack.resolve(mode["loss"], mode["lam"] or 1.0, "eval")
        recipe = self.model_dump(mode="json", exclude={"attack"})
        return {"recipe": recipe, "attack": attack}


class BlockPhaseParams(Section):
    """The first `clean_epochs` train on clean images alone, at a third of the price of TRADES in one step."""

    epochs: Positive
    clean_epochs: Count = 0
    budget: sections.ParameterRange | None = None
    milestones: tuple[Positive, ...] = ()

    @model_validator(mode="after")
    def _clean(self):
        if self.clean_epochs > self.epochs:
            raise ValueError(f"clean_epochs: {self.clean_epochs} are more than the {self.epochs} epochs")
        return self


class JointPhaseParams(BlockPhaseParams):
    open_ratios: sections.OpenRatiosParams


class SupernetScheduleParams(Section):
    """`span: phase` restarts schedule and momentum with the joint phase, `both` runs on."""

    kind: Literal["milestones", "cosine", "one_cycle"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup: Count = 0
    span: Literal["phase", "both"] = "phase"


class SupernetParams(TrainingAttackParams, sections.OptimiserParams):
    loss: TrainingLoss = "trades"
    resample_every: sections.ResampleParams
    draw: sections.Draw = "uniform"
    schedule: SupernetScheduleParams
    block: BlockPhaseParams
    joint: JointPhaseParams
    ranks: sections.Ranks = 1
    paths: Positive = 1

    @model_validator(mode="after")
    def _divide(self):
        if self.batch_size % self.ranks:
            raise ValueError(f"ranks: is {self.ranks}; allowed: divisors of the batch size, {self.batch_size}")
        if self.batch_size % self.paths or self.batch_size < 2 * self.paths:
            allowed = f"divisors of the batch size, {self.batch_size}, that leave two images or more"
            raise ValueError(f"paths: is {self.paths}; allowed: {allowed}")
        if self.paths > 1 < self.ranks:
            raise ValueError(f"paths: is {self.paths}; allowed with {self.ranks} ranks: 1")
        for name, phase in (("block", self.block), ("joint", self.joint)):
            if self.draw == "fair" and phase.budget:
                raise ValueError(f"draw: is 'fair', which has no {name}.budget; allowed with a budget: 'uniform'")
        return self

    def resolve_phases(self) -> dict:
        """Attack and both phases."""
        both = self.schedule.span == "both"
        joint = self._phase(self.joint, self.block.epochs if both else 0)
        return {
            # Running statistics of a path that changes every step belong to other paths.
            "attack": self.resolve(self.loss, 1.0, "batch" if self.resample_every.steps is not None else "eval"),
            "resample_every": self.resample_every.plain(),
            "draw": self.draw,
            "ranks": self.ranks,
            "paths": self.paths,
            "block": self._phase(self.block, 0),
            "joint": joint | {"keep_momentum": both, "open_ratios": self.joint.open_ratios.plain()},
        }

    def _phase(self, phase: BlockPhaseParams, start: int) -> dict:
        both = self.schedule.span == "both"
        schedule = {field: value for field, value in self.schedule if field != "span"}
        milestones = sorted({*self.block.milestones, *self.joint.milestones}) if both else phase.milestones
        schedule |= {"milestones": milestones, "start": start}
        schedule["total"] = self.block.epochs + self.joint.epochs if both else phase.epochs
        optimiser = {field: getattr(self, field) for field in sections.OptimiserParams.model_fields}
        recipe = optimiser | {"epochs": phase.epochs, "schedule": schedule}
        return {"recipe": recipe, "clean_epochs": phase.clean_epochs, "budget": phase.budget}


class PgdParams(Section):
    """`eps` null: the supernet's; `step_size` null: eps / 4."""

    eps: PixelFraction | None = None
    steps: Positive
    step_size: PixelFraction | None = None

    def resolve(self, eps: Fraction) -> dict:
        eps = self.eps or eps
        return {"eps": eps, "steps": self.steps, "step_size": self.step_size or eps / 4}


class SearchParams(sections.Nsga2Params):
    front: sections.FrontName = "archive"
    attack: PgdParams

    def resolve(self, eps: Fraction) -> dict:
        """`eps` is the supernet's. Without `front`, which is for those that retrain."""
        return self.model_dump(mode="json", exclude={"front"}) | {"attack": self.attack.resolve(eps)}


class RetrainParams(Section):
    max_subnets: Positive | None = None
    validation: sections.ValidationParams
    scratch: TrainingParams
    finetune: TrainingParams

    def resolve(self, attack: dict, front: str) -> dict:
        """`attack` is the mode's, resolved, `front` the search's."""
        return {
            "front": front,
            "max_subnets": self.max_subnets,
            "validation": self.validation.resolve(),
            "scratch": self.scratch.resolve(attack),
            "finetune": self.finetune.resolve(attack),
        }


class ControlsParams(Section):
    random_networks: bool = False
    random_search: bool = False
    legonet: sections.LegoControlsParams = sections.LegoControlsParams()
    finetune_lr: tuple[Annotated[float, Field(gt=0)], ...] = ()
    finetune_equal_budget: bool = False
    common_attack: TrainingAttackParams | None = None

    @model_validator(mode="after")
    def _check(self):
        distinct(finetune_lr=self.finetune_lr)
        return self

    def resolve(self, retrain: RetrainParams, attack: dict, base: dict) -> dict:
        """Each training that a control stands for, written out; the equal budget is training from scratch's.

        `attack` is the mode's, `base` that of params.yaml without a mode, resolved.
        """
        scratch, finetune = retrain.scratch, retrain.finetune
        variants = {f"finetune_lr_{lr}": {"lr": lr} for lr in self.finetune_lr}
        if self.finetune_equal_budget:
            variants["finetune_equal_budget"] = {"epochs": scratch.epochs, "schedule": scratch.schedule}
        common = scratch.model_copy(update={"attack": self.common_attack})
        return {
            "random_networks": self.random_networks,
            "random_search": self.random_search,
            "legonet": self.legonet.plain(),
            "finetune": [
                {"control": name, "training": finetune.model_copy(update=changed).resolve(attack)}
                for name, changed in variants.items()
            ],
            # Common to all modes, which may differ in loss and lam
            "common_attack": common.resolve(base) if self.common_attack else None,
        }


class BaselineTrainingParams(TrainingParams):
    attack: TrainingAttackParams


class BaselinesParams(Section):
    names: tuple[Literal[sections.BASELINES], ...] = ()
    training: BaselineTrainingParams

    def resolve(self) -> dict:
        return {"names": self.names, "training": self.training.resolve()}


class BaseParams(Section):
    """Everything that a mode may patch."""

    seed: Count
    seeds: tuple[Count, ...]
    data: dict[Name, images.DataParams] = Field(min_length=1)
    network: sections.NetworkParams
    space: sections.SpaceParams
    supernet: SupernetParams
    search: SearchParams
    retrain: RetrainParams
    eval: sections.EvalParams
    legonet: sections.LegonetParams
    baselines: BaselinesParams
    controls: ControlsParams
    numerics: sections.NumericsParams
    compute: ComputeParams = ComputeParams()

    @model_validator(mode="after")
    def _check(self):
        if len({self.seed, *self.seeds}) != 1 + len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)}: must not repeat, nor hold seed itself ({self.seed})")
        for name in ("scratch", "finetune"):
            self._require_no_lam(f"retrain.{name}.attack", getattr(self.retrain, name).attack)
        return self

    def _require_no_lam(self, name: str, attack: TrainingAttackParams | None) -> None:
        """Raises ValueError for a lam beside the loss pgd_at, where the supernet's says that."""
        if attack and attack.lam is not None and not attack.loss and self.supernet.loss == "pgd_at":
            raise ValueError(f"{name}.lam: is {attack.lam:g}; its loss, the supernet's, is pgd_at, which has none")


class Params(BaseParams):
    """A whole `params.yaml`, and every row's parameters after its mode's patch."""

    run: RunParams
    modes: dict[Name, dict[str, Any]]

    @model_validator(mode="after")
    def _check_controls(self):
        self._require_no_lam("controls.common_attack", self.controls.common_attack)
        return self

    def mode(self, mode: str) -> BaseParams:
        """The mode's patch merged over the base. Raises InputError."""
        raw = self.model_dump(mode="json", exclude={"run", "modes"})
        return validated(BaseParams, merge(raw, self.modes[mode]), f"modes.{mode}")


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
