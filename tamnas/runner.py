"""The stages in order, in one process, without DVC: for machines that have torch and no DVC.

    python -m tamnas.runner [--until STAGE]

Same stage functions, same files, same bits as `dvc repro`; every stage runs (what is finished
is picked up from the checkpoints). Reads params.yaml; the working directory is the root of all paths.
"""

import importlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import click

from tamnas.jobs import kept_workers
from tamnas.params import Params, load_params
from tamnas.stage import one_line_errors

log = logging.getLogger(__name__)

# (stage as in dvc.yaml, script, leading arguments, per "row", "dataset" or "run"), in an order
# that respects dvc.yaml's dependencies; a test compares the two.
STAGES: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("plan", "plan", (), "run"),
    ("prepare", "prepare", (), "dataset"),
    ("supernet_block", "supernet", ("block",), "row"),
    ("supernet_joint", "supernet", ("joint",), "row"),
    ("search", "search", (), "row"),
    ("select", "start_points", (), "row"),
    ("retrain_scratch", "retrain", ("scratch",), "row"),
    ("retrain_finetune", "retrain", ("finetune",), "row"),
    ("legonet", "legonet", ("row",), "row"),
    ("legonet_pooled", "legonet", ("pooled",), "dataset"),
    ("baselines", "baselines", (), "dataset"),
    ("evaluate_scratch", "evaluate", ("scratch",), "row"),
    ("evaluate_finetune", "evaluate", ("finetune",), "row"),
    ("evaluate_legonet", "evaluate", ("legonet",), "row"),
    ("evaluate_legonet_pooled", "evaluate", ("legonet_pooled",), "dataset"),
    ("evaluate_baselines", "evaluate", ("baselines",), "dataset"),
    ("tables", "tables", (), "run"),
)


@dataclass(frozen=True)
class Call:
    """One stage instance: `name` as DVC writes it, and how to call it."""

    name: str
    script: str
    arguments: tuple[str, ...]

    def __call__(self) -> None:
        importlib.import_module(f"stages.{self.script}").run(*self.arguments)


def calls(params: Params) -> Iterator[Call]:
    """Every stage instance of a run, in an order in which inputs come first."""
    instances = {"run": [None], "dataset": params.run.datasets, "row": list(params.run.rows)}
    for stage, script, arguments, per in STAGES:
        for instance in instances[per]:
            name = stage if instance is None else f"{stage}@{instance}"
            yield Call(name, script, arguments if instance is None else (*arguments, instance))


def run(params_path: str = "params.yaml", until: str | None = None) -> None:
    """Run everything, or all instances of the stages up to and including `until`. Raises InputError."""
    names = [stage for stage, *_ in STAGES]
    wanted = names[: names.index(until) + 1] if until else names
    with kept_workers():
        for call in calls(load_params(params_path)):
            if call.name.partition("@")[0] in wanted:
                log.info("stage %s", call.name)
                call()


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--until", type=click.Choice([stage for stage, *_ in STAGES]), help="The last stage to run.")
@one_line_errors
def main(until: str | None) -> None:
    run(until=until)


if __name__ == "__main__":
    main()
