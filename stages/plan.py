"""Resolve params.yaml into what each stage instance is told.

    python -m stages.plan

Reads params.yaml. Writes plan/<row or dataset>/<stage>.yaml (the parameters that this stage instance may know, after
the mode's patch, every derived default written out) and plan/tables.yaml for the reports.
"""

import click

from tamnas.config.fields import write_yaml
from tamnas.config.plan import PLANS, stage_plans
from tamnas.config.resolve import load_params, resolve_study
from tamnas.pipeline.command import stage_command
from tamnas.pipeline.stage import exclusive


@stage_command
def main() -> None:
    plans = stage_plans(resolve_study(load_params()))
    with exclusive("plan"):
        for path, plan in plans.items():
            write_yaml(path, plan.plain())
        for stale in set(PLANS.rglob("*.yaml")) - set(plans):  # DVC removes these itself, the runner does not
            stale.unlink()
    click.echo(f"{PLANS}: {len(plans)} plans")


if __name__ == "__main__":
    main()
