"""The search space as plain values: architectures, the block table, legality, parameter counts.

Nothing here needs torch. The block table is Table VII of the paper, the default geometry
Table I; where they contradict themselves, docs/reading.md says what was chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tamnas.errors import InputError
from tamnas.space.architecture import Architecture
from tamnas.space.blocks import BLOCKS, PAPER_BLOCKS, RATIOS, BlockKind
from tamnas.space.layers import Layer, se_macs, se_parameters
from tamnas.space.sums import Sums
from tamnas.space.tilting import Cells, Rare

Budget = tuple[int | None, int | None] | None  # least and most parameters; None: no bound
TRIES = 100  # draws of as many rows as are asked for
_BATCH, _UNIFORM_BATCHES, _BATCHES = 4096, 10, 200  # of draws


def bounds(budget: Budget) -> tuple[float, float]:
    low, high = budget or (None, None)
    return (0 if low is None else low), (float("inf") if high is None else high)


@dataclass(frozen=True)
class SearchSpace:
    """Geometry, allowed blocks and ratios, and everything that follows from them.

    `channels`, `repeats` and `strides` have one entry per stage; the first layer of a stage
    has its stride, the others 1. `width` multiplies `channels` alone: stem and head stay. `head` None: pooling and the
    classifier alone, in which the search decides about nearly all parameters. `size` is the side of images in pixels,
    which multiply-accumulates depend on; `max_macs`: the most of them that what is drawn or bred
    may have, in the search's space. `latencies`: milliseconds of each part on one machine, where they were measured
    (`tamnas.search.latency`). Ratios lie in (0, 8]. Raises InputError for widths that no block fits.
    """

    num_classes: int = 10
    width: float = 1
    stem_channels: int = 24
    channels: tuple[int, ...] = (48, 96, 192)
    repeats: tuple[int, ...] = (4, 8, 4)
    strides: tuple[int, ...] = (2, 2, 2)
    head: tuple[int, int, int] | None = (176, 920, 1024)
    activation: str = "relu"
    blocks: tuple[int, ...] = PAPER_BLOCKS
    ratios: tuple[float, ...] = RATIOS
    size: int = 32
    max_macs: int | None = None
    latencies: Sums | None = field(default=None, repr=False, compare=False)
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
            if not any(BLOCKS[block].allowed(layer) for block in self.blocks):
                raise InputError(
                    f"space.blocks: layer {index} changes resolution or width, which none of {list(self.blocks)} may"
                )

    @classmethod
    def paper(cls, num_classes: int = 10, width: float = 1) -> "SearchSpace":
        """Table I and Table VII: 16 layers, 22 blocks, 10 ratios."""
        return cls(num_classes=num_classes, width=width)

    @classmethod
    def from_params(cls, params, num_classes: int | None = None) -> "SearchSpace":
        """From a plan's `network` and `space` sections, `size` and `classes`, or `num_classes` where it has none.

        Of hand-made networks, whose sections are null: the default space, of which they take `num_classes` alone.
        """
        classes = params.classes if num_classes is None else num_classes
        if params.space is None:
            return cls(num_classes=classes)
        network, head = params.network, params.network.head
        return cls(
            num_classes=classes,
            width=network.width,
            stem_channels=network.stem_channels,
            channels=network.channels,
            repeats=network.repeats,
            strides=network.strides,
            head=head and (head.conv, head.hidden, head.out),
            activation=network.activation,
            blocks=params.space.blocks,
            ratios=params.space.ratios,
            size=params.size,
        )

    @property
    def max_ratio(self) -> float:
        return self.ratios[-1]

    def allowed_blocks(self, layer: int) -> tuple[int, ...]:
        return tuple(block for block in self.blocks if BLOCKS[block].allowed(self.layers[layer]))

    def is_legal(self, arch: Architecture) -> bool:
        """Right depth, ratios and blocks of this space, no bare non-local block at a transition."""
        try:
            self.require_legal(arch)
        except InputError:
            return False
        return True

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
        return self.tabled(lambda kind, layer, ratio, size: kind.parameters(layer, ratio))

    def tabled(self, figure: Callable[[BlockKind, Layer, float, int], int]) -> np.ndarray:
        """`figure` of each (layer, block, ratio), given the side of the map in front of it; -1 where not legal."""
        table = np.full((len(self.layers), len(self.blocks), len(self.ratios)), -1, np.int64)
        for i, (layer, size) in enumerate(zip(self.layers, self.sizes[:-1], strict=True)):
            for j, block in enumerate(self.blocks):
                if BLOCKS[block].allowed(layer):
                    table[i, j] = [figure(BLOCKS[block], layer, ratio, size) for ratio in self.ratios]
        return table

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Side of the map in front of each layer, and last of the one in front of the head."""
        sizes = [self.size]
        for layer in self.layers:
            sizes.append(layer.out_size(sizes[-1]))
        return tuple(sizes)

    @cached_property
    def parameter_sums(self) -> Sums:
        return Sums(self.fixed_parameters, self.table)

    @cached_property
    def mac_sums(self) -> Sums:
        """Multiply-accumulates of one image. Raises InputError if a block says none."""
        for block in self.blocks:
            if BLOCKS[block].macs is None:
                raise InputError(
                    f"search.objectives: macs, search.max_macs: choice block {block}, {BLOCKS[block].name!r}, "
                    "counts no macs"
                )
        stem, last = 27 * self.stem_channels * self.size**2, self.layers[-1].cout
        if self.head is None:
            head = last * self.num_classes
        else:
            conv, hidden, out = self.head
            head = last * conv * self.sizes[-1] ** 2 + conv * hidden + se_macs(hidden)
            head += hidden * out + out * self.num_classes
        return Sums(stem + head, self.tabled(lambda kind, *place: kind.macs(*place)))

    @cached_property
    def head_parameters(self) -> int:
        if self.head is None:
            return (self.layers[-1].cout + 1) * self.num_classes
        conv, hidden, out = self.head
        linear = (conv + 1) * hidden + (hidden + 1) * out + (out + 1) * self.num_classes  # with biases
        return self.layers[-1].cout * conv + 2 * conv + se_parameters(hidden) + linear

    @property
    def fixed_parameters(self) -> int:
        """Of stem and head."""
        return 3 * self.stem_channels * 9 + 2 * self.stem_channels + self.head_parameters

    def parameters(self, arch: Architecture) -> int:
        """Trainable parameters of the standalone subnet. Raises InputError if not legal."""
        return int(self.genes_parameters(self.encode(arch)[None])[0])

    def macs(self, arch: Architecture) -> int:
        """Multiply-accumulates of one image of the subnet. Raises InputError if not legal, or if a block says none."""
        return int(self.mac_sums.of(self.encode(arch)[None])[0])

    def latency(self, arch: Architecture) -> float:
        """Milliseconds of one image, the sum of its parts in `latencies`. Raises InputError if not legal."""
        return float(self.latencies.of(self.encode(arch)[None])[0])

    def ratio_indices(self, ratios: Sequence[float] | None = None) -> list[int]:
        return [self.ratios.index(ratio) for ratio in (ratios or self.ratios)]

    def parameter_range(self, ratios: Sequence[float] | None = None) -> tuple[int, int]:
        """Exact (smallest, largest) parameter count, optionally with `ratios` alone."""
        return self.parameter_sums.range(self.ratio_indices(ratios))

    def sample(
        self, generator: np.random.Generator, budget: Budget = None, ratios: Sequence[float] | None = None
    ) -> Architecture:
        """One architecture, uniform over those within `budget` (inclusive; None: no bound) and `max_macs`.

        Raises InputError if the budget misses the space's exact range, naming both.
        """
        return self.decode(self.sample_genes(generator, 1, budget, ratios)[0])

    def sample_genes(
        self, generator: np.random.Generator, count: int, budget: Budget = None, ratios: Sequence[float] | None = None
    ) -> np.ndarray:
        """`count` rows of genes (block indices, then ratio indices), uniform under `budget` and `max_macs`.

        Rejection sampling, of draws towards the budget where uniform ones hardly ever meet it. Raises InputError when
        the budget misses the exact range of the space, or when these do not meet it either.
        """
        self.require_feasible(budget, ratios)
        size, draw = max(_BATCH if budget or self.max_macs else 0, count), None
        rows: list[np.ndarray] = []
        for batch in range(_BATCHES):
            if batch == _UNIFORM_BATCHES:
                limits = [(self.parameter_sums, *bounds(budget))]
                limits += [(self.mac_sums, 0, self.max_macs)] if self.max_macs else []
                draw = Rare(Cells(self.table, self.ratio_indices(ratios)), limits).draw
            genes = draw(generator, size) if draw else self._uniform_genes(generator, size, ratios)
            rows += list(genes[self.within(genes, budget)][: count - len(rows)])
            if len(rows) == count:
                return np.stack(rows)
        (low, high), (smallest, largest), drawn = bounds(budget), self.parameter_range(ratios), _BATCHES * size
        capped = f" and at most {self.max_macs:,} multiply-accumulates" if self.max_macs else ""
        raise InputError(
            f"budget: {low:,.0f} to {high:,.0f} parameters{capped} is inside the space's range "
            f"({smallest:,} to {largest:,}), but {drawn:,} draws, most of them towards it, hold {len(rows):,} "
            f"such networks of the {count:,} needed"
        )

    def distinct_genes(
        self, generator: np.random.Generator, count: int, budget: Budget = None, known: Sequence[np.ndarray] = ()
    ) -> np.ndarray:
        """As `sample_genes`, but `count` different rows, none of which is in `known` (different rows, too).

        Fewer where `TRIES` times as many draws hold no more.
        """
        genes = np.reshape(known, (-1, 2 * len(self.layers))).astype(int)
        for _ in range(TRIES):
            genes = np.concatenate((genes, self.sample_genes(generator, count, budget)))
            genes = genes[np.sort(np.unique(genes, axis=0, return_index=True)[1])]
            if len(genes) >= len(known) + count:
                break
        return genes[len(known) :][:count]

    def _uniform_genes(self, generator, count, ratios) -> np.ndarray:
        rows = [
            generator.choice([self.blocks.index(block) for block in self.allowed_blocks(layer)], size=count)
            for layer in range(len(self.layers))
        ]
        rows += [generator.choice(self.ratio_indices(ratios), size=count) for _ in self.layers]
        return np.stack(rows, axis=1)

    def genes_parameters(self, genes: np.ndarray) -> np.ndarray:
        """Parameter counts of rows of genes, int64."""
        return self.parameter_sums.of(genes)

    def within(self, genes: np.ndarray, budget: Budget) -> np.ndarray:
        """Which rows of genes have a number of parameters in `budget` and `max_macs` at most, bool."""
        low, high = bounds(budget)
        counts = self.genes_parameters(genes)
        fits = (counts >= low) & (counts <= high)
        return fits if self.max_macs is None else fits & (self.mac_sums.of(genes) <= self.max_macs)

    def require_feasible(self, budget: Budget, ratios: Sequence[float] | None = None) -> None:
        """Raises InputError, naming both ranges, when no architecture can have the size asked for."""
        if self.max_macs is not None:
            fewest, most = self.mac_sums.range(self.ratio_indices(ratios))
            if self.max_macs < fewest:
                raise InputError(
                    f"budget: no architecture has at most {self.max_macs:,} multiply-accumulates (search.max_macs); "
                    f"this space has {fewest:,} to {most:,}"
                )
        if budget is None:
            return
        smallest, largest = self.parameter_range(ratios)
        low, high = bounds(budget)
        if low > largest or high < smallest or low > high:
            raise InputError(
                f"budget: no architecture has {low:,.0f} to {high:,.0f} parameters; "
                f"this space has {smallest:,} to {largest:,}"
            )

    def open_ratios(self, epoch: int, first: int, after: int, every: int) -> tuple[float, ...]:
        """The ratios in use at `epoch` of the joint phase, ascending (paper, Section IV-A).

        The `first` largest from the start, one more (the next smaller) at epoch `after`, and one
        more every `every` epochs after that.
        """
        opened = first if epoch < after else first + 1 + (epoch - after) // every
        return self.ratios[-min(opened, len(self.ratios)) :]

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
