"""Intervals, paired differences and signs that an attack was too weak. Accuracies are shares."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from scipy.stats import t as student
from scipy.stats import wilcoxon

from tamnas.attacks.registry import Attack
from tamnas.config.fields import format_fraction
from tamnas.report.broken import broken
from tamnas.report.study import Dataset, Row, Test, Trained

MASKING = "a sign of gradient masking"
SURVIVORS = 0.05  # more than that at the large radius is no "about 0"
Z95 = 1.959963984540054


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of `share` correct among `n` images."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Paired:
    """Mean of paired differences with its 95% t interval and Wilcoxon's p; None where n is too small."""

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    n: int


def paired(differences: Sequence[float]) -> Paired:
    n, mean = len(differences), sum(differences) / len(differences)
    if n < 2:
        return Paired(mean, None, None, None, n)
    deviation = math.sqrt(sum((one - mean) ** 2 for one in differences) / (n - 1))
    half = float(student.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return Paired(mean, mean - half, mean + half, _signed_rank_p(tuple(differences)), n)


@cache  # ties make it a permutation test of seconds, and tables, page and claims ask about the same pairs
def _signed_rank_p(differences: tuple[float, ...]) -> float | None:
    """Wilcoxon's p; it has no answer where every pair is equal."""
    return float(wilcoxon(differences).pvalue) if any(differences) else None


def scratch_minus_finetune(row: Row, attack: Attack) -> dict[str, Paired]:
    """Paired over the networks of a row, on test: clean, and robust under `attack`."""
    finetuned = {network.id: network.test for network in row.finetune}
    pairs = [(network.test, finetuned[network.id]) for network in row.scratch if network.id in finetuned]
    differences = {"clean": [a.clean - b.clean for a, b in pairs]}
    if all(attack in test.grid for pair in pairs for test in pair):
        differences["robust"] = [a.grid[attack] - b.grid[attack] for a, b in pairs]
    return {name: paired(values) for name, values in differences.items() if values}


def _legos(row: Row) -> list[Trained]:
    return [row.lego.network] if row.lego else []


def tested(dataset: Dataset) -> Iterator[tuple[str, Trained]]:
    """(where it belongs, network) of every network of the study itself; controls and repeats apart."""
    for row in dataset.rows:
        for kind, networks in (("scratch", row.scratch), ("finetune", row.finetune), ("", _legos(row))):
            for network in networks:
                yield f"{row.name} {network.id} {kind}".strip(), network
    if dataset.pooled:
        yield "pooled lego", dataset.pooled.network
    for network in dataset.baselines:
        yield network.id, network


def examined(dataset: Dataset) -> Iterator[tuple[str, Trained]]:
    """`tested`, and the networks of all controls, repeats with further seeds among them."""
    yield from tested(dataset)
    for name, controls in [*((row.name, row.controls) for row in dataset.rows), ("pooled", dataset.controls)]:
        for network in controls.networks:
            yield f"{name} {network.id} (control)", network


def warnings(dataset: Dataset) -> list[str]:
    """What a reader should know before believing the numbers; one line each, what is not there at all first."""
    found = [f"{one.name}: {one.text}" for one in dataset.diverged]
    found += dataset.unfinished
    if dataset.plan.data.merge_validation:
        found.append(
            "data.merge_validation is set: validation images were trained on, and selection saw the test split. Test "
            "accuracies of whatever was chosen (subnets, epochs, Lego-Nets) are optimistic."
        )
    found += broken(dataset, examined(dataset))
    signs = [f"{name}: {line}" for name, network in examined(dataset) for line in suspicious(network.test)]
    found += sorted(signs, key=lambda line: MASKING not in line)  # the graver ones first
    if dataset.plan.eval.checks:
        radius = format_fraction(dataset.plan.eval.checks.large_eps)
        found += [
            f"{name}: {100 * network.checks['large_eps']:.2f}% survive a radius of {radius}: {MASKING}."
            for name, network in examined(dataset)
            if network.checks.get("large_eps", 0) > SURVIVORS
        ]
    chance = 1.5 / len(dataset.card["classes"])
    found += [
        f"{name}: clean accuracy {100 * network.test.clean:.2f}% is close to chance; the training did not succeed."
        for name, network in examined(dataset)
        if network.test.clean <= chance
    ]
    return found


def suspicious(test: Test) -> list[str]:
    """Signs of gradient masking or of an attack that has not converged.

    A rise by one image, or by 0.25 points on large test sets, is the noise of random starts.
    """
    tolerance, pgd = max(1.0001 / test.images, 0.0025), test.pgd
    lines = [
        f"accuracy under {attack.text} ({100 * share:.2f}%) is above clean accuracy ({100 * test.clean:.2f}%): "
        f"{MASKING}."
        for attack, share in {**pgd, **test.grid}.items()
        if share > test.clean + tolerance
    ]
    for steps in sorted({attack.steps for attack in pgd}):
        line = [(attack.eps, share) for attack, share in pgd.items() if attack.steps == steps]
        lines += [
            f"accuracy under PGD-{steps} rises from {100 * a:.2f}% at {format_fraction(low)} to {100 * b:.2f}% at "
            f"{format_fraction(high)}: {MASKING}."
            for (low, a), (high, b) in pairwise(line)
            if b > a + tolerance
        ]
    for eps in sorted({attack.eps for attack in pgd}):
        line = [(attack.steps, share) for attack, share in pgd.items() if attack.eps == eps]
        lines += [
            f"accuracy at {format_fraction(eps)} rises from {100 * a:.2f}% under PGD-{few} to {100 * b:.2f}% under "
            f"PGD-{many}: {MASKING}."
            for (few, a), (many, b) in pairwise(line)
            if b > a + tolerance
        ]
        (few, first), (many, final) = line[0], line[-1]
        if first - final > 0.05:
            lines.append(
                f"at {format_fraction(eps)} PGD-{few} leaves {100 * first:.2f}%, PGD-{many} {100 * final:.2f}%: the "
                "shorter attack has not converged; read the longer one."
            )
    return lines
