"""The test of each of the paper's conclusions on one dataset's results; `claims` says in words what each one does.

A judge takes a `Dataset` and gives a `Finding`; "not run" where the results that it needs are not there.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import chain, groupby
from statistics import fmean

from scipy.stats import fisher_exact, mannwhitneyu

from tamnas.attacks.registry import Attack, Pgd
from tamnas.config.fields import format_fraction
from tamnas.report.accuracy import mean_difference
from tamnas.report.claims.transfer import Retrained, retrained
from tamnas.report.claims.verdicts import (
    FAILS,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    Finding,
    above,
    all_of,
    at_level,
    below,
    by_sides,
    within,
)
from tamnas.report.intervals import Interval, correlation, mean_interval, paired, welch, wilson
from tamnas.report.study import Dataset, RowResults, TrainedNetwork
from tamnas.report.terms import counted
from tamnas.space.blocks import BLOCKS

Judge = Callable[[Dataset], Finding]
MARGIN = 0.02  # robust accuracy that "suffices" may cost
GAIN = 0.05  # accuracy that counts as gained much
SETTLED = 0.01  # what may still change once something has converged
BEST_EPS = Fraction(6, 255)


def few_steps_suffice(dataset: Dataset) -> Finding:
    attack, verdicts, numbers = dataset.key_attack, [], []
    pairs = []
    for rows in _alike(dataset, lambda row: row.plan.supernet.attack.eps):
        reference = max(rows, key=_steps)
        pairs += [(row, reference) for row in rows if _steps(row) < _steps(reference)]
    if not pairs:
        return Finding(NOT_RUN, "needs two modes that differ in the steps of the supernet's attack alone")
    by_name = {row.name: row for pair in pairs for row in pair}
    compared, level = retrained([*by_name.values()]), 1 - 0.05 / len(pairs)
    for row, reference in pairs:
        robust = [_robust_shares(compared.networks[which.name], attack) for which in (row, reference)]
        difference = welch(*robust, level)
        verdicts.append(above(difference, -MARGIN))
        numbers.append(_compared(row, reference, compared, difference))
    return _of_transfer(verdicts, f"mean accuracy under {attack.text}", numbers, level, compared)


def eps_not_steps(dataset: Dataset) -> Finding:
    radii, steps = sorted(dataset.plan.eval.eps), sorted(dataset.plan.eval.steps)
    if len(radii) < 2 or len(steps) < 2:
        return Finding(NOT_RUN, "needs a grid of several radii and several step counts")
    by_eps, by_steps = [], []
    for tested in dataset.tested():
        grid = {(attack.eps, attack.steps): share for attack, share in tested.network.test.pgd.items()}
        if all((eps, count) in grid for eps in radii for count in steps):
            by_eps.append(fmean(grid[radii[0], count] - grid[radii[-1], count] for count in steps))
            by_steps.append(fmean(grid[eps, steps[0]] - grid[eps, steps[-1]] for eps in radii))
    test = mean_interval([b - a / 10 for a, b in zip(by_eps, by_steps, strict=True)])
    if test is None:
        return Finding(NOT_RUN, "needs two networks with a whole grid")
    return Finding(
        below(test),
        f"mean loss over {len(by_eps)} networks: {100 * fmean(by_eps):.2f} points from {format_fraction(radii[0])} to "
        f"{format_fraction(radii[-1])}, {100 * fmean(by_steps):.2f} from {steps[0]} to {steps[-1]} steps; steps minus "
        f"a tenth of eps: {test.points}",
    )


def best_eps(dataset: Dataset) -> Finding:
    for rows in _alike(dataset, _steps):
        ours = next((row for row in rows if row.plan.supernet.attack.eps == BEST_EPS), None)
        others = [row for row in rows if row.plan.supernet.attack.eps != BEST_EPS]
        if ours is None or not others:
            continue
        compared = retrained(rows)
        level, steps = 1 - 0.05 / len(others), dataset.key_attack.steps
        verdicts, numbers = [], []
        for row in others:
            pair = [_over_radii(dataset, compared.networks[which.name], steps) for which in (ours, row)]
            difference = welch(*pair, level)
            verdicts.append(above(difference))
            numbers.append(_compared(ours, row, compared, difference))
        what = f"mean accuracy under PGD-{steps} over the radii of the grid"
        return _of_transfer(verdicts, what, numbers, level, compared)
    return Finding(NOT_RUN, "needs a mode with a supernet trained at 6/255 beside others that differ in eps alone")


def _of_transfer(
    verdicts: Sequence[str], what: str, numbers: Sequence[str], level: float, compared: Retrained
) -> Finding:
    text = f"{what}, {at_level(level)}: {'; '.join(numbers)}; {compared.text}"
    return Finding(all_of(verdicts) if compared.alike else UNDECIDED, text)


def size_is_not_it(dataset: Dataset) -> Finding:
    attack, sizes, robust, rows = dataset.key_attack, [], [], 0
    for row in dataset.rows:
        networks = [network for network in row.scratch if attack in network.test.grid]
        if len(networks) < 2:
            continue
        rows += 1
        for values, of in (
            (sizes, lambda network: math.log(network.parameters)),
            (robust, lambda network: network.test.grid[attack]),
        ):
            centre = fmean(map(of, networks))
            values += [of(network) - centre for network in networks]
    r = correlation(sizes, robust, rows)
    if r is None:
        return Finding(NOT_RUN, "needs more subnets of differing size trained from scratch")
    biased = r.low > 0.5
    text = f"{r.value:+.2f} ({r.low:+.2f} to {r.high:+.2f})".replace("-", "−")
    return Finding(
        UNDECIDED if biased else within(r, 0.5),
        f"r = {text} over {len(sizes)} subnets of {counted(rows, 'mode')}; accuracy under {attack.text}"
        + ("; a front pulls r up, so that a high one decides nothing" if biased else ""),
    )


def scratch_beats_finetuning(dataset: Dataset) -> Finding:
    attack = dataset.key_attack
    by_row = [[pair for pair in row.pairs if all(attack in one.test.grid for one in pair)] for row in dataset.rows]
    by_row = [pairs for pairs in by_row if pairs]
    count = sum(map(len, by_row))
    if count < 2:
        return Finding(NOT_RUN, "needs two subnets or more, each trained both ways")
    # The fine-tuned ones of a mode share what they inherit: of several modes each counts once.
    units = by_row if len(by_row) > 1 else [[pair] for pair in by_row[0]]
    verdicts, numbers, level = [], [], 0.975
    for which, under in (("clean", None), ("robust", attack)):
        result = paired([mean_difference(pairs, under).mean for pairs in units], level)
        clear = result.p_value is not None and result.p_value < 0.025
        verdicts.append((HOLDS if result.mean > 0 else FAILS) if clear else UNDECIDED)
        numbers.append(f"{which} {result.points}")
    epochs = {(r.plan.retrain.scratch.recipe.epochs, r.plan.retrain.finetune.recipe.epochs) for r in dataset.rows}
    uneven = [f"{counted(a, 'epoch')} from scratch, {b} of fine-tuning" for a, b in sorted(epochs) if a != b]
    of = counted(len(by_row), "mode") if len(by_row) > 1 else "one supernet"
    text = f"{count} pairs of {of}, {at_level(level)}: {', '.join(numbers)}; robust: {attack.text}"
    few = [f"p below 0.025 takes 7 {'modes' if len(by_row) > 1 else 'pairs'}"] if len(units) < 7 else []
    return Finding(all_of(verdicts), "; ".join([text, *few, *uneven]))


def tiny_networks_gain(dataset: Dataset) -> Finding:
    gains, clean_alone = [], 0
    for row in dataset.rows:
        before = {network.id: network for network in row.selected}
        known = [network for network in row.scratch if network.id in before]
        smaller = sorted(known, key=lambda network: (network.parameters, network.id))[: (len(known) + 1) // 2]
        # Where the search attacks with another radius, robust accuracy before and after cannot be compared.
        same = row.plan.search.attack == row.plan.retrain.validation.attack
        clean_alone += 0 if same else len(smaller)
        for network in smaller:
            after, start = network.record.score(row.plan.eval.weights), before[network.id]
            both = [after.clean - start.clean, *([after.robust - start.robust] if same else [])]
            gains.append(min(both))
    if not gains:
        return Finding(NOT_RUN, "needs subnets trained from scratch")
    count = sum(gain >= GAIN for gain in gains)
    share = _share(count, len(gains))
    return Finding(
        above(share, 0.5),
        f"{counted(count, 'subnet')} of {len(gains)}, the smaller half of each mode's ({100 * share.low:.0f}% to "
        f"{100 * share.high:.0f}%)"
        + (f", {clean_alone} by clean accuracy alone" if clean_alone else "")
        + ("; a verdict takes 4" if len(gains) < 4 else ""),
    )


def hypervolume_converged(dataset: Dataset) -> Finding:
    lefts = []
    for row in dataset.rows:
        values = {line["generation"]: line["hypervolume"] for line in row.hypervolume}
        last = max(values, default=0)
        if last > 18 and values[last] > 0:
            lefts.append((values[last] - values[18]) / values[last])
    if not lefts:
        longest = max((len(row.hypervolume) - 1 for row in dataset.rows), default=0)
        return Finding(NOT_RUN, f"needs more than 18 generations; the longest search has {longest}")
    settled = sum(abs(left) <= SETTLED for left in lefts)
    share = _share(settled, len(lefts))
    change = f"{100 * max(lefts, key=abs):+.2f}%".replace("-", "−")
    return Finding(
        above(share, 0.5),
        f"searches that change by at most 1% after it: {settled} of {len(lefts)} ({100 * share.low:.0f}% to "
        f"{100 * share.high:.0f}%); the largest change is {change}" + ("; a verdict takes 4" if len(lefts) < 4 else ""),
    )


def training_converged(dataset: Dataset) -> Finding:
    curves = [network.curve for row in dataset.rows for network in row.scratch]
    long = [curve for curve in curves if len(curve) > 40]
    if not long:
        epochs = max(map(len, curves), default=0)
        return Finding(NOT_RUN, f"needs retraining of more than 40 epochs; here it has {epochs}")
    verdicts, numbers = [], []
    for which in ("clean", "robust"):
        ends = [[curve[at][f"validation_{which}"] for at in (39, -1)] for curve in long]
        changes = [abs(last - middle) for middle, last in ends if None not in (middle, last)]
        settled = sum(change <= SETTLED for change in changes)
        if not changes:
            verdicts.append(UNDECIDED)
            numbers.append(f"{which} not measured at epoch 40")
            continue
        share = _share(settled, len(changes))
        verdicts.append(above(share, 0.5))
        numbers.append(f"{which} {settled} of {len(changes)} ({100 * share.low:.0f}% to {100 * share.high:.0f}%)")
    return Finding(all_of(verdicts), f"subnets that change by at most 1 point after it: {', '.join(numbers)}")


def robust_blocks_first(dataset: Dataset) -> Finding:
    choices = _by_layer(dataset, "block")
    if choices is None:
        return Finding(NOT_RUN, "needs the statistics of the best subnets")
    depth = len(choices)
    head, half = _layers_in(1 / 4, depth), _layers_in(1 / 2, depth)
    parts = choices[:head], choices[depth - half :]
    attends = [[BLOCKS[int(block)].family != "pure tiny" for block in chain(*part)] for part in parts]
    counts = [(sum(part), len(part)) for part in attends]
    table = [[robust, total - robust] for robust, total in counts]
    greater, less = (float(fisher_exact(table, alternative=side).pvalue) for side in ("greater", "less"))
    (first, total_first), (last, total_last) = counts
    return Finding(
        by_sides(greater, less),
        f"blocks with attention: {first} of {counted(total_first, 'choice')} in the first {_layers(head)} of "
        f"{depth}, {last} of {total_last} in the last {_layers(half)}; p {min(greater, less):.2g}",
    )


def wide_ratios_first(dataset: Dataset) -> Finding:
    choices = _by_layer(dataset, "ratio")
    if choices is None:
        return Finding(NOT_RUN, "needs the statistics of the best subnets")
    depth = len(choices)
    part = _layers_in(3 / 16, depth)
    if depth < 3 * part:
        return Finding(NOT_RUN, f"needs layers between the first and the last ones; the networks have {depth}")
    parts = choices[:part], choices[part : depth - part], choices[depth - part :]
    first, between, last = ([*chain(*layers)] for layers in parts)
    means = [fmean(layer) for layer in choices]
    least = [layer for layer, mean in enumerate(means) if math.isclose(mean, min(means))]
    (wide, p_wide), (small, p_small) = _larger(first, last), _larger(between, last)
    if small == HOLDS and least[-1] < depth - part:
        small = UNDECIDED  # smaller than the layers between on average, but not the smallest
    ends = _layers(part)
    return Finding(
        all_of([wide, small]),
        f"mean ratio {fmean(first):.2f} in the first {ends} of {depth}, {fmean(between):.2f} "
        f"between, {fmean(last):.2f} in the last {ends}; first against last p {p_wide:.2g} ({wide}), between against "
        f"last p {p_small:.2g}, smallest mean {min(means):.2f} in layer {', '.join(map(str, least))} of 0 to "
        f"{depth - 1} ({small}); {counted(len(first), 'choice')} in the first",
    )


def _larger(ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, float]:
    """Mann-Whitney's test of `ours` above `theirs`: (verdict, the smaller of both one-sided p)."""
    greater, less = (float(mannwhitneyu(ours, theirs, alternative=side).pvalue) for side in ("greater", "less"))
    return by_sides(greater, less), min(greater, less)


def _share(count: int, n: int) -> Interval:
    return Interval(count / n, *wilson(count / n, n))


def _steps(row: RowResults) -> int:
    """Steps of the supernet's attack, in order: m x n."""
    return row.plan.supernet.attack.m * row.plan.supernet.attack.n


def _alike(dataset: Dataset, same: Callable[[RowResults], Fraction | int]) -> list[list[RowResults]]:
    """Rows that are alike in this, in width, and in how their supernet was trained but for its attack."""

    def key(row: RowResults) -> tuple:
        return same(row), row.plan.network.width, row.plan.supernet.model_dump_json(exclude={"attack"})

    return [list(rows) for _, rows in groupby(sorted(dataset.rows, key=key), key=key)]


def _robust_shares(networks: Sequence[TrainedNetwork], attack: Attack) -> list[float]:
    return [network.test.grid[attack] for network in networks if attack in network.test.grid]


def _over_radii(dataset: Dataset, networks: Sequence[TrainedNetwork], steps: int) -> list[float]:
    wanted = [Pgd(eps=eps, steps=steps) for eps in dataset.plan.eval.eps]
    grids = [network.test.grid for network in networks]
    return [fmean(grid[attack] for attack in wanted) for grid in grids if all(attack in grid for attack in wanted)]


def _compared(ours: RowResults, theirs: RowResults, compared: Retrained, difference: Interval | None) -> str:
    first, second = (len(compared.networks[row.name]) for row in (ours, theirs))
    counts = f"{first} and {counted(second, 'network')}"
    return f"{ours.plan.mode} minus {theirs.plan.mode} ({counts}): {difference.points if difference else 'too few'}"


def _layers(count: int) -> str:
    return "layer" if count == 1 else f"{count} layers"


def _layers_in(share: float, depth: int) -> int:
    return max(1, round(share * depth))


def _by_layer(dataset: Dataset, gene: str) -> list[list] | None:
    """What the best subnets chose in each layer, a value for each of them; None before they are counted."""
    lego = dataset.lego or next((row.lego for row in dataset.rows if row.lego), None)
    if lego is None:
        return None
    own = [line for line in lego.counts if line["gene"] == gene]
    return [
        [line["value"] for line in own if line["layer"] == layer for _ in range(line["count"])]
        for layer in range(1 + max(line["layer"] for line in own))
    ]
