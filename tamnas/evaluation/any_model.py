"""`tamnas.evaluate`: any model under any registered attacks, with the subset, batches and seeds of `eval.attacks`."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from tamnas.attacks.ascent import under_attack, uniform_start
from tamnas.attacks.registry import EvalAttack, parse_attack
from tamnas.attacks.trace import TRACE_STEPS, attack_trace
from tamnas.config.fields import format_fraction
from tamnas.data.loader import Split
from tamnas.errors import InputError
from tamnas.evaluation.attacked import Outcome, attack_model, attack_rows, chosen_images, hits, missed, require_classes
from tamnas.evaluation.health import ensemble_signs, radius_sign, trace_signs
from tamnas.evaluation.model_checks import (
    PROBED,
    gradient,
    probabilities_sign,
    require_classifier,
    require_finite,
    require_images,
)
from tamnas.evaluation.models import Opaque, called
from tamnas.pipeline.code import code_digest
from tamnas.pipeline.store import key_of, locked
from tamnas.seeding import torch_generator

log = logging.getLogger(__name__)
STAGE = "evaluate_model"  # of checkpoints


@dataclass(frozen=True)
class Accuracy:
    """How many of the images are classified correctly."""

    correct: int
    images: int

    @property
    def share(self) -> float:
        return self.correct / self.images

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95%, Wilson's score interval."""
        interval = binomtest(self.correct, self.images).proportion_ci(0.95, "wilson")
        return float(interval.low), float(interval.high)

    @property
    def text(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:6.2f}%  ({100 * low:.1f} to {100 * high:.1f})  {self.correct:,} of {self.images:,}"

    def plain(self) -> dict:
        low, high = self.interval
        return {"accuracy": self.share, "low": low, "high": high, "correct": self.correct, "images": self.images}


@dataclass(frozen=True)
class AttackResult:
    """An attack on its images: accuracy before it and under it, and after each attack where it is an ensemble.

    `worst`: an image is lost if any of the attacks of the evaluation fools it, of this radius or a smaller one, that
    ran on all of these images.
    """

    attack: EvalAttack
    clean: Accuracy
    robust: Accuracy
    parts: Mapping[str, Accuracy]
    worst: Accuracy

    def plain(self) -> dict:
        parts = {name: accuracy.plain() for name, accuracy in self.parts.items()}
        accuracies = {name: getattr(self, name).plain() for name in ("clean", "robust", "worst")}
        return {"attack": self.attack.text, "setting": self.attack.plain(), **accuracies, "parts": parts}


@dataclass(frozen=True)
class ModelEvaluation:
    """`alarms`: why not to believe the numbers; `notes`: what was left out or changed; a line each."""

    clean: Accuracy
    attacks: tuple[AttackResult, ...]
    alarms: tuple[str, ...]
    notes: tuple[str, ...]
    seed: int

    @property
    def text(self) -> str:
        """A table, with alarms and notes below."""
        lines = [("clean", self.clean.text)]
        for result in self.attacks:
            if result.clean.images < self.clean.images:
                lines.append((f"clean on {result.clean.images:,} images", result.clean.text))
            lines.append((result.attack.text, result.robust.text))
            lines += [(f"  after {name}", accuracy.text) for name, accuracy in result.parts.items()]
        worst = {(result.attack.eps, result.attack.images): result.worst for result in self.attacks}
        lines += [
            (f"worst case at {format_fraction(eps)}" + (f" on {images:,} images" if images else ""), accuracy.text)
            for (eps, images), accuracy in worst.items()
        ]
        width = max(len(name) for name, _ in lines)
        below = [*(f"alarm: {line}" for line in self.alarms), *(f"note: {line}" for line in self.notes)]
        return "\n".join([*(f"{name:{width}}  {text}" for name, text in lines), *below])

    def plain(self) -> dict:
        """JSON-able; accuracies are shares."""
        attacks = [result.plain() for result in self.attacks]
        lines = {"alarms": list(self.alarms), "notes": list(self.notes)}
        return {"clean": self.clean.plain(), "attacks": attacks, **lines, "seed": self.seed}


def evaluate(
    model: nn.Module,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    attacks: Sequence[EvalAttack | str] | str = ("autoattack:8/255",),
    *,
    batch_size: int = 250,
    seed: int = 0,
    checkpoints: Path | None = None,
) -> ModelEvaluation:
    """Accuracy of a model without attack, under each of `attacks` and in the worst case; signs of masked gradients.

    `model` maps (N, C, H, W) float32 in [0, 1] to logits (N, classes), where its parameters are, and is left as found;
    it is evaluated in eval mode. `images` (N, C, H, W) floats in [0, 1], `labels` (N,) integers. An attack is one of
    `tamnas.attacks.listed` or of your own, or its text, `pgd:8/255:steps=20`, with batches of `batch_size`. A model
    without gradients meets only what needs none. `checkpoints`: a folder that keeps what is finished, so that the same
    call after a kill goes on. Raises InputError for images out of [0, 1], labels that no logit has, outputs that are
    NaN, random or depend on the batch, and where no attack can run.
    """
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    images, labels = _tensor(images, "images").to(device), _tensor(labels, "labels").to(device)
    require_images(images, labels)
    images, labels, key = images.float().contiguous(), labels.long(), (seed, "evaluate")
    attacks = [attacks] if isinstance(attacks, str) else attacks
    attacks = [parse_attack(attack, batch_size) if isinstance(attack, str) else attack for attack in attacks]
    notes = []
    if not hasattr(model, "training"):  # nor have its modules: frozen TorchScript
        model = Opaque(model, device)
    if any(module.training for module in model.modules()):
        notes.append("the model was in training mode; it is evaluated in eval mode.")
    with under_attack(model), torch.no_grad():
        require_classifier(model, images, labels)
        logits = torch.cat([called(model, part) for part in images.split(batch_size)])
        require_finite(logits)
        slope = gradient(model, images[:PROBED], labels[:PROBED])
        # Models that differ in what they do to perturbed images alone, such as one that rounds them to 8 bits
        noise = uniform_start(images[:PROBED], 0.1, torch_generator("nearby", device=device))
        nearby = called(model, images[:PROBED] + noise)
    chosen, left_out = _usable(attacks, slope is not None)
    for attack in chosen:  # before any of them runs
        chosen_images(attack, labels)
        require_classes(attack, logits.shape[1])
    alarms = list(filter(None, [probabilities_sign(logits)]))
    if slope is not None:
        alarms += _trace_signs(model, Split(images, labels, 1), max(attack.eps for attack in chosen), key)
    content = {"images": _sha256(images), "labels": _sha256(labels), "logits": _sha256(logits), "seed": seed}
    content |= {"gradient": None if slope is None else _sha256(slope), "nearby": _sha256(nearby), "device": device.type}
    with _kept_in(checkpoints, content) as folder:
        outcomes = [
            attack_model(model, images.__getitem__, labels, attack, key, folder=folder, before_batch=log.info)
            for attack in chosen
        ]
    results, signs = _compared(outcomes, len(labels))
    clean = Accuracy(int((logits.argmax(1) == labels).sum()), len(labels))
    return ModelEvaluation(clean, results, (*alarms, *signs), (*notes, *left_out), seed)


def _compared(outcomes: Sequence[Outcome], images: int) -> tuple[tuple[AttackResult, ...], list[str]]:
    """Each attack's result, and the signs that show when attacks are held beside each other, image by image."""
    of_attacks = [hits(outcome, images) for outcome in outcomes]
    others = [hit for parts in of_attacks for hit in parts]
    texts = {outcome.attack.key: outcome.attack.text for outcome in outcomes}
    results, signs = [], []
    for outcome, parts in zip(outcomes, of_attacks, strict=True):
        rows = attack_rows(outcome, others)
        results.append(_result(outcome.attack, rows))
        signs += ensemble_signs(rows, texts)
        signs += filter(None, [radius_sign(outcome.attack.text, missed(parts, others), len(outcome.chosen))])
    return tuple(results), signs


def _usable(attacks: Sequence[EvalAttack], gradients: bool) -> tuple[list[EvalAttack], list[str]]:
    """Of `attacks` what can run, and a line for what cannot; an ensemble's parts count by themselves."""
    if not attacks:
        raise InputError("attacks: none; allowed: one or more")
    chosen, notes = [], []
    for attack in attacks:
        able = [part for part in attack.parts if gradients or not part.needs_gradients]
        if len(able) == len(attack.parts):
            chosen.append(attack)
            continue
        rest = f"of it {' and '.join(part.name for part in able)} alone ran" if able else "left out"
        notes.append(f"{attack.text}: the model gives no gradients; {rest}.")
        chosen += [part.model_copy(update={"images": attack.images, "batch_size": attack.batch_size}) for part in able]
    if not chosen:
        raise InputError(f"the model gives no gradients, which {attacks[0].text} needs; allowed: square, autoattack")
    if not gradients:
        notes.append("without gradients an attack finds less: true robust accuracy may be far lower.")
    chosen = list(dict.fromkeys(chosen))
    if len({attack.key for attack in chosen}) < len(chosen):
        raise InputError(f"attacks: {', '.join(attack.text for attack in chosen)}: must differ")
    return chosen, notes


def _trace_signs(model: nn.Module, split: Split, eps: Fraction, key: tuple) -> list[str]:
    generator = torch_generator(*key, "trace", str(eps), device=split.images.device)
    setting = {"eps": float(eps), "step_size": float(eps) / 4, "steps": TRACE_STEPS, "generator": generator}
    trace = attack_trace(model, split, **setting)
    return list(trace_signs(trace, classes=len(split.labels.unique())).values())


def _result(attack: EvalAttack, rows: Sequence[Mapping]) -> AttackResult:
    def accuracy(row: Mapping) -> Accuracy:
        return Accuracy(round(row["accuracy"] * row["images"]), row["images"])

    parts = {row["name"]: accuracy(row) for row in rows if row["role"] == "part"}
    by_role = {row["role"]: accuracy(row) for row in rows}  # of the parts the last one
    ensemble = parts if len(parts) > 1 else {}
    return AttackResult(attack, by_role["clean"], by_role["part"], ensemble, by_role["worst"])


@contextmanager
def _kept_in(checkpoints: Path | None, content: Mapping) -> Iterator[Path | None]:
    """The folder of what is finished for this model, these images and this code; one process at a time has it."""
    if checkpoints is None:
        yield None
        return
    packages = {name: version(name) for name in ("torch", "pyautoattack")}
    key = key_of({**content, **packages, "code": code_digest(Path("tamnas/evaluation/any_model.py"))})
    with locked(STAGE, key, checkpoints, "the same evaluation"):
        yield checkpoints / STAGE / key


def _tensor(array: Tensor | np.ndarray, what: str) -> Tensor:
    """Of numpy's arrays also those that torch knows nothing of: other byte orders, unsigned, with negative strides."""
    if not isinstance(array, np.ndarray):
        return torch.as_tensor(array)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what} of {array.dtype}; allowed: numbers")
    kind = np.int64 if what == "labels" and array.dtype.kind in "iu" else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.ascontiguousarray(array, kind))


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
