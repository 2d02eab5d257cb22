"""All figures of a run with their titles and captions; what is drawn is in the modules beside this one."""

from collections.abc import Sequence

from tamnas.report.figures.architectures import draw_architectures, draw_layers
from tamnas.report.figures.datasets import draw_hypervolume, draw_overview, draw_robustness
from tamnas.report.figures.rows import (
    area_objective,
    draw_fronts,
    draw_ranks,
    draw_retraining,
    draw_scratch_and_finetune,
    draw_supernet,
    front_rows,
)
from tamnas.report.figures.style import Picture, picture
from tamnas.report.study import Dataset, RowResults
from tamnas.report.terms import counted, first_training, max_half_width, selection_images
from tamnas.search.objectives import Objective


def pictures(datasets: Sequence[Dataset]) -> list[Picture]:
    """All figures, the overview first; none that would show a single point. The rows of a dataset share each figure."""
    shown = [dataset for dataset in datasets if dataset.rows]
    overview = [_overview(shown)] if any(len(list(dataset.tested())) > 1 for dataset in shown) else []
    return overview + [
        each for dataset in shown for each in (*_of_dataset(dataset), *_of_paper(dataset), *_of_training(dataset))
    ]


def _overview(datasets: Sequence[Dataset]) -> Picture:
    tests = "; ".join(
        f"{dataset.name}: n = {dataset.images['test']:,}, {dataset.key_attack.text}" for dataset in datasets
    )
    caption = (
        f"Parameters against clean (left) and robust (right) accuracy on test images ({tests}). Small circles: all "
        "subnets trained from scratch; ringed: the best of each row by validation. Bars, where few networks leave "
        "room: 95% Wilson intervals."
    )
    if any(dataset.controls_of("random_networks", "lego_random", "lego_uniform") for dataset in datasets):
        caption += " Crosses: random networks beside the searched ones; uniform: block 0 in every layer."
    caption = " ".join([caption, *first_training(*datasets)])
    return picture("overview", None, "Size against accuracy", caption, draw_overview, datasets)


def _of_dataset(dataset: Dataset) -> list[Picture]:
    name, n = dataset.name, dataset.images["test"]
    robustness = (
        f"Accuracy of the final networks on n = {n:,} test images against the radius of "
        f"PGD-{max(dataset.plan.eval.steps)}; radius 0 is clean accuracy. 95% Wilson intervals reach at most "
        f"{100 * max_half_width(n):.1f} points to either side; they are drawn where few networks leave room, with the "
        "points shifted sideways to keep them apart."
    )
    robustness = " ".join([robustness, *first_training(dataset)])
    architecture = (
        "One network a strip, one choice block a column. Height: channel ratio, the outline is the largest of the "
        "space; the number above a column counts the channels behind the selector. Below: block id, branch with kernel "
        "size (S: ShuffleNetV2, SX: Shuffle-Xception), attention (NE, NG: non-local, embedded Gaussian or Gaussian; + "
        "with BatchNorm). Dashed lines: a stage begins."
    )
    random = any(row.random_search for row in dataset.rows)
    dotted = "; dotted: random search after as many distinct evaluations" if random else ""
    hypervolume = (
        "Share of the objective box that the front dominates, per generation (0: the initial population). Lines with "
        f"markers: front of the population; thin lines, where they differ: of all evaluated{dotted}. Objectives on "
        f"{selection_images(dataset)}."
    )
    return [
        picture(f"{name}-{suffix}", name, f"{title}, {name}", caption, draw, drawn)
        for suffix, title, caption, draw, drawn in (
            ("robustness", "Accuracy under attack", robustness, draw_robustness, dataset),
            ("architectures", "Architectures", architecture, draw_architectures, architectures(dataset)),
            ("hypervolume", "Hypervolume", hypervolume, draw_hypervolume, dataset),
        )
    ]


def _of_paper(dataset: Dataset) -> list[Picture]:
    """The forms of the paper's Figures 5 to 9."""
    single, rows, fronts, name = len(dataset.rows) == 1, dataset.rows, front_rows(dataset.rows), _name(dataset)
    (before, after), attack = _attacks(fronts), dataset.key_attack
    modes = "" if single else f"Modes {', '.join(row.plan.mode for row in fronts)}. "
    space, lego = (rows[0].space, rows[0].lego) if single else (dataset.space, dataset.pooled)
    side_by_side = (
        f"The {counted(sum(len(row.scratch) for row in rows), 'retrained subnet')} in the objectives of the search "
        f"on n = {dataset.images['test']:,} test images, robust error under {attack.text}. Circles: "
        "trained from scratch; squares: fine-tuned from inherited weights; a line joins the same architecture."
        + ("" if single else " Area grows with the number of parameters. The axes of the panels differ.")
    )
    before_and_after = (
        f"{modes}Left: the {counted(sum(len(row.front) for row in fronts), 'subnet')} of the "
        f"front{'' if single else 's'} with inherited weights ({before}); right: the "
        f"{sum(len(row.scratch) for row in fronts)} of them that were trained from scratch ({after}); "
        f"{selection_images(dataset)}. Area grows with {_amount(area_objective(fronts))}. Label and shade are the "
        "network's in both panels, dark for a low robust error before training; white networks were not "
        "retrained. The axes of the two panels differ."
    )
    frequent = (
        "The two most frequent blocks (left) and channel ratios (right) of each layer among the "
        f"{counted(len(lego.voters) if lego else 0, 'best subnet')} by validation; area: how many use it. Several "
        "squares are tied for second; a second choice of a single subnet is left out. Dashed lines: a stage begins."
    )
    front, figures = f"The front{'' if single else 's'} before and after training", []
    if any(len(row.scratch) > 1 for row in rows):
        figures = [
            ("05", "Figure 5", "From scratch and fine-tuned", side_by_side, draw_scratch_and_finetune, rows, attack),
            ("06-07", "Figures 6 and 7", front, before_and_after, draw_fronts, fronts),
        ]
    if lego and len(lego.voters) > 1:
        figures.append(("08-09", "Figures 8 and 9", "Blocks and ratios per layer", frequent, draw_layers, space, lego))
    return [
        picture(f"{name}-figure-{number}", dataset.name, f"{title}, {name} (form of {form})", *rest)
        for number, form, title, *rest in figures
    ]


def _of_training(dataset: Dataset) -> list[Picture]:
    single, images, name = len(dataset.rows) == 1, selection_images(dataset), _name(dataset)
    before, after = _attacks(dataset.rows)
    most = max(len(row.scratch) for row in dataset.rows)
    ranks = (
        f"Rank of each network that was trained from scratch by its row's recipe by accuracy on {images} (1 is best, "
        f"ties share a rank), with inherited weights and after training; robust: {before}, then {after}. On the "
        "diagonal the supernet predicts the order. Tau: Kendall's, with its 95% bootstrap interval over the networks."
    )
    supernet = (
        f"Accuracy on training batches (clean, and under the training attack){' and loss' if single else ''}, per "
        "epoch, averaged over the paths drawn in it. The dashed line marks where the block phase ends and the joint "
        "phase begins."
    )
    retraining = (
        f"Accuracy per epoch on {images}; robust under {after}, from the epoch on that retrain.validation.start sets. "
        + ("Thin lines: single subnets; thick: their mean." if most > 1 else "A single subnet.")
    )
    figures = [
        ("rank", "Inherited and trained rank", ranks, draw_ranks),
        ("supernet", f"Training of the supernet{'' if single else 's'}", supernet, draw_supernet),
        ("retraining", "Retraining", retraining, draw_retraining),
    ]
    return [
        picture(f"{name}-{suffix}", dataset.name, f"{title}, {name}", caption, draw, dataset.rows)
        for suffix, title, caption, draw in figures
        if suffix != "rank" or any(len(row.ranking) > 1 for row in dataset.rows)
    ]


def _amount(objective: Objective) -> str:
    return f"the {'' if objective.maximise or objective.unit == 'ms' else 'number of '}{objective.label}"


def _name(dataset: Dataset) -> str:
    """What figures of rows are named after."""
    return dataset.rows[0].name if len(dataset.rows) == 1 else dataset.name


def _attacks(rows: Sequence[RowResults]) -> tuple[str, str]:
    """The attacks of the search and of validation after it."""
    before = dict.fromkeys(row.plan.search.attack.text for row in rows)
    after = dict.fromkeys(row.plan.retrain.validation.attack.text for row in rows)
    return " or ".join(before), " or ".join(after)


def architectures(dataset: Dataset) -> list[tuple]:
    """(name, what, architecture, space) of what the drawing compares."""
    networks = [(row.name, f"best subnet, {row.best.id}", row.best, row.space) for row in dataset.rows]
    if len(dataset.rows) == 1:
        (row,) = dataset.rows
        networks += [(row.name, "Lego-Net", row.lego.network, row.space)] if row.lego else []
    elif dataset.pooled:
        networks.append(("pooled", "Lego-Net", dataset.pooled.network, dataset.space))
    return [
        (name, f"{what}, {network.parameters:,} parameters", network.architecture, space)
        for name, what, network, space in networks
    ]
