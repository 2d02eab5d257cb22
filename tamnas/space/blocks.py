"""The table of choice blocks (paper, Table VII) and the channel ratios.

A block is one row here and one torch module (`tamnas.networks.blocks`); nothing here needs torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

from tamnas.errors import InputError
from tamnas.space.layers import Layer, non_local_macs, non_local_parameters, se_macs, se_parameters

FAMILIES = ("pure tiny", "tiny robust", "pure robust")  # the paper's


@dataclass(frozen=True)
class BlockKind:
    """One row of the block table: what a block id stands for.

    `module` names a callable of (layer, kind, ratio, act_layer), "package.module:name"; `parameters` counts what it
    trains at a layer and ratio. `transitions`: whether it is legal where a stage begins. `macs` counts the
    multiply-accumulates of one image at a layer, a ratio and a side of the map in front of it; the objective of that
    name needs them. The rest is for tables and drawings.
    """

    id: int
    name: str
    family: str
    module: str
    parameters: Callable[[Layer, float], int]
    transitions: bool = True
    branch: str | None = None  # "shuffle" or "xception"
    kernel: int | None = None
    attention: str | None = None  # "embedded" (embedded Gaussian) or "gaussian"
    attention_norm: bool = False
    macs: Callable[[Layer, float, int], int] | None = None

    def allowed(self, layer: Layer) -> bool:
        return self.transitions or not layer.transition


def _separable(layer: Layer, ratio: float, kernel: int) -> int:
    """1x1, depthwise, 1x1 (ShuffleNetV2), each with BatchNorm."""
    p, m, o = layer.branch_in, layer.middle(ratio), layer.branch_out
    return p * m + 2 * m + m * kernel**2 + 2 * m + m * o + 2 * o


def _xception(layer: Layer, ratio: float, kernel: int) -> int:
    """Three depthwise-separable convolutions (Shuffle-Xception), each with BatchNorm."""
    p, m, o, k2 = layer.branch_in, layer.middle(ratio), layer.branch_out, kernel**2
    return p * k2 + 2 * p + p * m + 2 * m + 2 * (m * k2 + 2 * m) + m * m + 2 * m + m * o + 2 * o


BRANCH_PARAMETERS = {"shuffle": _separable, "xception": _xception}


def _separable_macs(layer: Layer, ratio: float, kernel: int, size: int) -> int:
    p, m, o, before, behind = layer.branch_in, layer.middle(ratio), layer.branch_out, size**2, layer.out_size(size) ** 2
    return p * m * before + (m * kernel**2 + m * o) * behind


def _xception_macs(layer: Layer, ratio: float, kernel: int, size: int) -> int:
    p, m, o, k2 = layer.branch_in, layer.middle(ratio), layer.branch_out, kernel**2
    return (p * k2 + p * m + m * k2 + m * m + m * k2 + m * o) * layer.out_size(size) ** 2


BRANCH_MACS = {"shuffle": _separable_macs, "xception": _xception_macs}
SHORT = {"shuffle": "S", "xception": "SX", "embedded": "NE", "gaussian": "NG"}


def _tiny_parameters(layer: Layer, ratio: float, branch: str, kernel: int, attention: str | None) -> int:
    o, cin = layer.branch_out, layer.cin
    count = BRANCH_PARAMETERS[branch](layer, ratio, kernel) + se_parameters(o)
    if attention:
        count += non_local_parameters(o, o // 2, attention)
    return count + (cin * kernel**2 + 2 * cin + cin**2 + 2 * cin if layer.transition else 0)


def _robust_parameters(layer: Layer, ratio: float, attention: str, norm: bool) -> int:
    return non_local_parameters(layer.cout, layer.middle(ratio), attention, norm) + se_parameters(layer.cout)


def _tiny_macs(layer: Layer, ratio: float, size: int, branch: str, kernel: int, attention: str | None) -> int:
    o, cin, behind = layer.branch_out, layer.cin, layer.out_size(size)
    count = BRANCH_MACS[branch](layer, ratio, kernel, size) + se_macs(o)
    if attention:
        count += non_local_macs(o, o // 2, attention, behind)
    return count + ((cin * kernel**2 + cin**2) * behind**2 if layer.transition else 0)


def _robust_macs(layer: Layer, ratio: float, size: int, attention: str) -> int:
    return non_local_macs(layer.cout, layer.middle(ratio), attention, size) + se_macs(layer.cout)


def _tiny(id_: int, branch: str, kernel: int, attention: str | None) -> BlockKind:
    """A pure tiny block, or with attention a tiny robust one."""
    made_of = {"branch": branch, "kernel": kernel, "attention": attention}
    return BlockKind(
        id_,
        "+".join(SHORT[part] for part in (branch, attention) if part) + f" {kernel}x{kernel}",
        "tiny robust" if attention else "pure tiny",
        "tamnas.networks.blocks:TinyBlock",
        partial(_tiny_parameters, **made_of),
        macs=partial(_tiny_macs, **made_of),
        **made_of,
    )


def _robust(id_: int, attention: str, norm: bool) -> BlockKind:
    """A bare non-local block, which changes neither resolution nor width."""
    return BlockKind(
        id_,
        SHORT[attention] + ("+BN" if norm else ""),
        "pure robust",
        "tamnas.networks.blocks:PureRobustBlock",
        partial(_robust_parameters, attention=attention, norm=norm),
        transitions=False,
        attention=attention,
        attention_norm=norm,
        macs=partial(_robust_macs, attention=attention),
    )


BLOCKS: list[BlockKind] = [
    *(
        _tiny(id_, branch, kernel, attention)
        for id_, (attention, branch, kernel) in enumerate(
            product((None, "embedded", "gaussian"), BRANCH_PARAMETERS, (3, 5, 7))
        )
    ),
    _robust(18, "embedded", True),
    _robust(19, "embedded", False),
    _robust(20, "gaussian", True),
    _robust(21, "gaussian", False),
]
PAPER_BLOCKS = tuple(range(22))
RATIOS: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


def register_block(kind: BlockKind) -> BlockKind:
    """Add a row to the table; `space.blocks` may hold its id then. Raises InputError."""
    if kind.id != len(BLOCKS):
        raise InputError(f"choice block {kind.name!r}: id is {kind.id}; the next free one is {len(BLOCKS)}")
    if kind.family not in FAMILIES:
        raise InputError(f"choice block {kind.name!r}: family is {kind.family!r}; allowed: {', '.join(FAMILIES)}")
    BLOCKS.append(kind)
    return kind
