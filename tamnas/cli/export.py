import tempfile
from pathlib import Path

import click

from tamnas.cli.output import json_option, print_json, print_table
from tamnas.errors import InputError
from tamnas.pipeline.command import one_line_errors

CALIBRATION = 256  # training images


@click.command()
@click.argument("network", metavar="NETWORK")
@click.option("--format", "format_", type=click.Choice(["onnx", "pt2", "executorch"]), required=True)
@click.option("--int8", is_flag=True, help="8-bit weights and activations, calibrated on training images (onnx).")
@click.option("--to", "folder", type=click.Path(file_okay=False, path_type=Path), default="exported", show_default=True)
@click.option(
    "--images", type=click.IntRange(1), default=100, show_default=True, help="Test images that Square attacks."
)
@json_option
@one_line_errors
def export(network: str, format_: str, int8: bool, folder: Path, images: int, as_json: bool) -> None:
    """Write NETWORK, a released one or its file, for another runtime, and check what was written.

    The check compares with PyTorch on test images: logits, accuracy, accuracy on adversarial images of the original
    (PGD-10 at 8/255), and attacks the exported network itself, without gradients (Square at 8/255). A page beside the
    file says what came out. float32 files whose logits differ by more than 1e-4 are not kept; exit code 1.
    """
    if int8 and format_ != "onnx":
        raise InputError(f"--int8: goes with --format onnx; here it is {format_}")
    from tamnas.release.card import locate, read_card

    read_card(locate(network))  # a wrong name answers before torch

    import torch

    from tamnas.evaluation.attacked import balanced
    from tamnas.export import formats
    from tamnas.export.check import check, checked_table, exported_page
    from tamnas.files import write_bytes, write_text
    from tamnas.release.network import images as images_of
    from tamnas.release.network import read

    formats.require(format_)
    torch.set_num_threads(1)  # whose time is told; with more, threads would wait for each other thousands of times
    model, card = read(locate(network))
    test, train = images_of(card, "test", "train")
    with tempfile.TemporaryDirectory() as unchecked:
        path = Path(unchecked, f"{card.name.replace('/', '-')}{'.int8' if int8 else ''}{formats.SUFFIXES[format_]}")
        if int8:
            chosen = balanced(train.labels, min(CALIBRATION, len(train)))
            formats.write_int8(model, card.size, path, train.scaled(train.images[chosen]))
        else:
            formats.write(model, format_, card.size, path)
        checked = check(model, formats.read(path), path, test, images, exact=not int8)
        blob = path.read_bytes()
    path = folder / path.name
    write_bytes(path, blob)
    how = f"int8, calibrated on {len(chosen)} training images" if int8 else "float32"
    write_text(path.with_name(f"{path.name}.md"), exported_page(card, path, checked, f"{format_}, {how}"))
    if as_json:
        return print_json({"file": str(path), "network": card.name, "format": format_, "int8": int8} | checked.json())
    print_table(checked_table(path, checked))
