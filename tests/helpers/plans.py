"""The plans of params.yaml with some values changed."""

from tamnas.config.plan import RowPlan, stage_plans
from tamnas.config.resolve import parse_params, resolve_study
from tests.helpers.bad_params import ROW, edited


def row_plan(changes: dict, row: str = ROW) -> RowPlan:
    return resolve_study(parse_params(edited(changes))).rows[row]


def plans_with(changes: dict) -> dict:
    """All plans by path."""
    return stage_plans(resolve_study(parse_params(edited(changes))))
