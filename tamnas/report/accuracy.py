"""Accuracies with what says how far to trust them: the interval over test images, the spread over seeds."""

from collections.abc import Sequence
from statistics import fmean, stdev

from tamnas.attacks.registry import Attack
from tamnas.report.intervals import Paired, newcombe, paired, wilson
from tamnas.report.study import Test, TrainedNetwork
from tamnas.report.tables.table import Value


def accuracy_of(test: Test, attack: Attack | None) -> float | None:
    """Clean accuracy for attack None; None where it was not made."""
    return test.clean if attack is None else test.grid.get(attack)


def shares(network: TrainedNetwork, attack: Attack | None) -> dict[int | None, float]:
    """By training seed, the run's own (None) first; repeats without the attack are left out."""
    accuracies = {seed: accuracy_of(test, attack) for seed, test in {None: network.test, **network.repeats}.items()}
    return {} if accuracies[None] is None else {seed: share for seed, share in accuracies.items() if share is not None}


def share_value(share: float | None, n: int) -> Value:
    """Of a share of n images, with its 95% Wilson interval; none where it is None."""
    return Value(share, interval=None if share is None else wilson(share, n))


def accuracy_value(network: TrainedNetwork, attack: Attack | None, paper: float | None = None) -> Value:
    """The mean over seeds, its sample standard deviation, and the 95% Wilson interval over test images."""
    accuracies = [*shares(network, attack).values()]
    if not accuracies:
        return Value(paper=paper)
    mean = fmean(accuracies)
    spread = (stdev(accuracies), len(accuracies)) if len(accuracies) > 1 else None
    interval = wilson(mean, network.test.count(attack))
    return Value(mean, paper, interval=interval, spread=spread, at_chance=network.at_chance)


def mean_difference(pairs: Sequence[tuple[TrainedNetwork, TrainedNetwork]], attack: Attack | None) -> Paired | None:
    """Mean of first minus second, of the run's own seed: a t interval over pairs; a single pair has
    the interval of two proportions (Newcombe's, from Wilson's), which covers the test images instead.
    Several beside one network have none: how far these are apart does not say how good that one is.
    """
    accuracies = [(accuracy_of(a.test, attack), accuracy_of(b.test, attack)) for a, b in pairs]
    if not accuracies or any(None in pair for pair in accuracies):
        return None
    if len(accuracies) > 1:
        differences, (_, beside) = [a - b for a, b in accuracies], pairs[0]
        if all(second is beside for _, second in pairs):
            return Paired(fmean(differences), None, None, None, len(pairs))
        return paired(differences)
    ((first, second),), ((a, b),) = pairs, accuracies
    interval = newcombe(a, b, first.test.count(attack), second.test.count(attack))
    return Paired(interval.value, interval.low, interval.high, None, 1)
