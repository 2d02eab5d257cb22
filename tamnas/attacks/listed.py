"""The attacks that may be entries of `eval.attacks`, as values. Their routines need torch and are named as text.

Those of Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (ICML 2020), run as the authors wrote them (`tamnas.attacks.packaged`), with the settings of AutoAttack's
standard version.
"""

from typing import ClassVar, Literal

from tamnas.attacks.attack import EvalAttack, Pgd, register

PACKAGED = "tamnas.attacks.packaged:survivors"


@register
class EvalPgd(EvalAttack, Pgd):
    """PGD beside the grid's: `step_size` null is eps / 4, and any iterate counts."""

    kind: Literal["pgd"] = "pgd"
    routine: ClassVar[str] = "tamnas.attacks.survival:pgd_survivors"


@register
class PgdCw(EvalPgd):
    """PGD on the margin loss of Carlini & Wagner, the best wrong logit minus the right one: no softmax to saturate."""

    kind: Literal["pgd_cw"] = "pgd_cw"

    @property
    def name(self) -> str:
        return f"PGD-CW-{self.steps}"


@register
class ApgdCe(EvalAttack):
    """AutoPGD on the cross-entropy, 100 steps."""

    kind: Literal["apgd_ce"] = "apgd_ce"
    routine: ClassVar[str] = PACKAGED

    @property
    def name(self) -> str:
        return "APGD-CE"


@register
class ApgdDlr(EvalAttack):
    """AutoPGD on the targeted difference-of-logits ratio, 100 steps for each of at most nine classes."""

    kind: Literal["apgd_dlr"] = "apgd_dlr"
    least_classes: ClassVar[int] = 4  # the loss divides by a difference to the third and fourth logit
    routine: ClassVar[str] = PACKAGED

    @property
    def name(self) -> str:
        return "APGD-DLR targeted"


@register
class Fab(EvalAttack):
    """FAB, targeted: the nearest decision boundary, 100 steps for each of at most nine classes."""

    kind: Literal["fab"] = "fab"
    routine: ClassVar[str] = PACKAGED

    @property
    def name(self) -> str:
        return "FAB targeted"


@register
class Square(EvalAttack):
    """The Square Attack: random search with 5,000 queries, which needs no gradients."""

    kind: Literal["square"] = "square"
    needs_gradients: ClassVar[bool] = False
    routine: ClassVar[str] = PACKAGED

    @property
    def name(self) -> str:
        return "Square"


@register
class AutoAttack(EvalAttack):
    """AutoAttack, standard version: four attacks, each on what those before it left."""

    kind: Literal["autoattack"] = "autoattack"
    least_classes: ClassVar[int] = ApgdDlr.least_classes

    @property
    def name(self) -> str:
        return "AutoAttack"

    @property
    def parts(self) -> tuple[EvalAttack, ...]:
        return tuple(part(eps=self.eps) for part in (ApgdCe, ApgdDlr, Fab, Square))
