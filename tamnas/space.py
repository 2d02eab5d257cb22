"""The search space as plain values: architectures, the block table, legality, parameter counts.

Nothing here needs torch. The block table is Table VII of the paper, the default geometry
Table I; where they contradict themselves, docs/reading.md says what was chosen.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tamnas.errors import InputError


@dataclass(frozen=True)
class BlockKind:
    """One row of the block table: what a block id stands for."""

    id: int
    branch: str | None  # "shuffle", "xception" or None (a bare non-local block)
    kernel: int | None
    attention: str | None  # None, "embedded" (embedded Gaussian) or "gaussian"
    attention_norm: bool = False

    @property
    def family(self) -> str:
        """The paper's family: pure tiny, tiny robust or pure robust."""
        if self.branch is None:
            return "pure robust"
        return "pure tiny" if self.attention is None else "tiny robust"

    @property
    def name(self) -> str:
        parts = {"shuffle": ["S"], "xception": ["SX"], None: []}[self.branch]
        parts += [{"embedded": "NE", "gaussian": "NG"}[self.attention]] if self.attention else []
        parts += ["BN"] if self.attention_norm else []
        return "+".join(parts) + (f" {self.kernel}x{self.kernel}" if self.kernel else "")


BLOCKS: tuple[BlockKind, ...] = (
    *(
        BlockKind(3 * group + i, branch, kernel, attention)
        for group, (branch, attention) in enumerate(
            (branch, attention) for attention in (None, "embedded", "gaussian") for branch in ("shuffle", "xception")
        )
        for i, kernel in enumerate((3, 5, 7))
    ),
    BlockKind(18, None, None, "embedded", True),
    BlockKind(19, None, None, "embedded", False),
    BlockKind(20, None, None, "gaussian", True),
    BlockKind(21, None, None, "gaussian", False),
)

RATIOS: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


@dataclass(frozen=True)
class Architecture:
    """One network of the space: a block id and a channel ratio per choice-block layer."""

    blocks: tuple[int, ...]
    ratios: tuple[float, ...]

    def __post_init__(self):
        object.__setattr__(self, "blocks", tuple(_block_id(block) for block in self.blocks))
        object.__setattr__(self, "ratios", tuple(_ratio(ratio) for ratio in self.ratios))
        if len(self.blocks) != len(self.ratios) or not self.blocks:
            raise InputError(
                f"architecture: {len(self.blocks)} blocks and {len(self.ratios)} ratios; each layer needs one of both"
            )

    def __str__(self) -> str:
        """Compact and unique, `15@1.8 0@0.2 ...`; `Architecture.parse` reads it back."""
        return " ".join(
            f"{block}@{ratio!r}".removesuffix(".0") for block, ratio in zip(self.blocks, self.ratios, strict=True)
        )

    @classmethod
    def parse(cls, text: str) -> "Architecture":
        """The inverse of `str`. Raises InputError."""
        try:
            pairs = [part.split("@") for part in text.split()]
            genes = [(int(block), float(ratio)) for block, ratio in pairs]
        except (ValueError, AttributeError):
            raise InputError(f"architecture: cannot read {text!r:.80}; expected e.g. '15@1.8 0@0.2'") from None
        return cls(tuple(block for block, _ in genes), tuple(ratio for _, ratio in genes))

    def plain(self) -> dict:
        return {"blocks": list(self.blocks), "ratios": list(self.ratios)}

    def to_json(self) -> str:
        return json.dumps(self.plain())

    @classmethod
    def from_plain(cls, plain) -> "Architecture":
        """From `{"blocks": [...], "ratios": [...]}`. Raises InputError."""
        if not isinstance(plain, dict) or set(plain) != {"blocks", "ratios"}:
            raise InputError("architecture: expected an object with exactly 'blocks' and 'ratios'")
        if not all(isinstance(plain[key], (list, tuple)) for key in plain):
            raise InputError("architecture: 'blocks' and 'ratios' must be lists")
        return cls(tuple(plain["blocks"]), tuple(plain["ratios"]))

    @classmethod
    def from_json(cls, text: str) -> "Architecture":
        """The inverse of `to_json`. Raises InputError for anything else."""
        try:
            plain = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            raise InputError(f"architecture: not valid JSON: {text!r:.80}") from None
        return cls.from_plain(plain)


def _block_id(value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < len(BLOCKS):
        raise InputError(f"architecture: block {value!r:.40}; allowed are 0 to {len(BLOCKS) - 1}")
    return int(value)


def _ratio(value) -> float:
    # The upper bound keeps a hostile file from asking for terabytes of weights.
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 < value <= 8:
        raise InputError(f"architecture: ratio {value!r:.40}; allowed are numbers above 0 and up to 8")
    return float(value)


@dataclass(frozen=True)
class Layer:
    """Channels and stride of one choice-block position."""

    cin: int
    cout: int
    stride: int

    @property
    def transition(self) -> bool:
        """Changes resolution or width: the block works on all channels beside a projection."""
        return self.stride != 1 or self.cin != self.cout

    @property
    def branch_in(self) -> int:
        return self.cin if self.transition else self.cin // 2

    @property
    def branch_out(self) -> int:
        return self.cout - self.branch_in

    def middle(self, ratio: float) -> int:
        """Channels behind the channel selector (Figure 4)."""
        return max(1, round(self.cout / 2 * ratio))

    def allows(self, block: int) -> bool:
        """A bare non-local block changes neither resolution nor width."""
        return not (self.transition and BLOCKS[block].branch is None)


@dataclass(frozen=True)
class SearchSpace:
    """Geometry, allowed blocks and ratios, and everything that follows from them.

    `channels`, `repeats` and `strides` have one entry per stage; the first layer of a stage
    has its stride, the others 1. `width` multiplies `channels` alone: stem and head stay.
    """

    num_classes: int = 10
    width: float = 1
    stem_channels: int = 24
    channels: tuple[int, ...] = (48, 96, 192)
    repeats: tuple[int, ...] = (4, 8, 4)
    strides: tuple[int, ...] = (2, 2, 2)
    head: tuple[int, int, int] = (176, 920, 1024)
    activation: str = "relu"
    blocks: tuple[int, ...] = tuple(range(len(BLOCKS)))
    ratios: tuple[float, ...] = RATIOS
    layers: tuple[Layer, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "ratios", tuple(sorted(float(ratio) for ratio in self.ratios)))
        object.__setattr__(self, "blocks", tuple(sorted(self.blocks)))
        layers, cin = [], self.stem_channels
        for channels, repeat, stride in zip(self.channels, self.repeats, self.strides, strict=True):
            cout = round(channels * self.width)
            layers.append(Layer(cin, cout, stride))
            layers += [Layer(cout, cout, 1)] * (repeat - 1)
            cin = cout
        object.__setattr__(self, "layers", tuple(layers))
        for index, layer in enumerate(layers):
            if layer.cout % 2 or layer.branch_out < 2:
                raise InputError(
                    f"network.channels: layer {index} goes from {layer.cin} to {layer.cout} channels; "
                    "widths must be even and grow by at least 2 where a stage begins"
                )
            if not any(layer.allows(block) for block in self.blocks):
                raise InputError(
                    f"space.blocks: layer {index} changes resolution or width and allows only blocks 0 to 17"
                )

    @classmethod
    def paper(cls, num_classes: int = 10, width: float = 1) -> "SearchSpace":
        """Table I and Table VII: 16 layers, 22 blocks, 10 ratios."""
        return cls(num_classes=num_classes, width=width)

    @classmethod
    def from_params(cls, params, num_classes: int | None = None) -> "SearchSpace":
        """From anything with `network`, `space` and (for a resolved plan) `data` sections.

        `num_classes` overrides the dataset's; it is needed where `params` names no single dataset.
        """
        network = params.network
        return cls(
            num_classes=params.data.classes if num_classes is None else num_classes,
            width=network.width,
            stem_channels=network.stem_channels,
            channels=network.channels,
            repeats=network.repeats,
            strides=network.strides,
            head=(network.head.conv, network.head.hidden, network.head.out),
            activation=network.activation,
            blocks=params.space.blocks,
            ratios=params.space.ratios,
        )

    @property
    def max_ratio(self) -> float:
        return self.ratios[-1]

    def allowed_blocks(self, layer: int) -> tuple[int, ...]:
        return tuple(block for block in self.blocks if self.layers[layer].allows(block))

    def is_legal(self, arch: Architecture) -> bool:
        """Right depth, ratios and blocks of this space, no bare non-local block at a transition."""
        return (
            len(arch.blocks) == len(self.layers)
            and all(ratio in self.ratios for ratio in arch.ratios)
            and all(block in self.allowed_blocks(i) for i, block in enumerate(arch.blocks))
        )

    def require_legal(self, arch: Architecture) -> Architecture:
        """`arch` itself. Raises InputError naming the first layer that is not legal here."""
        if len(arch.blocks) != len(self.layers):
            raise InputError(f"architecture: {len(arch.blocks)} layers; this space has {len(self.layers)}")
        for i, (block, ratio) in enumerate(zip(arch.blocks, arch.ratios, strict=True)):
            if block not in self.allowed_blocks(i):
                allowed = self.allowed_blocks(i)
                raise InputError(f"architecture: block {block} at layer {i}; allowed there: {list(allowed)}")
            if ratio not in self.ratios:
                raise InputError(f"architecture: ratio {ratio} at layer {i}; allowed: {list(self.ratios)}")
        return arch

    @cached_property
    def table(self) -> np.ndarray:
        """Parameters of each (layer, block, ratio), int64; -1 where the block is not legal."""
        table = np.full((len(self.layers), len(self.blocks), len(self.ratios)), -1, dtype=np.int64)
        for i, layer in enumerate(self.layers):
            for j, block in enumerate(self.blocks):
                if layer.allows(block):
                    table[i, j] = [block_parameters(layer, block, ratio) for ratio in self.ratios]
        return table

    @cached_property
    def stem_parameters(self) -> int:
        return 3 * self.stem_channels * 9 + 2 * self.stem_channels

    @cached_property
    def head_parameters(self) -> int:
        conv, hidden, out = self.head
        return (
            self.layers[-1].cout * conv + 2 * conv
            + conv * hidden + hidden + se_parameters(hidden)
            + hidden * out + out
            + out * self.num_classes + self.num_classes
        )  # fmt: skip

    @property
    def fixed_parameters(self) -> int:
        return self.stem_parameters + self.head_parameters

    def parameters(self, arch: Architecture) -> int:
        """Trainable parameters of the standalone subnet. Raises InputError if not legal."""
        self.require_legal(arch)
        genes = zip(arch.blocks, arch.ratios, strict=True)
        return self.fixed_parameters + int(
            sum(
                self.table[i, self.blocks.index(block), self.ratios.index(ratio)]
                for i, (block, ratio) in enumerate(genes)
            )
        )

    def parameter_range(self, ratios: Sequence[float] | None = None) -> tuple[int, int]:
        """Exact (smallest, largest) parameter count, optionally with `ratios` alone."""
        columns = [self.ratios.index(ratio) for ratio in (ratios or self.ratios)]
        table = self.table[:, :, columns].reshape(len(self.layers), -1)
        smallest = np.where(table < 0, np.iinfo(np.int64).max, table).min(axis=1).sum()
        return self.fixed_parameters + int(smallest), self.fixed_parameters + int(table.max(axis=1).sum())

    def sample(
        self,
        generator: np.random.Generator,
        budget: tuple[int | None, int | None] | None = None,
        ratios: Sequence[float] | None = None,
    ) -> Architecture:
        """One architecture, uniform over those within `budget` (inclusive; None: no bound).

        Raises InputError if the budget misses the space's exact range, naming both.
        """
        from tamnas.sampling import sample_genes  # sampling builds on this module

        return self.decode(sample_genes(self, generator, 1, budget, ratios)[0])

    def decode(self, genes: np.ndarray) -> Architecture:
        """From indices into `blocks` (first half) and `ratios` (second half)."""
        blocks, ratios = np.split(np.asarray(genes, dtype=int), 2)
        return Architecture(tuple(self.blocks[i] for i in blocks), tuple(self.ratios[i] for i in ratios))

    def encode(self, arch: Architecture) -> np.ndarray:
        """The inverse of `decode`; int64 of length 2 x layers. Raises InputError if not legal."""
        self.require_legal(arch)
        return np.array(
            [self.blocks.index(block) for block in arch.blocks] + [self.ratios.index(ratio) for ratio in arch.ratios]
        )


def se_parameters(c: int) -> int:
    """Squeeze-and-excitation on c channels, reduction 4, with biases."""
    h = c // 4
    return 2 * c * h + h + c


def non_local_parameters(c: int, inner: int, attention: str, norm: bool = False) -> int:
    """Non-local block: embedded Gaussian has theta, phi and g, Gaussian g alone."""
    projections = 3 if attention == "embedded" else 1
    return projections * (c * inner + inner) + inner * c + c + (2 * c if norm else 0)


def block_parameters(layer: Layer, block: int, ratio: float) -> int:
    """Trainable parameters of one choice block at one layer (design section 5)."""
    kind, m = BLOCKS[block], layer.middle(ratio)
    if kind.branch is None:
        return non_local_parameters(layer.cout, m, kind.attention, kind.attention_norm) + se_parameters(layer.cout)
    p, o, k2 = layer.branch_in, layer.branch_out, kind.kernel**2
    if kind.branch == "shuffle":
        count = p * m + 2 * m + m * k2 + 2 * m + m * o + 2 * o
    else:
        count = p * k2 + 2 * p + p * m + 2 * m + 2 * (m * k2 + 2 * m) + m * m + 2 * m + m * o + 2 * o
    if kind.attention:
        count += non_local_parameters(o, o // 2, kind.attention)
    if layer.transition:
        count += layer.cin * k2 + 2 * layer.cin + layer.cin**2 + 2 * layer.cin
    return count + se_parameters(o)
