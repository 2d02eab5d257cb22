"""What a run is told, resolved: everything by row and by dataset, and what each stage instance may know of it.

A stage reads its own plan, plan/<row or dataset>/<stage>.yaml, and nothing else of the parameters, and DVC tracks that
file: what is not in it cannot change the stage's results, and a changed parameter re-runs the stages whose plans it
changes. Nothing here needs torch.
"""

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field

from tamnas.attacks.registry import Pgd
from tamnas.config import images, sections
from tamnas.config.fields import Section, read_yaml, validated
from tamnas.config.sections import Count, Name, Positive
from tamnas.errors import InputError
from tamnas.files import FORMAT, require_format


class OfDataset(Section):
    """What belongs to one dataset, in its section `data`."""

    @property
    def classes(self) -> int:
        return self.data.classes

    @property
    def size(self) -> int:
        return self.data.size


class RowPlan(OfDataset):
    """All that the stages of one row (one mode on one dataset) need."""

    format: Literal[1] = FORMAT
    row: Name
    dataset: Name
    mode: Name
    seed: Count
    seeds: tuple[Count, ...]
    data: images.DataParams
    network: sections.NetworkParams
    space: sections.SpaceParams
    supernet: sections.SupernetPlan
    search: sections.SearchPlan
    retrain: sections.RetrainPlan
    eval: sections.EvalParams
    legonet: sections.LegonetParams
    controls: sections.ControlsPlan
    numerics: sections.NumericsParams


class PooledPlan(Section):
    """Lego-Net over all rows of a dataset (Tables VIII to X). Not `trained`: it is that of the only row."""

    rows: tuple[Name, ...] = Field(min_length=1)
    trained: bool
    mode: Name
    network: sections.NetworkParams
    training: sections.TrainingPlan


class DatasetPlan(OfDataset):
    """All that the stages of one dataset need: pooled Lego-Net, baselines, evaluation."""

    row: ClassVar[None] = None  # of no row

    format: Literal[1] = FORMAT
    dataset: Name
    seed: Count
    seeds: tuple[Count, ...]
    data: images.DataParams
    space: sections.SpaceParams
    pooled: PooledPlan
    legonet: sections.LegonetParams
    controls: sections.PooledControlsPlan
    validation: sections.ValidationParams
    baselines: sections.BaselinesPlan
    eval: sections.EvalParams
    numerics: sections.NumericsParams

    @property
    def network(self) -> sections.NetworkParams:
        """The geometry of the dataset's pooled Lego-Net."""
        return self.pooled.network


PLANS = Path("plan")


class StagePlan(Section):
    """Of one stage instance; `name` is its row or dataset."""

    unkeyed: ClassVar[tuple[str, ...]] = ()  # what a checkpoint survives, such as `eval.attacks`

    format: Literal[1] = FORMAT
    name: Name
    dataset: Name

    @property
    def row(self) -> str | None:
        """None: a stage of a dataset."""
        return None if self.name == self.dataset else self.name

    @classmethod
    def load(cls, name: str, stage: str) -> Self:
        """The plan of a stage instance. Raises InputError."""
        return read_plan(cls, PLANS / name / f"{stage}.yaml")

    @classmethod
    def of(cls, known: Mapping[str, Any]) -> Self:
        """What a stage of this kind may know of all that is `known`, by field."""
        return cls(**{field: known[field] for field in cls.model_fields if field in known})

    def key(self) -> dict:
        """What a checkpoint of this stage depends on, JSON-able."""
        plain = self.plain()
        for parameter in self.unkeyed:
            *sections_, name = parameter.split(".")
            del reduce(dict.__getitem__, sections_, plain)[name]
        return plain


PlanType = TypeVar("PlanType", bound=Section)


def read_plan(kind: type[PlanType], path: Path) -> PlanType:
    """A plan file. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such plan; `dvc repro plan` or `python -m stages.plan` writes it")
    raw = read_yaml(path)
    require_format(path, raw.get("format"), "run the plan stage again")
    return validated(kind, raw, str(path))


class SourceStagePlan(StagePlan):
    source: str
    path: str | None


class PrepareStagePlan(StagePlan):
    data: images.ImagesParams


class NetworksStagePlan(StagePlan):
    """Of a stage that computes with networks of a space."""

    seed: Count
    numerics: sections.NumericsParams
    classes: sections.Channels
    size: Positive
    network: sections.NetworkParams
    space: sections.SpaceParams


class PhaseStagePlan(NetworksStagePlan):
    """One supernet phase. `open_ratios` null: the largest ratio alone (the block phase).

    `ranks` share each batch, and so do `paths` in each of them. That changes bits, so it is here and not with what
    `compute` says of places.
    """

    augment: images.AugmentParams
    attack: sections.TrainingAttackPlan
    resample_every: sections.ResampleParams
    draw: sections.Draw
    recipe: sections.RecipePlan
    clean_epochs: sections.Count
    budget: sections.ParameterRange | None
    open_ratios: sections.OpenRatiosParams | None
    keep_momentum: bool
    ranks: sections.Ranks = 1
    paths: Positive = 1


class RecalibrationParams(Section):
    bn_calibration_images: Count


class InheritStagePlan(NetworksStagePlan):
    """Of a stage that takes subnets out of the supernet, BatchNorm recalibrated on images in batches."""

    augment: images.AugmentParams
    batch_size: Positive
    search: RecalibrationParams


class SearchStagePlan(InheritStagePlan):
    """A longer search takes up what a shorter one has evaluated."""

    unkeyed = ("search.generations",)

    search: sections.SearchPlan


class RandomSearchStagePlan(SearchStagePlan):
    run: bool


class SelectStagePlan(InheritStagePlan):
    front: sections.FrontName
    max_subnets: Positive | None


class RankingParams(RecalibrationParams):
    attack: Pgd


class RankingStagePlan(InheritStagePlan):
    """Beside the accuracies of trained networks (of their `weights`) those with inherited ones, as the search does."""

    search: RankingParams
    weights: Literal["best", "last"]


class TrainingStagePlan(NetworksStagePlan):
    """Of a stage that trains standalone networks alike, as `training` says."""

    augment: images.AugmentParams
    validation: sections.ValidationParams
    training: sections.TrainingPlan


class LegonetStagePlan(TrainingStagePlan):
    """`rows` whose `top` networks vote, by the validation accuracy of their `weights`; none: nothing is trained."""

    rows: tuple[Name, ...]
    top: Positive
    weights: Literal["best", "last"]


class BaselinesStagePlan(StagePlan):
    unkeyed = ("baselines.names",)  # checkpoints are named by network

    seed: Count
    numerics: sections.NumericsParams
    classes: sections.Channels
    augment: images.AugmentParams
    validation: sections.ValidationParams
    baselines: sections.BaselinesPlan


class ControlsStagePlan(TrainingStagePlan):
    """Which controls are on is not part of a checkpoint's key: switching one on keeps what the others trained."""

    unkeyed = "seeds", "controls"

    seeds: tuple[Count, ...]


class RowControlsStagePlan(ControlsStagePlan):
    """`training` is from scratch; `weights` choose the row's representative."""

    finetune: sections.TrainingPlan
    budget: sections.ParameterRange | None
    max_macs: Positive | None
    weights: Literal["best", "last"]
    controls: sections.ControlsPlan


class PooledControlsStagePlan(ControlsStagePlan):
    unkeyed = (*ControlsStagePlan.unkeyed, "baselines.names")

    baselines: sections.BaselinesPlan
    controls: sections.PooledControlsPlan


class EvaluateStagePlan(NetworksStagePlan):
    """What is asked of final networks alone, or apart from the grid, attacks nothing again with the grid."""

    unkeyed = "eval.latency", "eval.attacks", "eval.final", "eval.checks"

    eval: sections.EvalParams


class EvaluateBaselinesStagePlan(EvaluateStagePlan):
    """Of hand-made networks, which are of no space."""

    network: None
    space: None


class StudyPlan(Section):
    """What the reports are told: everything, resolved, by row and by dataset."""

    format: Literal[1] = FORMAT
    rows: dict[Name, RowPlan]
    datasets: dict[Name, DatasetPlan]


STUDY = PLANS / "tables.yaml"


def load_study() -> StudyPlan:
    """The plan of the stage `tables`. Raises InputError."""
    return read_plan(StudyPlan, STUDY)


def row_stages(row: RowPlan) -> dict[str, StagePlan]:
    """The plan of every stage of a row, by stage."""
    known = dict(row) | {
        "name": row.row,
        "rows": (row.row,),
        "classes": row.data.classes,
        "augment": row.data.augment,
        "size": row.data.size,
        "batch_size": row.supernet.joint.recipe.batch_size,
        "budget": row.search.budget,
        "max_macs": row.search.max_macs,
        "top": row.legonet.top,
        "weights": row.eval.weights,
        "training": row.retrain.scratch,
        **dict(row.retrain),
    }
    supernet = known | dict(row.supernet)
    block = supernet | dict(row.supernet.block) | {"open_ratios": None, "keep_momentum": False}
    recalibration = RecalibrationParams(bn_calibration_images=row.search.bn_calibration_images)
    controls = row.controls.model_copy(update={"random_search": False})  # a stage of its own
    return {
        "supernet_block": PhaseStagePlan.of(block),
        "supernet_joint": PhaseStagePlan.of(supernet | dict(row.supernet.joint)),
        "search": SearchStagePlan.of(known),
        "random_search": RandomSearchStagePlan.of(known | {"run": row.controls.random_search}),
        "select": SelectStagePlan.of(known | {"search": recalibration}),
        "ranking": RankingStagePlan.of(
            known | {"search": RankingParams(**dict(recalibration), attack=row.search.attack)}
        ),
        "retrain_scratch": TrainingStagePlan.of(known),
        "retrain_finetune": TrainingStagePlan.of(known | {"training": row.retrain.finetune}),
        "legonet": LegonetStagePlan.of(known),
        "controls": RowControlsStagePlan.of(known | {"controls": controls}),
        **{f"evaluate_{kind}": EvaluateStagePlan.of(known) for kind in ("scratch", "finetune", "legonet", "controls")},
    }


def dataset_stages(plan: DatasetPlan) -> dict[str, StagePlan]:
    """The plan of every stage of a dataset, by stage."""
    known = dict(plan) | {
        "name": plan.dataset,
        "classes": plan.data.classes,
        "augment": plan.data.augment,
        "size": plan.data.size,
        "top": plan.legonet.top,
        "weights": plan.eval.weights,
        **dict(plan.pooled),
    }
    known["rows"] = plan.pooled.rows if plan.pooled.trained else ()
    without_augment = images.ImagesParams(**plan.data.model_dump(exclude={"augment"}))
    return {
        "source": SourceStagePlan.of(known | dict(plan.data)),
        "prepare": PrepareStagePlan.of(known | {"data": without_augment}),
        "baselines": BaselinesStagePlan.of(known),
        "legonet_pooled": LegonetStagePlan.of(known),
        "controls_pooled": PooledControlsStagePlan.of(known),
        "evaluate_legonet_pooled": EvaluateStagePlan.of(known),
        "evaluate_baselines": EvaluateBaselinesStagePlan.of(known | {"network": None, "space": None}),
        "evaluate_controls_pooled": EvaluateStagePlan.of(known),
    }


def stage_plans(study: StudyPlan) -> dict[Path, StagePlan | StudyPlan]:
    """Every plan file of a run, by path; `study` as `tamnas.config.resolve.resolve_study` gives it."""
    stages = {name: row_stages(plan) for name, plan in study.rows.items()}
    stages |= {name: dataset_stages(plan) for name, plan in study.datasets.items()}
    files = {PLANS / name / f"{stage}.yaml": plan for name, own in stages.items() for stage, plan in own.items()}
    return files | {STUDY: study}
