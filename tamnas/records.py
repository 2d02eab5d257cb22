"""What the best networks have in common, and Lego-Net from it (paper, Section IV-E; Figures 8, 9).

All choices look at validation accuracies only.
"""

from collections.abc import Sequence


def top(records: Sequence[dict], count: int, weights: str) -> list[dict]:
    """The `count` best trained networks by clean + robust validation accuracy (`weights`: best or last)."""
    return sorted(records, key=lambda record: (-_score(record, weights), record["parameters"], record["id"]))[:count]


def best(records: Sequence[dict], weights: str) -> dict:
    """A row's representative: the highest robust validation accuracy, then clean, then smaller."""
    return max(records, key=lambda r: (r[weights]["robust"], r[weights]["clean"], -r["parameters"]))


def _score(record: dict, weights: str) -> float:
    return record[weights]["clean"] + record[weights]["robust"]
