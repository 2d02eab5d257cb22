"""What each stage instance is told, and what of it a checkpoint depends on."""

from pathlib import Path

import pytest

from tamnas.config.fields import write_yaml
from tamnas.config.plan import STUDY, SearchStagePlan, load_study, read_plan, stage_plans
from tamnas.config.resolve import load_params, resolve_study
from tamnas.errors import InputError
from tamnas.evaluation.kinds import KINDS
from tests.helpers.bad_params import DATASET, RAW, ROW
from tests.helpers.plans import plans_with
from tests.helpers.tiny import ROOT

EVALUATIONS = sorted(f"evaluate_{kind}" for kind in KINDS)


def test_plans_round_trip_through_yaml(folder):
    resolved = resolve_study(load_params(ROOT / "params.yaml"))
    for path, plan in stage_plans(resolved).items():
        write_yaml(path, plan.plain())
        assert read_plan(type(plan), path) == plan
        if path != STUDY:
            assert type(plan).load(plan.name, path.stem) == plan
    study = load_study()
    assert study == resolved
    assert list(study.datasets) == RAW["run"]["datasets"]
    assert list(study.rows) == list(RAW["run"]["rows"])


def test_ranks_and_paths_are_told_to_the_phases_alone_and_compute_to_no_stage():
    before = plans_with({})
    told = {Path(f"plan/{ROW}/supernet_{phase}.yaml") for phase in ("block", "joint")}
    for changed in ({"supernet.ranks": 4}, {"supernet.paths": 2}):
        after = plans_with(changed)
        assert {path for path in before if before[path] != after[path]} == told | {STUDY}
    compute = {"engine": "ray", "max_retries": 0, "address": "auto", "workers": 7, "device": "cpu"}
    assert plans_with({f"compute.{name}": value for name, value in compute.items()}) == before


def test_plan_of_another_format_is_refused(folder):
    path = Path(f"plan/{ROW}/search.yaml")
    write_yaml(path, plans_with({})[path].plain() | {"format": 2})
    for name, message in ((ROW, "format 2"), ("none", "no such plan")):
        with pytest.raises(InputError, match=message):
            SearchStagePlan.load(name, "search")


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"search.generations": 99}, ["random_search", "search"]),
        ({"baselines.names": ["resnet8", "resnet20"]}, ["baselines", "controls_pooled"]),
        ({"eval.checks": None}, EVALUATIONS),
        ({"eval.final": []}, EVALUATIONS),
        ({"eval.attacks": []}, EVALUATIONS),
        ({"eval.latency": True}, EVALUATIONS),
        ({"seeds": [7]}, ["controls", "controls_pooled"]),
    ],
    ids=str,
)
def test_what_a_checkpoint_survives(changes, stages):
    """The plans of these stages change, and of no stage the key of the checkpoints."""
    before, after = plans_with({}), plans_with(changes)
    changed = [path for path in before if path != STUDY and before[path] != after[path]]
    assert sorted(path.stem for path in changed) == stages
    assert all(before[path].key() == after[path].key() for path in changed)


@pytest.mark.parametrize(
    "changes",
    [
        {"eval.steps": [10, 20]}, {"eval.success": "last"}, {"eval.step_divisor": 2.0}, {"search.population": 50},
        {"search.attack.steps": 9}, {"retrain.scratch.lr": 0.05}, {"baselines.training.lr": 0.05},
        {"numerics.threads": 3}, {"seed": 5},
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_depends_on_all_else(changes):
    before, after = plans_with({}), plans_with(changes)
    assert before != after
    for path in set(before) - {STUDY, Path(f"plan/{DATASET}/prepare.yaml"), Path(f"plan/{DATASET}/source.yaml")}:
        assert before[path].key() != after[path].key() or before[path] == after[path]


def test_augmentation_prepares_nothing_again():
    path = Path(f"plan/{DATASET}/prepare.yaml")
    assert plans_with({f"data.{DATASET}.augment": {"pad": 2, "flip": True}})[path] == plans_with({})[path]
