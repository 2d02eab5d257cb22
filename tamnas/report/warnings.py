"""What a reader should know before believing the numbers: broken networks, attacks that were too weak, leaks."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

from tamnas.attacks.registry import Pgd
from tamnas.config.fields import format_fraction
from tamnas.evaluation.health import (
    MASKING,
    NOISE,
    ROBUST,
    above_chance,
    curve_signs,
    ensemble_signs,
    radius_sign,
    trace_signs,
)
from tamnas.report.study import Dataset, RowResults, Test, class_shares

SURVIVORS = 0.05  # more than that at the large radius is no "about 0"


def warnings(dataset: Dataset) -> list[str]:
    """One line each, what is not there at all first."""
    examined = list(dataset.examined())
    lines = [f"{divergence.name}: {divergence.text}" for divergence in dataset.diverged]
    lines += dataset.unfinished
    if dataset.plan.data.merge_validation:
        lines.append(
            "data.merge_validation is set: validation images were trained on, and selection saw the test split. Test "
            "accuracies of whatever was chosen (subnets, epochs, Lego-Nets) are optimistic."
        )
    reference, key = dataset.plan.validation.attack, dataset.key_attack
    if (reference.eps, reference.steps) != (key.eps, key.steps):
        chosen = Pgd(eps=reference.eps, steps=reference.steps).text
        lines.append(
            f"networks are chosen on validation under {chosen}, which is not among the attacks on test images: "
            f"{key.text} stands for robustness in its place."
        )
    lines += [f"images: {line}" for line in dataset.card["warnings"]]
    lines += broken(dataset)
    signs = [f"{one.name}: {line}" for one in examined for line in suspicious(one.network.test)]
    lines += sorted(signs, key=lambda line: MASKING not in line)  # the graver ones first
    if dataset.plan.eval.checks:
        radius = format_fraction(dataset.plan.eval.checks.large_eps)
        lines += [
            f"{one.name}: {100 * one.network.checks['large_eps']:.2f}% survive a radius of {radius}: {MASKING}."
            for one in examined
            if one.network.checks.get("large_eps", 0) > SURVIVORS
        ]
    return lines


def suspicious(test: Test) -> list[str]:
    """Signs of gradient masking or of an attack that has not converged.

    A rise by one image, or by 0.25 points on large test sets, is the noise of random starts.
    """
    tolerance, pgd = max(1.0001 / test.images, NOISE), test.pgd
    lines = [
        f"accuracy under {attack.text} ({100 * share:.2f}%) is above clean accuracy ({100 * test.clean:.2f}%): "
        f"{MASKING}."
        for attack, share in {**pgd, **test.grid}.items()
        if test.count(attack) == test.images and share > test.clean + tolerance
    ]
    for steps in sorted({attack.steps for attack in pgd}):
        line = [(format_fraction(attack.eps), share) for attack, share in pgd.items() if attack.steps == steps]
        lines += _rises(f"accuracy under PGD-{steps}", "at", line, tolerance)
    for eps in sorted({attack.eps for attack in pgd}):
        radius = format_fraction(eps)
        line = [(f"PGD-{attack.steps}", share) for attack, share in pgd.items() if attack.eps == eps]
        lines += _rises(f"accuracy at {radius}", "under", line, tolerance)
        (few, first), (many, final) = line[0], line[-1]
        if first - final > 0.05:
            lines.append(
                f"at {radius} {few} leaves {100 * first:.2f}%, {many} {100 * final:.2f}%: the "
                "shorter attack has not converged; read the longer one."
            )
    lines += filter(
        None, (radius_sign(attack.text, count, test.count(attack)) for attack, count in test.missed.items())
    )
    texts = {attack.key: attack.text for attack in test.grid}
    return lines + [line for rows in test.parts.values() for line in ensemble_signs(rows, texts)]


def _rises(what: str, where: str, line: Sequence[tuple[str, float]], tolerance: float) -> Iterator[str]:
    """Where accuracy grows along (attack, accuracy) from a weaker attack to a stronger one."""
    for (weak, before), (strong, after) in pairwise(line):
        if after > before + tolerance:
            low, high = f"{100 * before:.2f}% {where} {weak}", f"{100 * after:.2f}% {where} {strong}"
            yield f"{what} rises from {low} to {high}: {MASKING}."


def broken(dataset: Dataset) -> list[str]:
    """Signs of networks that training broke, from their curves, attacks and accuracies; one line each."""
    share, images = max(class_shares(dataset.card, "train")), dataset.images["train"]
    noise = max(1.0001 / dataset.images["validation"], NOISE)  # of random starts, as in `suspicious`
    lines = [f"{row.name}: {line}" for row in dataset.rows for line in _search_signs(row, share, images, noise)]
    largest = max(class_shares(dataset.card, "test"))
    for one in dataset.examined():
        network, eps = one.network, one.training.attack.eps
        within = eps >= dataset.plan.validation.attack.eps
        signs = trace_signs(network.attack) | curve_signs(network.curve, share, images, True, within)
        if network.at_chance and "dead" not in signs:
            signs["chance"] = (
                f"clean accuracy {100 * network.test.clean:.2f}% is close to chance ({100 * largest:.2f}% for the "
                "largest class alone); the training did not succeed."
            )
        lines += [f"{one.name}: {line}" for line in (*signs.values(), *_defenceless(network.test, eps, share))]
    return lines


def _search_signs(row: RowResults, share: float, images: int, noise: float) -> Iterator[str]:
    for phase, curve in (("block", row.block_curve), ("joint", row.joint_curve)):
        for line in curve_signs(curve, share, images, finished=True).values():
            yield f"supernet, {phase} phase: {line}"
    for subnet in row.front:
        if subnet.robust > subnet.clean + noise:
            yield (
                f"search: subnet {subnet.id} has {100 * subnet.robust:.2f}% under attack and "
                f"{100 * subnet.clean:.2f}% clean with inherited weights: {MASKING}."
            )
    if row.at_chance:
        yield (
            "search: no subnet of the front is better with inherited weights than predicting the largest class: the "
            "supernet learnt nothing, and the choice of subnets is chance."
        )
    elif row.front and max(subnet.robust for subnet in row.front) <= share / 2:
        yield (
            f"search: no subnet of the front keeps more than {100 * share / 2:.2f}% under attack with inherited "
            "weights: the supernet has no robustness to search for."
        )


def _defenceless(test: Test, eps: Fraction, share: float) -> Iterator[str]:
    """No robustness left within the radius that the network was trained for."""
    worst = next((attack for attack in reversed(test.pgd) if attack.eps <= eps), None)
    if worst and test.clean > above_chance(share, ROBUST) and test.grid[worst] < share / 2:
        yield (
            f"{100 * test.clean:.2f}% clean, {100 * test.grid[worst]:.2f}% under {worst.text}, "
            f"within its training radius {format_fraction(eps)}: the robustness collapsed (catastrophic overfitting)."
        )
