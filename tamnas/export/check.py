"""Whether an exported network is the one that was trained, and how well it stands up to attack itself."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from tamnas.attacks.ascent import pgd, right
from tamnas.attacks.listed import Square
from tamnas.data.loader import Split
from tamnas.errors import CheckError
from tamnas.evaluation.accuracy import share
from tamnas.evaluation.attacked import attack_model
from tamnas.evaluation.costs import milliseconds, processor
from tamnas.release.card import Card, Measured
from tamnas.report.tables.table import Column, Table, markdown
from tamnas.seeding import torch_generator

COMPARED = 500  # images at most whose logits are compared
TOLERANCE = 1e-4  # largest difference of a float32 logit
EPS, STEPS = Fraction(8, 255), 10
PASS = 250  # images


@dataclass(frozen=True)
class Checked:
    """`difference`: the largest of a logit, on so many `compared` images; `agreement`: the share of equal classes.

    `figures`: (of the original, of the exported network); None where the original was not attacked.
    """

    compared: int
    difference: float
    agreement: float
    figures: tuple[tuple[Measured | None, Measured], ...]
    milliseconds: float
    processor: str
    size: int  # bytes

    def json(self) -> dict:
        figures = [{"original": ours and ours.json(), "exported": theirs.json()} for ours, theirs in self.figures]
        return vars(self) | {"figures": figures}


def check(model: nn.Module, exported: nn.Module, path: Path, test: Split, attacked: int, exact: bool) -> Checked:
    """`model` and its `exported` form on test images: logits, accuracy, PGD made on `model`, Square on `exported`.

    Square runs on `attacked` images, in equal shares of the classes. Raises CheckError if `exact` and logits differ.
    """
    x, y = test.scaled(test.images), test.labels
    ours, theirs = logits(model, x), logits(exported, x)
    first = slice(COMPARED)
    difference = float((ours[first] - theirs[first]).abs().max())
    agreement = share(ours[first].argmax(1) == theirs[first].argmax(1))
    if exact and not (difference <= TOLERANCE and agreement == 1):
        raise CheckError(
            f"{path.name}: logits are up to {difference:.2g} from PyTorch's, {100 * agreement:.2f}% of classes are "
            f"equal; allowed: {TOLERANCE:g} and all"
        )
    eps = float(EPS)
    setting = {"eps": eps, "step_size": eps / 4, "steps": STEPS, "generator": torch_generator("export", "pgd")}
    x_adv = torch.cat([pgd(model, *part, **setting) for part in zip(x.split(PASS), y.split(PASS), strict=True)])
    square = Square(eps=EPS, images=min(attacked, len(y)))
    outcome = attack_model(exported, lambda chosen: x[chosen].contiguous(), y, square, ("export", "square"))
    n, transfer = len(y), f"PGD-{STEPS} at 8/255, made on the original"

    def figure(attack: str, answers: Tensor) -> Measured:
        return Measured(attack=attack, images=n, accuracy=share(right(answers, y)))

    figures = (
        (figure("none", ours), figure("none", theirs)),
        (figure(transfer, logits(model, x_adv)), figure(transfer, logits(exported, x_adv))),
        (
            None,
            Measured(
                attack="Square at 8/255, on the exported network", images=square.images, accuracy=outcome.accuracy
            ),
        ),
    )
    image = x[:1].contiguous()
    return Checked(
        min(COMPARED, n),
        difference,
        agreement,
        figures,
        milliseconds(exported, image),
        processor(),
        path.stat().st_size,
    )


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(part) for part in x.split(PASS)])


def checked_table(path: Path, checked: Checked) -> Table:
    lines = [
        {
            Column("attack", "Attack"): theirs.attack,
            Column("images", "Test images", "count"): theirs.images,
            Column("original", "PyTorch (%)", "percent"): ours and ours.value,
            Column("exported", "Exported (%)", "percent"): theirs.value,
        }
        for ours, theirs in checked.figures
    ]
    notes = [
        f"{checked.compared:,} test images: logits differ by up to {checked.difference:.2g} from PyTorch's, "
        f"{100 * checked.agreement:.2f}% of classes are equal.",
        f"{checked.size:,} bytes. One image takes {checked.milliseconds:.3g} ms, median, on one thread of "
        f"{checked.processor}.",
        "In brackets: 95% intervals. PGD: random start, step size eps / 4, last iterate; Square: 5,000 queries.",
    ]
    return Table.of("checked", path.name, lines, notes)


def exported_page(card: Card, path: Path, checked: Checked, how: str) -> str:
    """Of an exported file, in Markdown."""
    signature = f"(N, 3, {card.size}, {card.size}) float32 in [0, 1] -> (N, {len(card.classes)}) logits"
    lines = [
        f"{how} of {card.name}, {card.title}.\n",
        f"- `images` to `logits`: {signature}" + (", one image at a time" if path.suffix == ".pte" else ""),
        f"- Classes: {', '.join(card.classes)}",
        "- Licence: MIT, as the code",
        f"- Terms of the images it learnt from: {card.terms}\n",
    ]
    return markdown(checked_table(path, checked)) + "\n" + "\n".join(lines)
