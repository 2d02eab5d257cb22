import click

from tamnas.cli.output import json_option, print_cards, print_json
from tamnas.pipeline.command import one_line_errors


@click.command()
@json_option
@one_line_errors
def models(as_json: bool) -> None:
    """List the released networks: what each is, and its accuracies on test images.

    `tamnas show NAME` says more of one; `tamnas.load("NAME")` is the network in Python.
    """
    from tamnas.release.card import read_card, released

    cards = [read_card(path) for path in released().values()]
    print_json([card.json() for card in cards]) if as_json else print_cards("Released networks", cards)
