"""Attacks as values: what the grid, the search and the reports mean by one. Nothing here needs torch.

Those that come with tamnas are listed in `tamnas.attacks.registry`. A module in plugins/ adds one of your own:

    @register
    class Corners(EvalAttack):
        kind: Literal["corners"] = "corners"
        tries: int

        def survivors(self, model, x, y, generator): ...

From then on `{kind: corners, eps: 8/255, tries: 5}` may be an entry of `eval.attacks`.
"""

import re
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from tamnas.config.fields import PixelFraction, Positive, Section, format_fraction, parse_yaml, validated
from tamnas.errors import InputError

if TYPE_CHECKING:
    import torch


class Attack(Section):
    """`kind` names the class in params.yaml, `eps` is the L-infinity radius; a subclass adds its own parameters.

    Reports tell attacks apart by `key`: whatever else distinguishes two of them belongs into `name`.
    """

    kind: str
    eps: PixelFraction

    @property
    def name(self) -> str:
        """Without the radius, such as `PGD-20`."""
        return self.kind

    @property
    def text(self) -> str:
        """`PGD-20 at 8/255`."""
        return f"{self.name} at {format_fraction(self.eps)}"

    @property
    def key(self) -> str:
        """`pgd20_8_255`, in results/ and in the columns of tables."""
        name = re.sub(r"[^a-z0-9]", "", self.name.lower())
        return f"{name}_{format_fraction(self.eps).replace('/', '_')}"

    @property
    def heading(self) -> str:
        """Of a column of accuracies."""
        return f"{self.name} {format_fraction(self.eps)} (%)"

    @property
    def latex(self) -> str | None:
        """The heading in LaTeX; None: as `heading`."""
        return None


class Pgd(Attack):
    """PGD on the cross-entropy with a random start; `step_size` null: what its section says.

    Those of a network's grid share passes (`tamnas.evaluation.accuracy`).
    """

    kind: Literal["pgd"] = "pgd"
    steps: Positive
    step_size: PixelFraction | None = None

    @property
    def name(self) -> str:
        return f"PGD-{self.steps}"

    @property
    def latex(self) -> str:
        return rf"$P_{{{format_fraction(self.eps)}}}^{{{self.steps}}}$"


class EvalAttack(Attack):
    """An entry of `eval.attacks`: on which networks, on how many test images (null: all), how many of them at a time.

    `images` are as many of each class (`tamnas.evaluation.attacked.balanced`). An attack may be an ensemble: `parts`,
    one after another, each on the images that those before it left.
    """

    needs_gradients: ClassVar[bool] = True
    least_classes: ClassVar[int] = 2
    routine: ClassVar[str | None] = None  # "package.module:function" of an attack in tamnas: what `survivors` calls

    networks: Literal["all", "final"] = "final"
    images: Positive | None = None
    batch_size: Positive = 250

    @property
    def parts(self) -> tuple["EvalAttack", ...]:
        return (self,)

    @property
    def text(self) -> str:
        return super().text + (f" on {self.images:,} images" if self.images else "")

    @property
    def key(self) -> str:
        return super().key + (f"_n{self.images}" if self.images else "")

    @property
    def heading(self) -> str:
        size = f", n = {self.images:,}" if self.images else ""
        return f"{self.name} {format_fraction(self.eps)}{size} (%)"

    @property
    def latex(self) -> str | None:
        return None

    def survivors(
        self, model: "torch.nn.Module", x: "torch.Tensor", y: "torch.Tensor", generator: "torch.Generator"
    ) -> "torch.Tensor":
        """Which images the model still classifies correctly: (N,) bool.

        x (N, 3, H, W) float32 in [0, 1], contiguous, y (N,) int64; all of them are classified correctly without attack.
        The model is in eval mode with frozen parameters. All randomness comes from `generator`, which is the same for
        every batch.
        """
        if self.routine is None:
            raise NotImplementedError(f"the attack {self.kind} has no routine of its own")
        return resolve_name(self.routine)(self, model, x, y, generator)

    @classmethod
    def class_for(cls, raw: Mapping[str, Any]) -> type["EvalAttack"]:
        """The registered class of `{kind, ...}`; a subclass is its own. Raises ValidationError, at the place `kind`."""
        if cls is not EvalAttack:
            return cls
        kind = raw.get("kind")
        if isinstance(kind, str) and kind in _CLASSES:
            return _CLASSES[kind]
        wrong = PydanticCustomError("attack", f"no such attack; allowed: {', '.join(_CLASSES)}")
        error = InitErrorDetails(type=wrong if "kind" in raw else "missing", loc=("kind",), input=kind)
        raise ValidationError.from_exception_data(cls.__name__, [error])


_CLASSES: dict[str, type[EvalAttack]] = {}
AttackType = TypeVar("AttackType", bound=EvalAttack)


def register(attack: type[AttackType]) -> type[AttackType]:
    """Class decorator: in params.yaml its `kind` stands for it. Raises ValueError if another class has that kind."""
    kind = attack.model_fields["kind"].default
    if not (isinstance(kind, str) and kind.isidentifier()):
        raise ValueError(f"{attack.__name__}.kind is {kind!r}; allowed: a default that is a Python name")
    if _CLASSES.setdefault(kind, attack) is not attack:
        raise ValueError(f"{attack.__name__}.kind is {kind!r}, which is {_CLASSES[kind].__name__}'s")
    return attack


def _of_its_kind(raw: Any) -> Any:
    return EvalAttack.class_for(raw).model_validate(raw) if isinstance(raw, dict) else raw


# The field of a plan that holds an entry of `eval.attacks`, of any kind.
AnyAttack = Annotated[SerializeAsAny[EvalAttack], BeforeValidator(_of_its_kind)]


class _Parsed(Section):
    attack: AnyAttack


def parse_attack(text: str, batch_size: int, images: int | None = None) -> EvalAttack:
    """`autoattack:8/255` or, with parameters, `pgd:8/255:steps=20`. Raises InputError."""
    kind, *rest = text.split(":")
    eps, *more = rest or [""]
    pairs = [item.partition("=") for item in more]
    given = {name: parse_yaml(value, f"attack {text!r:.80}") for name, _, value in pairs}
    raw = {"kind": kind, "eps": eps} | given
    if not eps or not all(value for _, _, value in pairs) or len(raw) < 2 + len(pairs):
        raise InputError(f"attack {text!r}: allowed: KIND:EPS or KIND:EPS:NAME=VALUE, such as pgd:8/255:steps=20")
    for name in ("networks", "images", "batch_size"):
        if name in raw:
            raise InputError(f"attack {text!r}: {name} is no part of an attack's text")
    return validated(_Parsed, {"attack": raw | {"batch_size": batch_size, "images": images}}, text).attack
