"""An attack as a value: what the grid, the search and the reports mean by one. Nothing here needs torch.

Those that come with tamnas are listed in `tamnas.attacks.registry`. A module in plugins/ adds one of your own:

    @register
    class Corners(Attack):
        kind: Literal["corners"] = "corners"
        tries: int

        def survivors(self, model, x, y, generator): ...

From then on `{kind: corners, eps: 8/255, tries: 5}` may be an entry of `eval.attacks`.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from tamnas.config.fields import PixelFraction, Section, format_fraction

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

    def survivors(
        self, model: "torch.nn.Module", x: "torch.Tensor", y: "torch.Tensor", generator: "torch.Generator"
    ) -> "torch.Tensor":
        """Which images the model still classifies correctly: (N,) bool.

        x (N, 3, H, W) float32 in [0, 1], y (N,) class indices. The model is in eval mode with frozen parameters. All
        randomness comes from `generator`.
        """
        raise NotImplementedError(f"the attack {self.kind} has no routine of its own")

    @classmethod
    def class_for(cls, raw: Mapping[str, Any]) -> type["Attack"]:
        """The registered class of `{kind, ...}`; a subclass is its own. Raises ValidationError, at the place `kind`."""
        if cls is not Attack:
            return cls
        kind = raw.get("kind")
        if isinstance(kind, str) and kind in _CLASSES:
            return _CLASSES[kind]
        wrong = PydanticCustomError("attack", f"no such attack; allowed: {', '.join(_CLASSES)}")
        error = InitErrorDetails(type=wrong if "kind" in raw else "missing", loc=("kind",), input=kind)
        raise ValidationError.from_exception_data(cls.__name__, [error])


_CLASSES: dict[str, type[Attack]] = {}
AttackType = TypeVar("AttackType", bound=Attack)


def register(attack: type[AttackType]) -> type[AttackType]:
    """Class decorator: in params.yaml its `kind` stands for it. Raises ValueError if another class has that kind."""
    kind = attack.model_fields["kind"].default
    if not (isinstance(kind, str) and kind.isidentifier()):
        raise ValueError(f"{attack.__name__}.kind is {kind!r}; allowed: a default that is a Python name")
    if _CLASSES.setdefault(kind, attack) is not attack:
        raise ValueError(f"{attack.__name__}.kind is {kind!r}, which is {_CLASSES[kind].__name__}'s")
    return attack


def _of_its_kind(raw: Any) -> Any:
    return Attack.class_for(raw).model_validate(raw) if isinstance(raw, dict) else raw


# The field of a plan that holds an attack of any kind.
AnyAttack = Annotated[SerializeAsAny[Attack], BeforeValidator(_of_its_kind)]


@register
class Pgd(Attack):
    """PGD on the cross-entropy with a random start; `step_size` null: what its section says.

    All of a network's PGD attacks share passes (`tamnas.evaluation.accuracy`), so that it has no `survivors`.
    """

    kind: Literal["pgd"] = "pgd"
    steps: Annotated[int, Field(ge=1, lt=2**31)]
    step_size: PixelFraction | None = None

    @property
    def name(self) -> str:
        return f"PGD-{self.steps}"

    @property
    def latex(self) -> str:
        return rf"$P_{{{format_fraction(self.eps)}}}^{{{self.steps}}}$"
