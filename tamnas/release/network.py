"""A released network and the images that it was measured on."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from tamnas.data.loader import Split, load_split
from tamnas.data.prepare import images_digest, prepare
from tamnas.data.sources import SOURCES
from tamnas.errors import InputError
from tamnas.networks.trained import build
from tamnas.pipeline import checkpoint
from tamnas.pipeline.device import MEMORY_FORMAT
from tamnas.pipeline.paths import prepared
from tamnas.release.card import Card, card_of, locate


def load(name: str, device: torch.device | str = "cpu") -> nn.Module:
    """A released network, in eval mode: (N, 3, S, S) float32 in [0, 1] -> (N, classes) logits.

    `name`: such as `digits/lego` (`tamnas models` lists them), or the path of a file that ends in `.safetensors`.
    Raises InputError for another name, and for a file that is damaged or holds no released network.
    """
    return read(locate(name))[0].to(device)


def read(path: Path) -> tuple[nn.Module, Card]:
    """The network in a released file, in eval mode, and its card. Raises InputError."""
    tensors, meta = checkpoint.load(path)
    card = card_of(path, meta)
    model = build(card.network_spec, card.search_space)
    checkpoint.fill(model, tensors, path)
    return model.to(memory_format=MEMORY_FORMAT).eval(), card


def write(path: Path, tensors: dict[str, Tensor], card: Card) -> None:
    """The file of a released network: `tensors` by name as in its module."""
    checkpoint.write_weights(path, tensors, {"card": card.plain()})


def images(card: Card, *splits: str) -> list[Split]:
    """`splits` (train, validation, test) of the images that a card speaks of.

    They are in data/, where a checkout has prepared them, or prepared anew from a source that needs no path. Raises
    InputError if neither is so, or if the test images are others than the card's; their order does not matter.
    """
    path = prepared(card.dataset)
    if path.is_file():
        return _checked(path, card, splits)
    source = SOURCES.get(card.data["source"])  # none: of a plugin
    if source is None or source.needs_path or source.downloads:
        raise InputError(
            f"{path}: is missing: {card.name} is checked on {card.dataset}, which "
            "`dvc repro prepare` makes where params.yaml has it"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / path.name
        prepare(card.dataset, card.data_params, path)
        return _checked(path, card, splits)


def _checked(path: Path, card: Card, splits: tuple[str, ...]) -> list[Split]:
    test = load_split(path, "test")
    if images_digest(test.images.permute(0, 2, 3, 1).numpy(), test.labels.numpy()) != card.test_sha256:
        raise InputError(f"{path}: holds other test images than those that {card.name} was measured on")
    return [test if split == "test" else load_split(path, split) for split in splits]
