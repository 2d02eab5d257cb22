"""The table of choice blocks (paper, Table VII) and the channel ratios. Nothing here needs torch."""

from dataclasses import dataclass


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
