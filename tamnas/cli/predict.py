from pathlib import Path

import click

from tamnas.cli.output import json_option, print_json, print_table
from tamnas.pipeline.command import one_line_errors


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--model", "network", metavar="NETWORK", required=True, help="A released network, or its file.")
@click.option("--robustness", is_flag=True, help="Also tell at which radius an attack changes the answer.")
@json_option
@one_line_errors
def predict(images: tuple[str, ...], network: str, robustness: bool, as_json: bool) -> None:
    """Classify each IMAGE: its class, the probability that the network gives it, and how stable that is.

    Images of any size are turned upright, put on white where they are transparent, cropped to the centre square and
    resized. Digits are light strokes on black.
    """
    from tamnas.data.pictures import read_pictures
    from tamnas.data.prepare import IN_PROCESS
    from tamnas.release.card import locate, read_card

    size = read_card(locate(network)).size
    pixels, notes = read_pictures([Path(image) for image in images], size, network, IN_PROCESS)  # bad ones before torch

    import torch

    from tamnas.config.fields import format_fraction
    from tamnas.release.network import read
    from tamnas.release.predict import LARGEST, STEPS, classify, smallest_radius
    from tamnas.report.tables.table import Column, Table

    model, card = read(locate(network))
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255  # (N, H, W, 3) -> (N, 3, H, W)
    labels, probabilities = classify(model, x)
    answers = []
    for image, inputs, label, probability in zip(images, x, labels, probabilities, strict=True):
        answers.append({"image": image, "class": card.classes[label], "probability": float(probability)})
        if robustness:
            radius = smallest_radius(model, inputs, label)
            answers[-1]["changes_at"] = format_fraction(radius) if radius else None
    if as_json:
        return print_json({"model": card.name, "notes": notes, "predictions": answers})
    columns = {
        "image": Column("image", "Image"),
        "class": Column("class", "Class"),
        "probability": Column("probability", "Probability (%)", "percent"),
        "changes_at": Column("changes_at", f"PGD-{STEPS} changes it at"),
    }
    shown = [
        {columns[key]: f"above {LARGEST}/255" if value is None else value for key, value in answer.items()}
        for answer in answers
    ]
    print_table(Table.of("predictions", f"{card.name}: {card.title}", shown, notes))
