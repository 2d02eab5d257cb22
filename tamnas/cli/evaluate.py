import logging
from pathlib import Path

import click

from tamnas.cli.output import json_option, print_json
from tamnas.errors import InputError
from tamnas.pipeline.command import one_line_errors

log = logging.getLogger(__name__)


@click.command()
@click.argument("model")
@click.option("--data", required=True, metavar="NPZ|FOLDER|DATASET", help="Test images, as said above.")
@click.option(
    "--attacks",
    default="autoattack:8/255",
    show_default=True,
    metavar="KIND:EPS,...",
    help="Kinds of eval.attacks, each with its radius and what else it needs: pgd:8/255:steps=20.",
)
@click.option("--images", type=click.IntRange(1), help="Number of test images, balanced over classes.  [default: all]")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=250,
    show_default=True,
    help="Images at once; it changes last digits.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the CPU; it changes last digits."
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--checkpoints",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where finished batches are kept.  [default: .checkpoints]",
)
@json_option
@one_line_errors
def evaluate(
    model: str,
    data: str,
    attacks: str,
    images: int | None,
    batch_size: int,
    device: str,
    threads: int,
    seed: int,
    checkpoints: Path | None,
    as_json: bool,
) -> None:
    """Attack any MODEL that maps images in [0, 1] to logits.

    MODEL is a released network (`tamnas models`), or package.module:function, which is called without arguments and
    returns a torch module, or a TorchScript file (.pt), a torch.export file (.pt2) or ONNX (.onnx, which has no
    gradients, so that Square alone runs). Whatever it holds runs: use only what you trust.

    DATA is an npz with x_test (N, H, W, C) and y_test, a folder with a folder for each class (or test/ with those), a
    dataset that is prepared here, cifar10 or svhn.

    A run that was killed goes on where it was.
    """
    from tamnas.attacks.registry import parse_attack
    from tamnas.config.compute import ComputeParams
    from tamnas.config.fields import validated
    from tamnas.config.sections import NumericsParams
    from tamnas.pipeline.instructions import instruction_set, use_instructions
    from tamnas.pipeline.store import checkpoints_root

    chosen = [parse_attack(text.strip(), batch_size, images) for text in attacks.split(",")]
    compute = validated(ComputeParams, {"device": device}, "--device")
    raw = {"instruction_set": instruction_set(), "precision": "float32", "threads": threads, "deterministic": False}
    numerics = validated(NumericsParams, raw, "params.yaml: numerics")
    use_instructions(numerics.instruction_set)

    from tamnas.data.evaluated import read_images
    from tamnas.evaluation.any_model import evaluate as evaluated
    from tamnas.evaluation.models import read_model
    from tamnas.pipeline import device as devices
    from tamnas.release.card import is_released, locate
    from tamnas.release.network import read

    runtime = devices.start(numerics, compute)
    network, card = read(locate(model)) if is_released(model) else (read_model(model, runtime.device), None)
    network = network.to(runtime.device) if card else network
    x, y, notes = read_images(data, card.classes if card else ())
    for line in notes:
        log.info("%s", line)
    if card:
        found, taken = ("x".join(map(str, sides)) for sides in (x.shape[2:], (card.size, card.size)))
        if found != taken:
            raise InputError(f"--data {data}: images are of {found} pixels; {model} takes {taken}")
        x = x.repeat(3, axis=1) if x.shape[1] == 1 else x  # grey ones, as `prepare` has them
    result = evaluated(
        network, x, y, chosen, batch_size=batch_size, seed=seed, checkpoints=checkpoints or checkpoints_root()
    )
    if as_json:
        return print_json({"model": model, "data": data, **result.plain()})
    click.echo(result.text)
