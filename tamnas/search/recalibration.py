"""BatchNorm of inherited weights, recalibrated in each way that a reader could want."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from tamnas.attacks.ascent import pgd
from tamnas.attacks.registry import Pgd
from tamnas.evaluation.accuracy import fast_copy
from tamnas.networks.batchnorm import recalibrate
from tamnas.networks.subnet import Subnet

RECALIBRATIONS = ("none", "clean", "adversarial", "mixed")


def recalibrations(subnet: Subnet, drawn: Iterable[tuple[Tensor, Tensor]], attack: Pgd) -> Iterator[tuple[str, Subnet]]:
    """(recalibration, the subnet itself with its statistics) for each of `RECALIBRATIONS`; `subnet` in eval mode.

    None: statistics as inherited. Clean: of `drawn`, batches of x (N, 3, H, W) in [0, 1] and y. Adversarial: of the
    same images under PGD without a random start, against the subnet recalibrated on clean ones. Mixed: of both.
    """
    yield "none", subnet
    batches = list(drawn)
    clean = [x for x, _ in batches]
    recalibrate(subnet, clean)
    yield "clean", subnet
    how = {"eps": float(attack.eps), "step_size": float(attack.step_size), "steps": attack.steps}
    attacked_model = fast_copy(subnet)
    attacked = [pgd(attacked_model, *batch, random_start=False, **how) for batch in batches]
    recalibrate(subnet, attacked)
    yield "adversarial", subnet
    recalibrate(subnet, clean + attacked)
    yield "mixed", subnet
