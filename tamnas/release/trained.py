"""Networks of a finished run, and their release."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tamnas import __version__
from tamnas.config.plan import DatasetPlan, RowPlan
from tamnas.config.sections import TrainingPlan
from tamnas.errors import InputError
from tamnas.files import write_text
from tamnas.pipeline.paths import weights
from tamnas.records import NetworkSpec, Record
from tamnas.release.card import Card, Figure, card_page
from tamnas.report.study import Dataset, TrainedNetwork
from tamnas.report.terms import attack_notes, attack_text, name_of, weights_text


@dataclass(frozen=True)
class Trained:
    """A trained network of a run: its name, what it is, and the folder of its weights."""

    name: str
    title: str
    network: TrainedNetwork
    plan: RowPlan | DatasetPlan
    training: TrainingPlan
    folder: Path

    def card(self, dataset: Dataset) -> Card:
        network, test, data = self.network, self.network.test, self.plan.data
        spec = NetworkSpec(network.id, network.architecture, None if network.architecture else network.id)
        measured = {"none": (test.clean, test.images)}
        measured |= {attack.text: (share, test.count(attack)) for attack, share in test.grid.items()}
        return Card(
            name=self.name,
            title=self.title,
            tamnas=__version__,
            spec=spec.plain(),
            network=self.plan.network,
            space=self.plan.space,
            parameters=network.parameters,
            macs=network.costs.macs,
            dataset=dataset.name,
            data=data.model_copy(update={"path": None, "url": None}).plain(),  # of another machine
            levels=dataset.card["levels"],
            classes=tuple(dataset.card["classes"]),
            images=dataset.images,
            test_sha256=dataset.card["splits"]["test"]["sha256"],
            training=self.training,
            weights=test.weights,
            seed=self.plan.seed,
            figures=tuple(Figure(attack=name, images=n, accuracy=share) for name, (share, n) in measured.items()),
            reference=dataset.key_attack_of(self.plan.eval).text,
            setting=(
                f"Weights: {weights_text(test.weights)}.",
                f"{attack_text(self.plan.eval)}.",
                *attack_notes(self.plan.eval),
                *(["At chance: nothing was learnt."] if network.at_chance else []),
            ),
        )


def finals(dataset: Dataset) -> list[Trained]:
    """Of the best row by validation the best subnets and Lego-Net; the pooled Lego-Net; the hand-made networks."""
    chosen, plan = [], dataset.plan

    def add(name: str, title: str, network: TrainedNetwork, plan, training: TrainingPlan, folder: Path) -> None:
        chosen.append(Trained(f"{dataset.name}/{name}", title, network, plan, training, folder))

    if row := dataset.best_row:
        best, retrain, own = "the best searched subnet", row.plan.retrain, partial(weights, row.name)
        add("searched", f"{best}, from scratch", row.best, row.plan, retrain.scratch, own("retrain_scratch"))
        if tuned := row.best_finetuned:
            add("finetuned", f"{best}, fine-tuned", tuned, row.plan, retrain.finetune, own("retrain_finetune"))
        if row.lego:
            title = f"Lego-Net of the row {row.name}"
            add("lego", title, row.lego.network, row.plan, retrain.scratch, own("legonet"))
    own = partial(weights, dataset.name)
    if pooled := dataset.pooled:
        add("lego-pooled", "Lego-Net of all rows", pooled.network, plan, plan.pooled.training, own("legonet"))
    for network in dataset.baselines:
        add(network.id, name_of(network.id), network, plan, plan.baselines.training, own("baselines"))
    return chosen


def networks(dataset: Dataset) -> list[Trained]:
    """`finals`, and every retrained subnet as ROW/ID and ROW/ID-finetuned."""
    chosen = finals(dataset)
    for row in dataset.rows:
        trained = ("", "from scratch", row.scratch), ("-finetuned", "fine-tuned", row.finetune)
        for (end, how, subnets), stage in zip(trained, ("scratch", "finetune"), strict=True):
            training, folder = getattr(row.plan.retrain, stage), weights(row.name, f"retrain_{stage}")
            for subnet in subnets:
                name, title = f"{row.name}/{subnet.id}{end}", f"a subnet of {row.name}, {how}"
                chosen.append(Trained(name, title, subnet, row.plan, training, folder))
    return chosen


def write_release(trained: Trained, dataset: Dataset, folder: Path, name: str) -> tuple[Path, Card]:
    """Write its file to `folder`, under `name`, and its card as Markdown beside it.

    Raises InputError, also where a later run has left other weights than those of the results.
    """
    from tamnas.pipeline import checkpoint
    from tamnas.release.network import write

    card = trained.card(dataset).model_copy(update={"name": name})
    source = trained.folder / f"{trained.network.id}.safetensors"
    tensors, meta = checkpoint.load(source)
    record = Record.from_plain(meta["record"], source)
    scores = {which: vars(record.score(which)) for which in ("best", "last")}
    if (record.network.architecture, scores) != (trained.network.architecture, dict(trained.network.validation)):
        raise InputError(f"{source}: is not the network of results/, but of another run; `dvc checkout` restores it")
    path = folder / f"{card.name}.safetensors"
    write(path, checkpoint.with_prefix(tensors, f"{card.weights}."), card)
    write_text(path.with_suffix(".md"), card_page(card))
    return path, card
