"""Whether the plans at hand are those that the results at hand were made with."""

import hashlib
import os
from pathlib import Path

from ruamel.yaml import YAML

from tamnas.config.plan import load_study
from tamnas.errors import InputError
from tamnas.pipeline.paths import DIVERGED
from tamnas.pipeline.stages import Instance, instances, needs

LOCK = Path("dvc.lock")


def require_plans_of_results() -> None:
    """Under DVC, whose dvc.lock says which plan each result was made with: reports label results with plans.

    After an experiment and `git checkout .` they differ, for plan/ is not in git. Raises InputError.
    """
    if "DVC_ROOT" not in os.environ or not LOCK.is_file():
        return
    study, noted = load_study(), YAML(typ="safe").load(LOCK).get("stages", {})
    void: list[Instance] = []  # of an earlier run, and in no report
    for instance in instances({name: row.dataset for name, row in study.rows.items()}, tuple(study.datasets)):
        if instance.results is None or not instance.results.exists() or instance.name not in noted:
            continue
        if (instance.results / DIVERGED).exists() or any(needs(instance, other) for other in void):
            void.append(instance)
            continue
        digests = {dep["path"]: dep["md5"] for dep in noted[instance.name]["deps"]}
        plan = next(dep for dep in instance.deps if dep.parts[0] == "plan")
        if not plan.is_file() or hashlib.md5(plan.read_bytes()).hexdigest() != digests.get(plan.as_posix()):
            raise InputError(
                f"{plan}: {instance.results} was made with another plan, says {LOCK}: run `dvc repro plan` if "
                "params.yaml is what the results belong to, else `dvc repro`"
            )
