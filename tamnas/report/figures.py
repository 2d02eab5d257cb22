"""All figures of a run with their titles and captions; what is drawn is in the plot modules and in `drawing`."""

from collections.abc import Sequence

from tamnas.report.dataset_plots import draw_hypervolume, draw_overview, draw_robustness
from tamnas.report.drawing import draw_architectures, draw_layers
from tamnas.report.grids import (
    draw_fronts_grid,
    draw_ranks_grid,
    draw_retraining_grid,
    draw_scratch_and_finetune_grid,
    draw_supernet_grid,
    front_rows,
)
from tamnas.report.row_plots import draw_fronts, draw_ranks, draw_retraining, draw_scratch_and_finetune, draw_supernet
from tamnas.report.study import Dataset, Lego, Row
from tamnas.report.style import Picture, picture
from tamnas.report.terms import counted, max_half_width, selection_images


def pictures(datasets: Sequence[Dataset]) -> list[Picture]:
    """All figures, the overview first. Several rows of a dataset share each figure, one panel for each."""
    shown = [dataset for dataset in datasets if dataset.rows]
    found = [_overview(shown)] if shown else []
    for dataset in shown:
        found += _of_dataset(dataset)
        found += _of_rows(dataset) if len(dataset.rows) > 1 else _of_row(dataset, dataset.rows[0])
    return found


def _overview(datasets: Sequence[Dataset]) -> Picture:
    tests = "; ".join(f"{one.name}: n = {one.images['test']:,}, {one.key_attack.text}" for one in datasets)
    caption = (
        f"Parameters against clean (left) and robust (right) accuracy on test images ({tests}). Small circles: all "
        "subnets trained from scratch; ringed: the best of each row by validation. Bars, where few networks leave "
        "room: 95% Wilson intervals."
    )
    return picture("overview", None, "Size against accuracy", caption, draw_overview, datasets)


def _of_dataset(dataset: Dataset) -> list[Picture]:
    name, n = dataset.name, dataset.images["test"]
    robustness = (
        f"Accuracy of the final networks on n = {n:,} test images against the radius of "
        f"PGD-{max(dataset.plan.eval.steps)}; radius 0 is clean accuracy. 95% Wilson intervals reach at most "
        f"{100 * max_half_width(n):.1f} points to either side; they are drawn where few networks leave room, with the "
        "points shifted sideways to keep them apart."
    )
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
        f"markers: front of the population; thin lines: of all evaluated{dotted}. Objectives on "
        f"{selection_images(dataset)}."
    )
    found = [
        picture(f"{name}-robustness", name, f"Accuracy under attack, {name}", robustness, draw_robustness, dataset),
        picture(f"{name}-architectures", name, f"Architectures, {name}", architecture, draw_architectures,
                architectures(dataset)),
        picture(f"{name}-hypervolume", name, f"Hypervolume, {name}", hypervolume, draw_hypervolume, dataset),
    ]  # fmt: skip
    return found


def _of_rows(dataset: Dataset) -> list[Picture]:
    """What `_of_row` draws, for several rows: one panel for each."""
    name, images, rows = dataset.name, selection_images(dataset), dataset.rows
    after = dataset.plan.validation.attack.text
    shown = ", ".join(row.plan.mode for row in front_rows(rows))

    def one(suffix: str, title: str, caption: str, draw, *args) -> Picture:
        return picture(f"{name}-{suffix}", name, title, caption, draw, *args)

    found = [
        one(
            "figure-05",
            f"From scratch and fine-tuned, {name} (form of Figure 5)",
            f"The retrained subnets of each mode on n = {dataset.images['test']:,} test images, robust error under "
            f"{dataset.key_attack.text}. Circles: trained from scratch; squares: fine-tuned from inherited "
            "weights; a line joins the same architecture; area: number of parameters. The axes of the panels differ.",
            draw_scratch_and_finetune_grid,
            rows,
            dataset.key_attack,
        ),
        one(
            "figure-06-07",
            f"Fronts before and after training, {name} (form of Figures 6 and 7)",
            f"Modes {shown}. Above: all subnets of the front with inherited weights (search's attack); below: "
            f"those of it that were trained from scratch, {after}; {images}. Area: number of parameters. A subnet has "
            "the same shade above and below, dark for a low robust error before training; white ones were not "
            "retrained. Labels: the smallest, the largest, the most robust before and after. The axes differ.",
            draw_fronts_grid,
            rows,
        ),
        one(
            "rank",
            f"Inherited and trained rank, {name}",
            f"Rank of each retrained subnet by accuracy on {images} (1 is best, ties share a rank) with inherited "
            f"weights and after training from scratch ({after}), and Kendall's tau-b. On the diagonal the supernet "
            "predicts the order.",
            draw_ranks_grid,
            rows,
        ),
        one(
            "supernet",
            f"Training of the supernets, {name}",
            "Accuracy on training batches per epoch, averaged over the paths drawn in it. The dashed line marks where "
            "the block phase ends and the joint phase begins.",
            draw_supernet_grid,
            rows,
        ),
        one(
            "retraining",
            f"Retraining, {name}",
            f"Mean accuracy of the retrained subnets per epoch on {images}; robust under {after}, from the epoch on "
            "that retrain.validation.start sets.",
            draw_retraining_grid,
            rows,
        ),
    ]
    if dataset.pooled:
        title = f"Blocks and ratios per layer, all rows of {name} (form of Figures 8 and 9)"
        found.append(
            one("figure-08-09", title, _layers_caption(dataset.pooled), draw_layers, dataset.space, dataset.pooled)
        )
    return found


def _of_row(dataset: Dataset, row: Row) -> list[Picture]:
    images, networks = selection_images(dataset), len(row.scratch)
    before, after = row.plan.search.attack.text, row.plan.retrain.validation.attack.text

    def one(suffix: str, title: str, caption: str, draw, *args) -> Picture:
        return picture(f"{row.name}-{suffix}", dataset.name, title, caption, draw, *args)

    return [
        one(
            "figure-05",
            f"From scratch and fine-tuned, {row.name} (form of Figure 5)",
            f"The {counted(networks, 'retrained subnet')} in the three objectives on n = {dataset.images['test']:,} "
            f"test images, robust error under {dataset.key_attack.text}. Circles: trained from scratch; squares: "
            "fine-tuned from inherited weights; a line joins the same architecture.",
            draw_scratch_and_finetune,
            row,
            dataset.key_attack,
        ),
        one(
            "figure-06-07",
            f"The front before and after training, {row.name} (form of Figures 6 and 7)",
            f"Left: the {counted(len(row.front), 'subnet')} of the front with inherited weights ({before}); right: the "
            f"{networks} of them that were trained from scratch ({after}); {images}. Area grows with the number of "
            "parameters. Label and shade are the network's in both panels, dark for a low robust error before "
            "training; white "
            "networks were not retrained. The axes of the two panels differ.",
            draw_fronts,
            row,
        ),
        *(
            [
                one(
                    "figure-08-09",
                    f"Blocks and ratios per layer, {row.name} (form of Figures 8 and 9)",
                    _layers_caption(row.lego),
                    draw_layers,
                    row.space,
                    row.lego,
                )
            ]
            if row.lego
            else []
        ),
        one(
            "rank",
            f"Inherited and trained rank, {row.name}",
            f"Rank of each retrained subnet by accuracy on {images} (1 is best, ties share a rank) with inherited "
            f"weights and after training from scratch; robust: {before}, then {after}. On the diagonal the supernet "
            "predicts the order.",
            draw_ranks,
            row,
        ),
        one(
            "supernet",
            f"Training of the supernet, {row.name}",
            "Accuracy on training batches (clean, and under the training attack) and loss, per epoch, averaged over "
            "the paths drawn in it. The dashed line marks where the block phase ends and the joint phase begins.",
            draw_supernet,
            row,
        ),
        one(
            "retraining",
            f"Retraining, {row.name}",
            f"Accuracy per epoch on {images}; robust under {after}, from the epoch on that retrain.validation.start "
            "sets. Thin lines: single subnets; thick: their mean.",
            draw_retraining,
            row,
        ),
    ]


def _layers_caption(lego: Lego) -> str:
    return (
        f"The two most frequent blocks (left) and channel ratios (right) of each layer among the "
        f"{counted(len(lego.voters), 'best subnet')} by validation; area: how many use it. Several squares are tied "
        "for second; a second choice of a single subnet is left out. Dashed lines: a stage begins."
    )


def architectures(dataset: Dataset) -> list[tuple]:
    """(name, what, architecture, space) of what the drawing compares."""
    found = [(row.name, f"best subnet, {row.best.id}", row.best, row.space) for row in dataset.rows]
    if len(dataset.rows) == 1:  # the pooled Lego-Net has the row's own architecture
        (row,) = dataset.rows
        found += [(row.name, "Lego-Net", row.lego.network, row.space)] if row.lego else []
    elif dataset.pooled:
        found.append(("pooled", "Lego-Net", dataset.pooled.network, dataset.space))
    return [
        (name, f"{what}, {network.parameters:,} parameters", network.architecture, space)
        for name, what, network, space in found
    ]
