"""Networks of a finished run, and their release."""

from pathlib import Path

from tamnas import __version__
from tamnas.attacks.registry import Pgd
from tamnas.config.plan import RowPlan
from tamnas.errors import InputError
from tamnas.files import write_text
from tamnas.records import Record
from tamnas.release.card import Card, Measured, card_page
from tamnas.report.study import FINETUNED, LEGO, SCRATCH, Dataset, Test, Tested
from tamnas.report.terms import attack_notes, attack_text, counted, name_of, weights_text


def finals(dataset: Dataset) -> dict[str, Tested]:
    """By the names of their release: of the best row by validation the best subnets and Lego-Net; the pooled Lego-Net;
    the hand-made networks.
    """
    tested, chosen = {one.name: one for one in dataset.tested()}, {}
    if row := dataset.best_row:
        ends = {"searched": row.best.id}
        ends |= {"finetuned": f"{row.best_finetuned.id}-finetuned"} if row.finetune else {}
        ends |= {"lego": "lego"} if row.lego else {}
        chosen = {f"{dataset.name}/{name}": tested[f"{row.name}/{end}"] for name, end in ends.items()}
    return chosen | {name: one for name, one in tested.items() if one.plan is dataset.plan}


def networks(dataset: Dataset) -> dict[str, Tested]:
    """`finals`, and every tested network as `Tested.name`."""
    return finals(dataset) | {one.name: one for one in dataset.tested()}


def card(name: str, tested: Tested, dataset: Dataset) -> Card:
    """What a release says of a tested network. Raises InputError where its grid is not that of the plan any more."""
    network, test, plan = tested.network, tested.network.test, tested.plan
    hand_made, reference = network.architecture is None, dataset.key_attack_of(plan.eval)
    if reference not in test.grid:
        raise InputError(f"{name}: was not tested under {reference.text}, which params.yaml asks for; run `dvc repro`")
    measured = {"none": (test.clean, test.images)}
    measured |= {attack.text: (share, test.count(attack)) for attack, share in test.grid.items()}
    return Card(
        name=name,
        title=_title(name, tested, dataset),
        tamnas=__version__,
        spec=network.record.network.plain(),
        network=None if hand_made else plan.network,
        space=None if hand_made else plan.space,
        parameters=network.parameters,
        macs=network.costs.macs,
        dataset=dataset.name,
        data=plan.data.model_copy(update={"path": None, "url": None}).plain(),  # of another machine
        levels=dataset.card["levels"],
        classes=tuple(dataset.card["classes"]),
        images=dataset.images,
        test_sha256=dataset.card["splits"]["test"]["sha256"],
        training=tested.training,
        weights=test.weights,
        seed=plan.seed,
        figures=tuple(Measured(attack=attack, images=n, accuracy=share) for attack, (share, n) in measured.items()),
        reference=reference.text,
        setting=(
            f"Weights: {weights_text(test.weights)}.",
            f"{attack_text(plan.eval)}.",
            *attack_notes(plan.eval, test.grid),
            *(["At chance: nothing was learnt."] if network.at_chance else []),
            *(_again(seed, test, reference) for seed, test in network.repeats.items()),
        ),
    )


def _again(seed: int, test: Test, reference: Pgd) -> str:
    robust = f", {100 * test.grid[reference]:.2f} under {reference.text}" if reference in test.grid else ""
    return f"Another training of it, with seed {seed}: {100 * test.clean:.2f}% clean{robust}."


def _title(name: str, tested: Tested, dataset: Dataset) -> str:
    of_row = isinstance(tested.plan, RowPlan)
    if tested.kind == LEGO:
        return f"Lego-Net of the row {tested.plan.row}" if of_row else "Lego-Net of all rows"
    if not of_row:
        return name_of(tested.network.id)
    if name == tested.name:
        return f"a subnet of {tested.plan.row}, {tested.kind}"
    searched = [network for row in dataset.rows for network in row.scratch]
    of = {SCRATCH: searched, FINETUNED: dataset.best_row.finetune}[tested.kind]
    how = " with the supernet's weights" if tested.kind == FINETUNED else ""
    return f"by validation the best of {counted(len(of), 'searched subnet')}, {tested.kind}{how}"


def write_release(tested: Tested, card: Card, folder: Path) -> Path:
    """Write its file to `folder`, under the card's name, and the card as Markdown beside it.

    Raises InputError, also where a later run has left other weights than those of the results.
    """
    from tamnas.pipeline import checkpoint
    from tamnas.release.network import write

    source, network = tested.file, tested.network
    tensors, meta = checkpoint.load(source)
    record = Record.from_plain(meta["record"], source)
    if record != network.record:
        raise InputError(f"{source}: is not the network of results/, but of another run; `dvc checkout` restores it")
    path = folder / f"{card.name}.safetensors"
    write(path, checkpoint.with_prefix(tensors, f"{card.weights}."), card)
    write_text(path.with_suffix(".md"), card_page(card))
    return path
