"""Resolve params.yaml into one plan per row and per dataset.

    python stages/plan.py

Reads params.yaml. Writes plan/<row>.yaml and plan/<dataset>.yaml: the parameters after each
mode's patch, every derived default written out. The other stages read these files only.
"""

from pathlib import Path

import click

from tamnas.config.fields import write_yaml
from tamnas.config.resolve import load_params, resolve_all
from tamnas.pipeline.stage import one_line_errors, timed
from tamnas.pipeline.store import locked


def run(params: str = "params.yaml") -> None:
    plans = resolve_all(load_params(params))
    with locked("plan", "run"), timed("plan", "run"):
        for name, plan in plans.items():
            write_yaml(Path("plan") / f"{name}.yaml", plan.plain())
            click.echo(f"plan/{name}.yaml")
        for stale in Path("plan").glob("*.yaml"):  # DVC removes these itself, the runner does not
            if stale.stem not in plans:
                stale.unlink()


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@one_line_errors
def main() -> None:
    run()


if __name__ == "__main__":
    main()
