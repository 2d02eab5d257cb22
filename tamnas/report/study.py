"""The finished study as the reports see it: plain values of what was searched, trained and tested.

`tamnas.report.collect` reads them from plan/ and results/. Accuracies are shares in [0, 1].
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from tamnas.attacks.registry import Attack, EvalAttack, Pgd
from tamnas.config.plan import DatasetPlan, RowPlan
from tamnas.config.sections import EvalParams, TrainingPlan
from tamnas.pipeline.paths import runs
from tamnas.records import Label, Record, merit
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


class WorstCase(EvalAttack):
    """All attacks of a radius or a smaller one together, on the images of an entry of `eval.attacks`."""

    kind: Literal["worst"] = "worst"

    @property
    def name(self) -> str:
        return "Worst case"

    @classmethod
    def beside(cls, attacks: Sequence[EvalAttack]) -> list[Self]:
        """One for each radius and number of images among `attacks`."""
        return list(dict.fromkeys(cls(eps=attack.eps, images=attack.images) for attack in attacks))


@dataclass(frozen=True)
class Test:
    """One trained network on test images: accuracy without attack, and under each attack as it is planned.

    `missed`: images that an attack leaves and fools within a smaller radius. `parts`: of each entry of `eval.attacks`
    its rows of attacks.csv (`tamnas.evaluation.attacked.attack_rows`).
    """

    clean: float
    grid: Mapping[Attack, float]
    images: int
    weights: str  # "best" or "last"
    missed: Mapping[Attack, int] = field(default_factory=dict)
    parts: Mapping[EvalAttack, Sequence[Mapping]] = field(default_factory=dict)

    @property
    def pgd(self) -> dict[Pgd, float]:
        """Of the grid's PGD alone, which runs on all images, by radius and step count."""
        attacks = [attack for attack in self.grid if type(attack) is Pgd]
        return {attack: self.grid[attack] for attack in sorted(attacks, key=lambda attack: (attack.eps, attack.steps))}

    def count(self, attack: Attack | None) -> int:
        """How many images an attack ran on; None: clean accuracy."""
        return getattr(attack, "images", None) or self.images


@dataclass(frozen=True)
class Costs:
    """Parameters behind the last choice block (or of the classifier) and before it, multiply-accumulates of an image.

    `milliseconds` for one image on one thread of `processor`, where it was measured.
    """

    head: int
    body: int
    macs: int
    milliseconds: float | None = None
    processor: str | None = None


@dataclass(frozen=True)
class TrainedNetwork:
    """A network after training, as `record` has it on validation.

    `repeats`: of the same network trained with further seeds, by seed. `checks`: accuracy by check of the attack.
    `at_chance`: no better on test images than predicting their largest class; nothing is concluded from it.
    """

    record: Record
    curve: Sequence[Mapping[str, float | None]]
    test: Test
    costs: Costs
    repeats: Mapping[int, Test] = field(default_factory=dict)
    checks: Mapping[str, float] = field(default_factory=dict)
    attack: Sequence[Mapping[str, float | int]] = ()  # one attack step by step; empty in results before it was kept
    at_chance: bool = False

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def architecture(self) -> Architecture | None:
        return self.record.network.architecture

    @property
    def parameters(self) -> int:
        return self.record.parameters

    @property
    def label(self) -> Label | None:
        """Of a control."""
        return self.record.label


@dataclass(frozen=True)
class Searched:
    """A subnet of the front with inherited weights, on validation; `measured`: every value of its search, by column."""

    id: str
    architecture: Architecture
    parameters: int
    clean: float
    robust: float
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LegoNet:
    """A Lego-Net with the votes it was built from."""

    network: TrainedNetwork
    counts: Sequence[Mapping]
    voters: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Ranked:
    """A network that was trained from scratch by its row's recipe, on validation: clean and robust shares.

    `inherited` maps each recalibration of BatchNorm to those with the supernet's weights.
    """

    id: str
    parameters: int
    trained: Mapping[str, float]
    inherited: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class ControlResults:
    """What stands beside a row or a dataset: `status` by control (`tamnas.controls.status`), networks of all seeds."""

    status: Mapping[str, str]
    networks: Sequence[TrainedNetwork]

    def of(self, control: str) -> list[TrainedNetwork]:
        return [network for network in self.networks if network.label.control == control]

    def attach(self, networks: Sequence[TrainedNetwork], kind: str) -> list[TrainedNetwork]:
        """`networks`, each with the tests of its repeats with further seeds."""
        repeats = defaultdict(dict)
        for again in self.of("seeds"):
            repeats[again.label.kind, again.label.of][again.label.seed] = again.test
        return [replace(network, repeats=repeats[kind, network.id]) for network in networks]


SCRATCH, FINETUNED, LEGO, HAND_MADE, CONTROL = "from scratch", "fine-tuned", "Lego-Net", "hand-made", "control"
FOLDERS = {SCRATCH: "retrain_scratch", FINETUNED: "retrain_finetune", LEGO: "legonet", HAND_MADE: "baselines"}


@dataclass(frozen=True)
class Tested:
    """A tested network, called as on the command line: ROW/ID, ROW/ID-finetuned, ROW/lego, DATASET/lego-pooled,
    DATASET/ID. `kind`: one of the above.
    """

    name: str
    kind: str
    network: TrainedNetwork
    plan: RowPlan | DatasetPlan
    training: TrainingPlan

    @property
    def file(self) -> Path:
        """Of the weights; of no control."""
        return runs(self.name.partition("/")[0], FOLDERS[self.kind]) / f"{self.network.id}.safetensors"


@dataclass(frozen=True)
class RowResults:
    """One mode on one dataset. A run that stopped at a deadline may lack fine-tuned networks and Lego-Net.

    `fronts`: by value of `search.front`. `individuals`: all that the search evaluated, lines of individuals.csv.
    `random_search`: hypervolume lines as the search's, empty if not run; so is `ranking`. `timed_on`: the processor
    whose latency the search minimised, if it did. `at_chance`: no subnet of the front was better with inherited weights
    than predicting the largest class.
    """

    plan: RowPlan
    space: SearchSpace
    fronts: Mapping[str, Sequence[Searched]]
    individuals: Sequence[Mapping]
    hypervolume: Sequence[Mapping[str, float]]
    selected: Sequence[Searched]
    block_curve: Sequence[Mapping[str, float]]
    joint_curve: Sequence[Mapping[str, float]]
    scratch: Sequence[TrainedNetwork]
    finetune: Sequence[TrainedNetwork]
    lego: LegoNet | None
    controls: ControlResults
    random_search: Sequence[Mapping[str, float]]
    ranking: Sequence[Ranked] = ()
    timed_on: str | None = None
    at_chance: bool = False

    @property
    def name(self) -> str:
        return self.plan.row

    @property
    def front(self) -> Sequence[Searched]:
        """The one whose subnets are retrained."""
        return self.fronts[self.plan.retrain.front]

    @property
    def best(self) -> TrainedNetwork:
        """The row's representative, by robust accuracy on validation after training from scratch."""
        return best_of(self.scratch, self.plan.eval.weights)

    @property
    def best_finetuned(self) -> TrainedNetwork | None:
        return best_of(self.finetune, self.plan.eval.weights) if self.finetune else None

    @property
    def pairs(self) -> list[tuple[TrainedNetwork, TrainedNetwork]]:
        """The subnets that were trained both ways: (from scratch, fine-tuned)."""
        finetuned = {network.id: network for network in self.finetune}
        return [(network, finetuned[network.id]) for network in self.scratch if network.id in finetuned]

    def tested(self) -> Iterator[Tested]:
        name, plan, retrain = self.name, self.plan, self.plan.retrain
        for network in self.scratch:
            yield Tested(f"{name}/{network.id}", SCRATCH, network, plan, retrain.scratch)
        for network in self.finetune:
            yield Tested(f"{name}/{network.id}-finetuned", FINETUNED, network, plan, retrain.finetune)
        if self.lego:
            yield Tested(f"{name}/lego", LEGO, self.lego.network, plan, retrain.scratch)

    def tested_controls(self) -> Iterator[Tested]:
        """Each trains as what it stands beside, but for what it is there to change (`tamnas.controls`)."""
        retrain, controls = self.plan.retrain, self.plan.controls
        changed = {variant.control: variant.training for variant in controls.finetune}
        changed["common_attack"] = controls.common_attack
        for network in self.controls.networks:
            own = retrain.finetune if network.label.kind == "finetune" else retrain.scratch
            training = changed.get(network.label.control) or own
            yield Tested(f"{self.name}/{network.id} (control)", CONTROL, network, self.plan, training)


@dataclass(frozen=True)
class Divergence:
    """A stage whose training ended with NaN or infinite losses or weights; `name` of the row or dataset."""

    name: str
    text: str


@dataclass(frozen=True)
class Dataset:
    """One dataset: the rows that have been run, in the order of params.yaml, and `missing` row plans.

    `unfinished`: what a run that stopped at its deadline left out of the rows, a line each. `diverged`: why rows, or
    networks of them, are missing.
    """

    plan: DatasetPlan
    space: SearchSpace  # of the pooled Lego-Net
    card: Mapping
    rows: Sequence[RowResults]
    missing: Sequence[RowPlan]
    pooled: LegoNet | None
    baselines: Sequence[TrainedNetwork]
    controls: ControlResults
    unfinished: Sequence[str] = ()
    diverged: Sequence[Divergence] = ()

    @property
    def name(self) -> str:
        return self.plan.dataset

    @property
    def published(self) -> str:
        """The paper's dataset whose values stand beside: that of the images, else the one of the same name, if any."""
        return (self.plan.data.whose or self.name).removesuffix("-subset")

    @property
    def images(self) -> dict[str, int]:
        return {split: part["images"] for split, part in self.card["splits"].items()}

    @property
    def key_attack(self) -> Pgd:
        """What stands for robustness."""
        return self.key_attack_of(self.plan.eval)

    def key_attack_of(self, grid: EvalParams) -> Pgd:
        """The reference attack of validation where a mode's `grid` has it, else its largest."""
        reference = self.plan.validation.attack
        return Pgd(
            eps=reference.eps if reference.eps in grid.eps else max(grid.eps),
            steps=reference.steps if reference.steps in grid.steps else max(grid.steps),
        )

    @property
    def best_row(self) -> RowResults | None:
        """The row with the best representative on validation."""
        # Rows may keep different weights; each is judged by its own.
        return max(self.rows, key=lambda row: merit(row.best.record, row.plan.eval.weights), default=None)

    @property
    def lego(self) -> LegoNet | None:
        """Over all rows; of the only row its own."""
        return self.pooled if self.plan.pooled.trained else next((row.lego for row in self.rows), None)

    def learnt(self) -> tuple["Dataset", list[str]]:
        """What something can be concluded from: without what is at chance; and the names of what was left out."""

        def sound(networks: Sequence[TrainedNetwork]) -> list[TrainedNetwork]:
            return [network for network in networks if not network.at_chance]

        def sound_lego(lego: LegoNet | None, controls: ControlResults, kind: str) -> LegoNet | None:
            networks = controls.attach(sound([lego.network] if lego else []), kind)
            return replace(lego, network=networks[0]) if networks else None

        rows = []
        for row in self.rows:
            if row.at_chance or not sound(row.scratch):
                continue
            own = replace(row.controls, networks=sound(row.controls.networks))
            rows.append(
                replace(
                    row,
                    scratch=own.attach(sound(row.scratch), "scratch"),
                    finetune=own.attach(sound(row.finetune), "finetune"),
                    lego=sound_lego(row.lego, own, "legonet"),
                    controls=own,
                )
            )
        controls = replace(self.controls, networks=sound(self.controls.networks))
        # The pooled Lego-Net is as good as the votes of all rows.
        pooled = None if len(rows) < len(self.rows) else sound_lego(self.pooled, controls, "legonet_pooled")
        baselines = controls.attach(sound(self.baselines), "baselines")
        left_out = [f"the supernet of {row.name}" for row in self.rows if row.at_chance]
        left_out += [one.name for one in self.examined() if one.network.at_chance]
        return replace(self, rows=rows, pooled=pooled, baselines=baselines, controls=controls), left_out

    def tested(self) -> Iterator[Tested]:
        """Every network of the study itself; controls and repeats apart."""
        for row in self.rows:
            yield from row.tested()
        if self.pooled:
            training = self.plan.pooled.training
            yield Tested(f"{self.name}/lego-pooled", LEGO, self.pooled.network, self.plan, training)
        for network in self.baselines:
            yield Tested(f"{self.name}/{network.id}", HAND_MADE, network, self.plan, self.plan.baselines.training)

    def controls_of(self, *names: str) -> list[TrainedNetwork]:
        """The networks of these controls, of all rows and of the pooled Lego-Net."""
        return [network for each in (*self.rows, self) for name in names for network in each.controls.of(name)]

    def examined(self) -> Iterator[Tested]:
        """`tested`, and the networks of all controls, repeats with further seeds among them."""
        yield from self.tested()
        for row in self.rows:
            yield from row.tested_controls()
        for network in self.controls.networks:
            plan = self.plan.baselines if network.label.kind == "baselines" else self.plan.pooled
            is_common = network.label.control == "common_attack"
            training = self.plan.controls.common_attack if is_common else plan.training
            yield Tested(f"{self.name}/{network.id} (control)", CONTROL, network, self.plan, training)


def best_of(networks: Sequence[TrainedNetwork], weights: str) -> TrainedNetwork:
    return max(networks, key=lambda network: merit(network.record, weights))


def class_shares(card: Mapping, split: str) -> list[float]:
    """Each class's share of a split."""
    part = card["splits"][split]
    return [count / part["images"] for count in part["per_class"]]
