"""What is known of a released network: how it is built, from what it learnt, how well it does. Needs no torch.

A released network is one safetensors file; its card lies in the file's header, and as Markdown beside it.
"""

import json
from io import StringIO
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

from pydantic import Field, model_validator
from ruamel.yaml import YAML
from safetensors import SafetensorError, safe_open

from tamnas.config.fields import Section, validated
from tamnas.config.images import DataParams
from tamnas.config.sections import NetworkParams, Positive, SpaceParams, TrainingPlan
from tamnas.data.sources import SOURCES, Source
from tamnas.errors import InputError
from tamnas.files import require_format, shown
from tamnas.pipeline.code import ROOT
from tamnas.records import NetworkSpec
from tamnas.report.intervals import wilson
from tamnas.report.tables.table import Column, Table, Value, beside, markdown, show
from tamnas.space.space import SearchSpace

_INSTALLED = Path(__file__).parents[1] / "models"
MODELS = _INSTALLED if _INSTALLED.is_dir() else ROOT / "models"  # in a wheel, in a checkout


class Measured(Section):
    """An accuracy on so many test images, a share in [0, 1]; `attack` in words, "none" for clean images."""

    attack: str
    images: Positive
    accuracy: Annotated[float, Field(ge=0, le=1)]

    @property
    def interval(self) -> tuple[float, float]:
        """95%, Wilson's."""
        return wilson(self.accuracy, self.images)

    @property
    def value(self) -> Value:
        return Value(self.accuracy, interval=self.interval)

    @property
    def text(self) -> str:
        """`96.94 [94.6, 98.3]`, in percent."""
        return " ".join([show(self.value, "percent"), *beside(self.value, "percent")])

    def json(self) -> dict:
        return self.plain() | {"interval": self.interval}


class Card(Section):
    """`name` such as `digits/lego`; `spec` is built in the space of `network` and `space`, which a hand-made network
    does not have.

    `levels`: training images are whole numbers from 0 to it, divided by it; networks take floats in [0, 1].
    `test_sha256` (`tamnas.data.prepare.images_digest`): of the images that `figures` were measured on; `setting`: how,
    a line each; `reference`: the attack of one of them, which stands for robustness.
    """

    name: str
    title: Annotated[str, Field(min_length=1)]
    tamnas: str
    spec: dict[str, Any]
    network: NetworkParams | None
    space: SpaceParams | None
    parameters: Positive
    macs: Positive
    dataset: str
    data: dict[str, Any]
    levels: Positive
    classes: tuple[str, ...]
    images: dict[str, Positive]
    test_sha256: str
    training: TrainingPlan
    weights: str
    seed: int
    figures: tuple[Measured, ...]
    reference: str
    setting: tuple[str, ...]

    @model_validator(mode="after")
    def _check(self):
        if self.network_spec.architecture is not None and None in (self.network, self.space):
            raise ValueError("network, space: an architecture needs both")
        if self.reference not in self.by_attack:
            raise ValueError(f"reference: is {self.reference!r}, which is none of the attacks of figures")
        if "test" not in self.images:
            raise ValueError("images: test is missing")
        for name, kind in (("size", int), ("source", str)):
            if not isinstance(self.data.get(name), kind):
                raise ValueError(f"data.{name} is {self.data.get(name)!r}; allowed: {kind.__name__}")
        return self

    @property
    def by_attack(self) -> dict[str, Measured]:
        return {figure.attack: figure for figure in self.figures}

    @property
    def network_spec(self) -> NetworkSpec:
        return NetworkSpec.from_plain(self.spec)

    @property
    def search_space(self) -> SearchSpace:
        return SearchSpace.from_params(self, num_classes=len(self.classes))

    @property
    def size(self) -> int:
        """Pixels a side of the images that it takes."""
        return self.data["size"]

    @property
    def data_params(self) -> DataParams:
        """How to prepare the images again. Raises InputError for a source that needs a path, which no card keeps."""
        return validated(DataParams, self.data, f"{self.name}: data")

    @property
    def terms(self) -> str:
        """Under which the images it learnt from may be used."""
        whose = self.data.get("images") or self.data["source"]
        known = SOURCES.get(whose.removesuffix("-subset"))  # not where a plugin of another checkout read them
        return known.terms if known else Source.terms

    def json(self) -> dict:
        """All of it, with intervals and terms."""
        figures = [figure.json() for figure in self.figures]
        return self.plain() | {"figures": figures, "licence": "MIT", "terms": self.terms}


def released() -> dict[str, Path]:
    """The file of each network in models/, by name."""
    return {path.relative_to(MODELS).with_suffix("").as_posix(): path for path in sorted(MODELS.rglob("*.safetensors"))}


def is_released(word: str) -> bool:
    """Whether `word` names a released network, or its file."""
    return word.endswith(".safetensors") or word in released()


def locate(name: str) -> Path:
    """The file of a released network: by its name, or a path that ends in `.safetensors`. Raises InputError."""
    if name.endswith(".safetensors"):
        return Path(name)
    known = released()
    if name not in known:
        raise InputError(f"{shown(name)}: is no released network; there are: {', '.join(known) or 'none'}")
    return known[name]


def read_card(path: Path) -> Card:
    """The card of a released network's file; weights stay unread. Raises InputError."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["tamnas"])
            version, meta = header["format"], json.loads(header["meta"])
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.__class__.__name__})") from None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{shown(path)}: is damaged or not a tamnas file") from None
    require_format(path, version, "use the version that wrote it")
    return card_of(path, meta)


def card_of(path: Path, meta: dict) -> Card:
    """From the header of a file that tamnas wrote. Raises InputError if that was no release."""
    if not isinstance(meta, dict) or "card" not in meta:
        raise InputError(f"{shown(path)}: holds no released network; `tamnas release` makes one of a finished run")
    return validated(Card, meta["card"], shown(path))


def figures_table(card: Card, title: str) -> Table:
    """Each attack with the accuracy that it leaves."""
    lines = [
        {
            Column("attack", "Attack"): figure.attack,
            Column("images", "Test images", "count"): figure.images,
            Column("accuracy", "Accuracy (%)", "percent"): figure.value,
        }
        for figure in card.figures
    ]
    return Table.of("figures", title, lines, card.setting)


def card_page(card: Card) -> str:
    """The card in Markdown."""
    lines = [
        f"# {card.name}\n",
        f"{card.title[0].upper()}{card.title[1:]}.\n",
        f'    model = tamnas.load("{card.name}")    # (N, 3, {card.size}, {card.size}) float32 in [0, 1] -> '
        f"(N, {len(card.classes)}) logits\n",
        "## Network\n",
        *_architecture(card),
        f"- {card.parameters:,} parameters, {card.macs:,} multiply-accumulates for an image",
        f"- Classes: {', '.join(card.classes)}",
        "- Licence: MIT, as the code",
        "\n## Images\n",
        f"- {card.dataset}, {card.size} x {card.size}, values 0 to {card.levels} divided by {card.levels}: "
        + ", ".join(f"{count:,} {split}" for split, count in card.images.items()),
        f"- Terms: {card.terms}",
        "\n" + markdown(figures_table(card, "Test accuracy")).replace("# ", "## ", 1),
        f"In brackets: 95% Wilson intervals over test images. Of one training, with seed {card.seed}.\n",
        "## Training\n",
        indented_yaml(card.training.plain()),
        f"Written by `tamnas release`, tamnas {card.tamnas}.\n",
    ]
    return "\n".join(lines)


def _architecture(card: Card) -> list[str]:
    arch = card.network_spec.architecture
    if arch is None:
        return []
    return [f"- Architecture (block@ratio per layer): `{arch}`", f"- Activation: {card.network.activation}"]


def indented_yaml(plain: dict) -> str:
    text = StringIO()
    YAML(pure=True).dump(plain, text)
    return indent(text.getvalue(), "    ")
