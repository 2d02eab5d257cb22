"""Layers of the search space, and what a choice block costs there (paper, Figures 3 and 4)."""

from dataclasses import dataclass

from tamnas.space.blocks import BLOCKS


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
