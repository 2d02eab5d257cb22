"""Warnings about networks that training broke, from their curves, attacks and accuracies."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

from tamnas.config.fields import format_fraction
from tamnas.config.plan import DatasetPlan, RowPlan
from tamnas.evaluation.health import curve_signs, trace_signs
from tamnas.report.study import Dataset, Row, Test, Trained


def broken(dataset: Dataset, tested: Iterable[tuple[str, Trained]]) -> list[str]:
    """One line per sign; `tested` gives every trained network with its name."""
    share, images = max(_shares(dataset, "train")), dataset.images["train"]
    noise = max(1.0001 / dataset.images["validation"], 0.0025)  # of random starts, as in `checks.suspicious`
    shares = _shares(dataset, "validation")
    lines = [f"{row.name}: {line}" for row in dataset.rows for line in _row_signs(row, share, images, noise)]
    trained_at = _training_eps(dataset)
    for name, network in tested:
        signs = list(curve_signs(network.curve, share, images, shares).values())
        signs += trace_signs(network.attack)
        signs += _constant(network.test, _shares(dataset, "test"))
        signs += _defenceless(network.test, trained_at.get(id(network)), share)
        # The trace and the accuracies may say the same of a dead network.
        lines += [f"{name}: {line}" for line in dict.fromkeys(signs)]
    return lines


def _row_signs(row: Row, share: float, images: int, noise: float) -> Iterator[str]:
    for phase, curve in (("block", row.block_curve), ("joint", row.joint_curve)):
        for line in curve_signs(curve, share, images).values():
            yield f"supernet, {phase} phase: {line}"
    for one in row.front:
        if one.robust > one.clean + noise:
            yield (
                f"search: subnet {one.id} has {100 * one.robust:.2f}% under attack and {100 * one.clean:.2f}% clean "
                "with inherited weights: a sign of gradient masking."
            )
    if row.front and max(one.robust for one in row.front) <= share / 2:
        yield (
            f"search: no subnet of the front keeps more than {100 * share / 2:.2f}% under attack with inherited "
            "weights: the supernet has no robustness to search for."
        )


def _constant(test: Test, shares: list[float]) -> Iterator[str]:
    """A network that predicts one class: its accuracy is that class's share, under every attack."""
    same = all(share == test.clean for share in test.grid.values())
    if same and any(abs(test.clean - share) < 1e-9 for share in shares):
        yield f"{100 * test.clean:.2f}% clean and under every attack, the share of one class: the network is dead."


def _defenceless(test: Test, eps: Fraction | None, share: float) -> Iterator[str]:
    """No robustness left within the radius that the network was trained for."""
    worst = next((attack for attack in reversed(test.pgd) if eps and attack.eps <= eps), None)
    if worst and test.clean > 2 * share and test.grid[worst] < share / 2:
        yield (
            f"{100 * test.clean:.2f}% clean, {100 * test.grid[worst]:.2f}% under {worst.text}, "
            f"within its training radius {format_fraction(eps)}: the robustness collapsed "
            "(catastrophic overfitting)."
        )


def _shares(dataset: Dataset, split: str) -> list[float]:
    """Each class's share of a split; cards without counts per class count as balanced."""
    part = dataset.card["splits"][split]
    if "per_class" not in part:
        return [1 / len(dataset.card["classes"])]
    return [count / part["images"] for count in part["per_class"]]


def _training_eps(dataset: Dataset) -> dict[int, Fraction]:
    """The radius that a network was trained for, by the object's id."""
    found: dict[int, Fraction] = {}
    for row in dataset.rows:
        plan: RowPlan = row.plan
        scratch = [*row.scratch, row.lego.network] if row.lego else row.scratch
        found |= {id(one): plan.retrain.scratch.attack.eps for one in scratch}
        found |= {id(one): plan.retrain.finetune.attack.eps for one in row.finetune}
        found |= {id(one): _control_eps(plan, one) for one in row.controls.networks}
    plan: DatasetPlan = dataset.plan
    if dataset.pooled:
        found[id(dataset.pooled.network)] = plan.pooled.training.attack.eps
    for one in dataset.controls.networks:
        training = plan.baselines.training if one.label["kind"] == "baselines" else plan.pooled.training
        found[id(one)] = training.attack.eps
    return found | {id(one): plan.baselines.training.attack.eps for one in dataset.baselines}


def _control_eps(plan: RowPlan, network: Trained) -> Fraction:
    """A control trains as what it stands beside, but for what it is there to change (`tamnas.controls`)."""
    changed = {variant.control: variant.training for variant in plan.controls.finetune}
    changed["common_attack"] = plan.controls.common_attack
    own = plan.retrain.finetune if network.label["kind"] == "finetune" else plan.retrain.scratch
    return (changed.get(network.label["control"]) or own).attack.eps
