"""The table of stages against dvc.yaml, the scripts and the plans."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tamnas.config.plan import stage_plans
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.errors import InputError
from tamnas.pipeline import stage as running
from tamnas.pipeline.stage import stage_run
from tamnas.pipeline.stages import instance, instances, needs, stages
from tests.helpers.bad_params import DATASET, RAW, ROW
from tests.helpers.plans import plans_with
from tests.helpers.tiny import ROOT, invoke, tiny_params, write_params

SOURCES = {Path("stages"), Path("tamnas"), Path("plugins")}  # no stage writes them
PIPELINE = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]


def two_datasets() -> dict:
    """params.yaml with two datasets, the first of which has two rows of two modes."""
    raw = RAW | {"data": dict.fromkeys(("digits", "more"), RAW["data"]["digits"])}
    raw["modes"] = {"base": {}, "wide": {"network": {"width": 1.5}}}
    rows = {"digits-base": ("digits", "base"), "digits-wide": ("digits", "wide"), "more-base": ("more", "base")}
    rows = {row: {"dataset": dataset, "mode": mode} for row, (dataset, mode) in rows.items()}
    return raw | {"run": {"datasets": ["digits", "more"], "rows": rows}}


@pytest.fixture(scope="module")
def planned():
    """(every instance, every plan) of `two_datasets`."""
    params = parse_params(two_datasets())
    rows = {name: row.dataset for name, row in params.run.rows.items()}
    return instances(rows, params.run.datasets), stage_plans(resolve_study(params))


def test_every_stage_of_dvc_yaml_is_in_the_table():
    assert list(stages()) == list(PIPELINE)
    for name, stage in stages().items():
        body = PIPELINE[name].get("do", PIPELINE[name])
        assert (stage.name, stage.command, list(stage.deps)) == (name, body["cmd"], body["deps"])
        told = {
            out if isinstance(out, str) else next(iter(out))
            for key in ("outs", "metrics", "plots")
            for out in body.get(key, ())
        }
        assert set(stage.outs) == told


def test_each_command_is_of_a_script_and_each_script_of_a_command():
    scripts = {path.relative_to(ROOT) for path in (ROOT / "stages").glob("*.py")} - {Path("stages/__init__.py")}
    assert {stage.script for stage in stages().values()} == scripts


def test_each_stage_depends_on_the_code_of_its_own_script():
    for stage in stages().values():
        code = [dep for dep in stage.deps if dep.startswith("code/")]
        assert code == ([] if stage.name == "fingerprint" else [f"code/{stage.script.stem}.sha256"])


def test_instances_are_those_of_rows_and_datasets(planned):
    found, _ = planned
    names = {"run": [""], "row": ["@digits-base", "@digits-wide", "@more-base"], "dataset": ["@digits", "@more"]}
    assert {one.name for one in found} == {
        f"{stage.name}{name}" for stage in stages().values() for name in names[stage.per]
    }
    assert len({one.name for one in found}) == len(found)


def test_inputs_come_first(planned):
    found, _ = planned
    for place, one in enumerate(found):
        assert not [later.name for later in found[place + 1 :] if needs(one, later)]
        for dep in set(one.deps) - SOURCES:
            makers = [other for other in found if any(dep == out or dep in out.parents or out in dep.parents
                                                      for out in other.outs)]  # fmt: skip
            assert makers, f"nothing makes {dep}"
            assert all(needs(one, other) and found.index(other) < place for other in makers)
    first = [one.stage.name for one in found if one.name.partition("@")[2] in ("", "digits", "digits-base")]
    assert first.index("supernet_block") < first.index("supernet_joint") < first.index("search")
    assert (first[:4], first[-1]) == (["fingerprint", "plan", "source", "prepare"], "tables")


def test_every_plan_is_of_one_instance(planned):
    found, plans = planned
    told = [dep for one in found for dep in one.deps if dep.parts[0] == "plan"]
    assert len(told) == len(set(told))
    assert set(told) == set(plans)
    for one in found:
        own = [dep for dep in one.deps if dep.parts[0] == "plan"]
        if one.stage.per != "run":
            row_or_dataset = one.name.partition("@")[2]
            assert own == [Path("plan", row_or_dataset, f"{one.stage.name}.yaml")]
            assert plans[own[0]].name == row_or_dataset


def test_an_instance_by_hand():
    one = instance("legonet_pooled", "digits")
    assert (one.name, one.arguments) == ("legonet_pooled@digits", ("pooled", "digits"))
    assert one.results == Path("results/digits/legonet_pooled")
    assert one.inputs == [Path("data/digits.npz"), Path("results/digits/retrain_scratch")]
    one = instance("search", "digits-base", "digits")
    assert one.deps == (
        Path("code/search.sha256"),
        Path("plan/digits-base/search.yaml"),
        Path("data/digits.npz"),
        Path("runs/digits-base/joint.safetensors"),
    )
    assert one.outs == (Path("results/digits/search/digits-base"),)
    assert instance("plan", None).results is None
    with pytest.raises(InputError, match=r"^stage 'serch' does not exist; there are: fingerprint, plan, "):
        instance("serch", "digits-base", "digits")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("search", "a", "d"), ("supernet_joint", "a", "d"), True),  # the same file
        (("search", "b", "d"), ("supernet_joint", "a", "d"), False),  # another row's
        (("supernet_joint", "a", "d"), ("search", "a", "d"), False),  # the other way round
        (("legonet_pooled", "d"), ("retrain_scratch", "a", "d"), True),  # a folder, of which it wrote a part
        (("legonet_pooled", "e"), ("retrain_scratch", "a", "d"), False),
        (("search", "a", "d"), ("plan", None), True),  # a file in a folder that is written
        (("tables", None), ("evaluate_scratch", "a", "d"), True),
        (("plan", None), ("plan", None), False),
    ],
    ids=str,
)
def test_who_needs_whom(one, other, expected):
    assert needs(instance(*one), instance(*other)) is expected


def test_the_folder_of_checkpoints_follows_plan_inputs_and_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plans_with({})[Path(f"plan/{ROW}/select.yaml")]
    for path in instance("select", ROW, DATASET).inputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one") if path.suffix else path.mkdir()
    monkeypatch.setattr(running, "code_digest", lambda script: "one")

    def used(plan) -> str:
        with stage_run("select", plan) as folder:
            return folder.name

    seen = [used(plan)]
    assert used(plan) == seen[0]
    seen.append(used(plan.model_copy(update={"seed": 7})))
    for path in instance("select", ROW, DATASET).inputs:
        (path if path.suffix else path / "more").write_text("other")
        seen.append(used(plan))
    monkeypatch.setattr(running, "code_digest", lambda script: "other")
    seen.append(used(plan))
    assert len(set(seen)) == len(seen)


def test_code_that_changed_after_it_was_listed_computes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, tiny_params())
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    Path("code").mkdir()
    Path("code/plan.sha256").write_text("another digest  stages/plan.py\n")
    result = invoke("plan")
    assert result.exit_code == 2
    assert "code/plan.sha256: the code changed after it was listed; run `dvc repro` again" in result.stderr
    assert not Path("plan").exists()
