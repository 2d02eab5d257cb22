import re
import tempfile
import textwrap
from pathlib import Path

import click

from tamnas.cli.output import json_option, print_json, print_table
from tamnas.pipeline.command import one_line_errors

SHARE = 10  # one image in so many goes into a split that the folder does not have


@click.command("import-images")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--size", type=int, default=32, show_default=True, help="Pixels a side at which images are used.")
@click.option("--validation", type=int, help="Images to select networks on; a tenth, or the folder's own val/.")
@click.option("--test", type=int, help="Images to evaluate on; a tenth, or the folder's own test/.")
@json_option
@one_line_errors
def import_images(folder: Path, size: int, validation: int | None, test: int | None, as_json: bool) -> None:
    """Check the images in FOLDER before a run: what would be used, what left out or changed, what refused.

    FOLDER holds one folder per class, or train/ and val/, test/ or both with those inside. Every image is read, as a
    run would read it, and nothing is written. Prints the section of params.yaml that uses them.
    """
    from tamnas.config.compute import load_compute
    from tamnas.config.fields import validated
    from tamnas.config.images import DataParams
    from tamnas.data.folders import read_folder
    from tamnas.data.prepare import prepare

    splits, classes, _ = read_folder(folder, str(folder))
    tenth = max(len(splits["train"][0]) // SHARE, len(classes))
    drawn = {"validation": validation, "test": test}
    drawn |= {split: tenth for split, count in drawn.items() if count is None and split not in splits}
    name = re.sub(r"[^A-Za-z0-9_-]", "-", folder.resolve().name).strip("-_") or "images"
    section = {"source": "imagefolder", "path": str(folder), "size": size, "classes": len(classes)}
    section |= {split: count for split, count in drawn.items() if count is not None}
    data = validated(DataParams, section, str(folder))
    with tempfile.TemporaryDirectory() as temporary:
        card = prepare(name, data, Path(temporary) / "images.npz", load_compute())
    if as_json:
        return print_json({"card": card, "params": {name: section}})
    _show(card, {"data": {name: section}})


def _show(card: dict, params: dict) -> None:
    from tamnas.release.card import indented_yaml
    from tamnas.report.tables.table import Column, Table

    lines = [
        {
            Column("split", "Split"): split,
            Column("images", "Images", "count"): part["images"],
            Column("per_class", "of each class"): f"{min(part['per_class']):,} to {max(part['per_class']):,}",
        }
        for split, part in card["splits"].items()
    ]
    classes = textwrap.shorten(", ".join(card["classes"]), 60, placeholder=" ...")
    title = f"{card['dataset']}: {len(card['classes'])} classes, {classes}"
    print_table(Table.of("images", title, lines, card["notes"]))
    click.echo(f"\nAll of it can be used. In params.yaml:\n\n{indented_yaml(params)}")
