"""One attack of `eval.attacks` on one model: part by part, batch by batch, each kept, so that a killed run goes on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import tamnas.attacks.packaged  # noqa: F401 (an attack names its routine as text; this makes it code of the stage)
from tamnas.attacks.ascent import right, under_attack
from tamnas.attacks.registry import Attack, EvalAttack
from tamnas.errors import InputError
from tamnas.evaluation.accuracy import share
from tamnas.pipeline.store import kept, key_of
from tamnas.seeding import torch_generator


@dataclass(frozen=True)
class Outcome:
    """An attack on the images `chosen` (N,), indices: which were `correct` before, and which each part fooled.

    Masks of (N,) bool. A part runs on what those before it left.
    """

    attack: EvalAttack
    chosen: Tensor
    correct: Tensor
    parts: tuple[tuple[EvalAttack, Tensor], ...]

    def left(self) -> list[Tensor]:
        """What stands after each part."""
        standing, after = self.correct, []
        for _, fooled in self.parts:
            standing = standing & ~fooled
            after.append(standing)
        return after

    @property
    def accuracy(self) -> float:
        return share(self.left()[-1])


@dataclass(frozen=True)
class Hits:
    """Which of all images of a test set an attack was `given`, and fooled: (images,) bool.

    `alone`: not as part of an ensemble, which leaves out what the parts before it fooled.
    """

    attack: Attack
    given: Tensor
    fooled: Tensor
    alone: bool = True


def to_bits(mask: Tensor) -> str:
    """(N,) bool as text of 0 and 1."""
    return "".join("01"[bit] for bit in mask.tolist())


def from_bits(text: str) -> Tensor:
    return torch.tensor([bit == "1" for bit in text], dtype=torch.bool)


def chosen_images(attack: EvalAttack, labels: Tensor) -> Tensor:
    """Indices of an attack's images of a test set. Raises InputError."""
    if attack.images and attack.images > len(labels):
        raise InputError(f"attack {attack.kind}: images is {attack.images}; there are {len(labels)} test images")
    return balanced(labels, attack.images)


def require_classes(attack: EvalAttack, classes: int) -> None:
    if classes < attack.least_classes:
        raise InputError(f"attack {attack.kind} needs {attack.least_classes} classes; there are {classes}")


def balanced(labels: Tensor, count: int | None) -> Tensor:
    """Indices of a fixed subset with as many images of each class, in order: of each class the first ones.

    A smaller subset is part of a larger one. Where a class runs short the others fill up; None: all.
    """
    if count is None:
        return torch.arange(len(labels), device=labels.device)
    classes = int(labels.max()) + 1
    place = nn.functional.one_hot(labels, classes).cumsum(0).gather(1, labels[:, None]).squeeze(1) - 1
    return (place * classes + labels).argsort()[:count].sort().values


class Running:
    """An attack under way: `chosen` (N,) are indices of its images, `correct` (N,) bool: of which the model is right.

    Its parts follow one another: `batches` are the next one's, `settle` says which images of each survived.
    """

    def __init__(self, attack: EvalAttack, chosen: Tensor, correct: Tensor):
        self.attack, self._chosen, self._correct = attack, chosen, correct
        self._standing, self._fooled = correct, []

    def batches(self) -> tuple[Tensor, ...]:
        """Indices of the images that the parts before left, `attack.batch_size` in each."""
        left = self._chosen[self._standing]
        return left.split(self.attack.batch_size) if len(left) else ()

    def settle(self, survived: Sequence[Sequence[bool]]) -> None:
        before, self._standing = self._standing, self._standing.clone()
        self._standing[before] = torch.tensor([one for batch in survived for one in batch], dtype=torch.bool).to(before)
        self._fooled.append(before & ~self._standing)

    def outcome(self) -> Outcome:
        """After the last part."""
        parts = tuple(zip(self.attack.parts, self._fooled, strict=True))
        return Outcome(self.attack, self._chosen, self._correct, parts)


@dataclass(frozen=True)
class Attacked:
    """A model under attack, which `load` gives. `images` gives those of some indices as float32 in [0, 1], `labels` are
    all of the set.

    Every part and batch begins with the same random numbers, derived from `key` and the radius, as in AutoAttack's own
    driver, and torch's global generator is left as found. `folder` keeps each batch under the attack's own digest; who
    keeps it for other models, images or keys must name another one. `before_batch` is told what is to be computed.
    """

    load: Callable[[], nn.Module]
    images: Callable[[Tensor], Tensor]
    labels: Tensor
    key: tuple
    folder: Path | None = None
    before_batch: Callable[[str], None] = lambda what: None

    def batch(self, attack: EvalAttack, index: int, number: int, batch: Tensor) -> list[bool]:
        """Which images of `batch`, the one of this `number` in the attack's part `index`, survive it."""
        part, device = attack.parts[index], self.labels.device
        what = f"{part.text}, batch {number + 1}"

        def survivors() -> list[bool]:
            self.before_batch(what)
            model, generator = self.load(), torch_generator(*self.key, str(attack.eps), device=device)
            with under_attack(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                return _survivors(part, model, self.images(batch), self.labels[batch], generator).tolist()

        if self.folder is None:
            return survivors()
        digest = key_of(attack.plain() | {"networks": None, "batch": batch.tolist()})
        return kept(self.folder / f"{digest}-{index}-{number}.json", survivors, f"running {what}")


def attack_model(
    model: nn.Module, images: Callable[[Tensor], Tensor], labels: Tensor, attack: EvalAttack, key: tuple, **more
) -> Outcome:
    """An attack on its images of a test set, batch by batch; for the rest see `Attacked`. Raises InputError."""
    attacked, chosen = Attacked(lambda: model, images, labels, key, **more), chosen_images(attack, labels)
    with under_attack(model), torch.no_grad():
        logits = torch.cat([model(images(batch)) for batch in chosen.split(attack.batch_size)])
    require_classes(attack, logits.shape[1])
    running = Running(attack, chosen, right(logits, labels[chosen]))
    for part in range(len(attack.parts)):
        running.settle([attacked.batch(attack, part, number, batch) for number, batch in enumerate(running.batches())])
    return running.outcome()


def _survivors(attack: EvalAttack, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    standing = attack.survivors(model, x, y, generator)
    if standing.shape != y.shape or standing.dtype != torch.bool:
        raise InputError(
            f"attack {attack.kind}: survivors gave {standing.dtype} of shape {tuple(standing.shape)}; "
            f"allowed: one bool for each of {len(y)} images"
        )
    return standing


def hits(outcome: Outcome, images: int) -> list[Hits]:
    """What each part did, of all the `images` of the test set."""

    def spread(mask: Tensor) -> Tensor:
        whole = torch.zeros(images, dtype=torch.bool, device=mask.device)
        whole[outcome.chosen] = mask
        return whole

    given, alone = spread(torch.ones_like(outcome.correct)), len(outcome.parts) == 1
    return [Hits(part, given, spread(fooled), alone) for part, fooled in outcome.parts]


def missed(parts: Sequence[Hits], others: Iterable[Hits]) -> int:
    """How many images an attack of these parts leaves although the same one fools them within a smaller radius.

    Of the others those count that ran on all of its images.
    """
    chosen, eps = parts[0].given.nonzero().squeeze(1), parts[0].attack.eps
    names = {part.attack.name for part in parts}
    same = [hit for hit in others if hit.attack.name in names and bool(hit.given[chosen].all())]
    smaller = [hit for hit in same if hit.attack.eps < eps]
    return int((_any_fools(smaller, chosen) & ~_any_fools(parts, chosen)).sum())


def attack_rows(outcome: Outcome, others: Iterable[Hits]) -> list[dict]:
    """What one attack did beside all `others` (its own parts among them), on its own images; accuracies are shares.

    A row for clean images; one for each of the others of the same radius that ran on all these images, `beside`; one
    for each part, with what is left after it; and the `worst` case, in which an image is lost if any attack up to this
    radius fools it. `missed`: of a row beside, images that it fools and this attack leaves; of a part that needs no
    gradients, images that it fools and no attack with gradients does, if one of this radius met them.
    """
    chosen, eps = outcome.chosen, outcome.attack.eps
    known = [hit for hit in others if hit.attack.eps <= eps and bool(hit.given[chosen].all())]
    with_gradients = [hit for hit in known if getattr(hit.attack, "needs_gradients", True)]
    own = [part for part, _ in outcome.parts]
    met = any(hit.attack.eps == eps and hit.attack not in own for hit in with_gradients)

    def row(role: str, name: str, standing: Tensor, missed: int | None = None) -> dict:
        own = {"attack": outcome.attack.key, "images": len(chosen), "role": role, "name": name}
        return own | {"accuracy": share(standing), "missed": missed}

    rows, left = [row("clean", "clean", outcome.correct)], outcome.left()[-1]
    rows += [
        row("beside", hit.attack.key, outcome.correct & ~hit.fooled[chosen], int((hit.fooled[chosen] & left).sum()))
        for hit in known
        if hit.alone and hit.attack.eps == eps and hit.attack != outcome.attack
    ]
    for (part, fooled), standing in zip(outcome.parts, outcome.left(), strict=True):
        unseen = int((fooled & ~_any_fools(with_gradients, chosen)).sum()) if met and not part.needs_gradients else None
        rows.append(row("part", part.name, standing, unseen))
        met |= part.needs_gradients  # by the parts behind it, too
    return [*rows, row("worst", "worst", outcome.correct & ~_any_fools(known, chosen))]


def _any_fools(known: Sequence[Hits], chosen: Tensor) -> Tensor:
    none = torch.zeros(len(chosen), dtype=torch.bool, device=chosen.device)
    return torch.stack([none, *(hit.fooled[chosen] for hit in known)]).any(0)
