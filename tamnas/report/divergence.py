"""Stages whose training diverged: what they told (`tamnas.pipeline.paths.DIVERGED`), and which results are void."""

from collections.abc import Sequence

from tamnas.errors import InputError
from tamnas.files import read_json
from tamnas.pipeline.paths import DIVERGED, results
from tamnas.pipeline.stages import stages
from tamnas.report.study import Divergence

WHAT = {
    "supernet_block": "supernet, block phase",
    "supernet_joint": "supernet, joint phase",
    "retrain_scratch": "training from scratch",
    "retrain_finetune": "fine-tuning",
    "legonet": "Lego-Net",
    "controls": "controls",
    "legonet_pooled": "pooled Lego-Net",
    "baselines": "hand-made networks",
    "controls_pooled": "controls of the pooled Lego-Net",
}
# Whose divergence voids a kind of networks: DVC removes what the stage itself wrote, not what later stages made of it.
# Without its networks from scratch a row is not there at all, so that the other kinds need not name its supernet.
BEHIND = {
    "scratch": ("supernet_block", "supernet_joint", "retrain_scratch"),
    "finetune": ("retrain_finetune",),
    "legonet": ("legonet",),
    "controls": ("legonet", "controls"),
    "legonet_pooled": ("legonet_pooled",),
    "baselines": ("baselines",),
    "controls_pooled": ("legonet_pooled", "controls_pooled"),
}


def void(dataset: str, kind: str, row: str | None) -> bool:
    """Whether networks of a kind, if there are any, are an earlier run's: a stage behind them has diverged since."""
    return any((results(dataset, stage, row) / DIVERGED).exists() for stage in BEHIND[kind])


def divergences(dataset: str, rows: Sequence[str]) -> list[Divergence]:
    """Of all `rows` in their order, then of the dataset itself. Raises InputError if a file is damaged."""
    diverged = []
    for row in (*rows, None):
        for stage, what in WHAT.items():
            path = results(dataset, stage, row) / DIVERGED
            if (stages()[stage].per == "dataset") != (row is None) or not path.exists():
                continue
            facts = read_json(path)
            if "reason" not in facts:
                raise InputError(f"{path}: has no reason; remove it and run again")
            places = [f"{key} {facts[key]}" for key in ("epoch", "step") if key in facts]
            where = ", ".join(places) + (f" of {facts['steps']}" if "steps" in facts else "")
            network = f", {facts['network']}" if "network" in facts else ""
            text = f"{what}{network}: training diverged: {facts['reason']}" + (f" ({where})" if where else "")
            diverged.append(Divergence(row or dataset, f"{text}. Nothing that needs this stage has results."))
    return diverged
