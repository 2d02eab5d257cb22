from pathlib import Path
from typing import TYPE_CHECKING

import click

from tamnas.cli.output import bars_up_to, interval_bars, json_option, print_cards, print_json, print_table
from tamnas.pipeline.command import one_line_errors

if TYPE_CHECKING:
    from tamnas.release.card import Card
    from tamnas.report.study import Dataset, RowResults


@click.command()
@click.argument("what", default=".")
@json_option
@one_line_errors
def show(what: str, as_json: bool) -> None:
    """Show WHAT: the run here, or in a FOLDER; the front of a ROW; or a NETWORK.

    A network is a released one (digits/lego), its file, or one of the run here (digits-base/n07,
    digits-base/n07-finetuned); `tamnas show` has the final ones of the run, which may be called as released ones are.
    A run is read from plan/ and results/; no weights are needed.
    """
    from tamnas.release.references import cards, is_run, run_of

    if "/" not in what and not Path(what).exists():
        for dataset in run_of(Path()) if is_run(Path()) else ():
            for row in dataset.rows:
                if row.name == what:
                    return _front(row, dataset, as_json)
    by_name = cards(what)
    if as_json:
        print_json([card.json() for card in by_name.values()])
    elif Path(what).is_dir():
        print_cards("Final networks of the run", list(by_name.values()))
    else:
        _network(*by_name.values())


def _front(row: "RowResults", dataset: "Dataset", as_json: bool) -> None:
    """Validation accuracies of the subnets with inherited weights."""
    from tamnas.report.accuracy import share_value
    from tamnas.report.tables.table import Column, Table, Value
    from tamnas.report.terms import selection_images

    n, attack = dataset.images["validation"], row.plan.search.attack.text
    subnets = sorted(row.front, key=lambda subnet: subnet.parameters)
    if as_json:
        return print_json(
            [{"id": subnet.id, "architecture": str(subnet.architecture)} | dict(subnet.measured) for subnet in subnets]
        )

    def cell(share: float) -> Value:
        return share_value(share, n)

    lines = [
        {
            Column("id", "Subnet"): subnet.id,
            Column("parameters", "Parameters", "count", "min"): subnet.parameters,
            Column("clean", "Clean (%)", "percent", "max"): cell(subnet.clean),
            Column("robust", f"{attack} (%)", "percent", "max"): cell(subnet.robust),
        }
        for subnet in subnets
    ]
    notes = [
        f"Inherited weights, {selection_images(dataset)}, 95% intervals. `tamnas show {row.name}/ID`: a retrained one."
    ]
    table = Table.of("front", f"The front of {row.name}", lines, notes)
    print_table(table, interval_bars([cell(subnet.robust) for subnet in subnets]))


def _network(card: "Card") -> None:
    from tamnas.release.card import figures_table
    from tamnas.report.tables.table import Column, Table
    from tamnas.space.blocks import BLOCKS

    if arch := card.network_spec.architecture:
        space = card.search_space
        lines = [
            {
                Column("layer", "Layer"): index,
                Column("block", "Block"): BLOCKS[block].name,
                Column("family", "Family"): BLOCKS[block].family,
                Column("channels", "Channels"): f"{layer.cin} > {layer.middle(ratio)} > {layer.cout}",
                Column("parameters", "Parameters", "count"): BLOCKS[block].parameters(layer, ratio),
                Column("ratio", "Ratio", "number"): ratio,
            }
            for index, (block, ratio, layer) in enumerate(zip(arch.blocks, arch.ratios, space.layers, strict=True))
        ]
        table = Table.of("architecture", f"{card.name}: {card.title}", lines)
        print_table(table, bars_up_to(space.max_ratio, arch.ratios))
    costs = (
        f"{card.parameters:,} parameters, {card.macs:,} multiply-accumulates for an image of {card.size} x {card.size}"
    )
    figures = figures_table(card, f"Test accuracy of {card.name} ({costs})")
    print_table(figures, interval_bars([figure.value for figure in card.figures]))
