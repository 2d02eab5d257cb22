"""Layers of the search space, and what the parts of choice blocks cost there (paper, Figures 3 and 4)."""

from dataclasses import dataclass


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

    def out_size(self, size: int) -> int:
        """Side of the map behind it, in front of which it is `size`."""
        return -(-size // self.stride)


def se_parameters(c: int) -> int:
    """Squeeze-and-excitation on c channels, reduction 4, with biases."""
    h = c // 4
    return 2 * c * h + h + c


def non_local_parameters(c: int, inner: int, attention: str, norm: bool = False) -> int:
    """Non-local block: embedded Gaussian has theta, phi and g, Gaussian g alone."""
    projections = 3 if attention == "embedded" else 1
    return projections * (c * inner + inner) + inner * c + c + (2 * c if norm else 0)


# Multiply-accumulates of one image: convolutions, linear layers and the products of attention, as everywhere
# (`tamnas.evaluation.costs.macs`).


def se_macs(c: int) -> int:
    return 2 * c * (c // 4)


def non_local_macs(c: int, inner: int, attention: str, size: int) -> int:
    """Of a `size` x `size` map: keys and values are pooled 2x2 where it is at least 2x2."""
    embedded, positions, keys = attention == "embedded", size**2, max(1, size // 2) ** 2
    projections = 4 if embedded else 2  # theta and phi, g, out
    return projections * c * inner * positions + positions * keys * ((inner if embedded else c) + inner)
