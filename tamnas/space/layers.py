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


def se_parameters(c: int) -> int:
    """Squeeze-and-excitation on c channels, reduction 4, with biases."""
    h = c // 4
    return 2 * c * h + h + c


def non_local_parameters(c: int, inner: int, attention: str, norm: bool = False) -> int:
    """Non-local block: embedded Gaussian has theta, phi and g, Gaussian g alone."""
    projections = 3 if attention == "embedded" else 1
    return projections * (c * inner + inner) + inner * c + c + (2 * c if norm else 0)
