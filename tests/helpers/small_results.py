"""Small results of a run that never was, written as the stages would, and what reports make of them."""

import copy
import csv
from pathlib import Path

import numpy as np
import pytest

from tamnas.config.fields import format_fraction, read_yaml, write_yaml
from tamnas.config.plan import DatasetPlan, RowPlan, stage_plans
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.files import write_csv, write_json
from tamnas.legonet import Voter, design
from tamnas.pipeline.paths import results, seeded
from tamnas.records import Record
from tamnas.report import collect
from tamnas.report.figures import style
from tamnas.report.tables.contents import all_tables
from tamnas.report.tables.table import Table, to_csv
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace

ROOT = Path(__file__).parents[2]
PIXEL = (  # a PNG file of one
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\xdac\xf8\x0f\0\1\1\1\0\x1b\xb6\xeeV"
    b"\0\0\0\0IEND\xaeB`\x82"
)


def params(dataset: str = "digits", modes: dict | None = None, **sections) -> dict:
    """params.yaml with one dataset and its rows; `sections` are merged over it, one level deep."""
    raw = copy.deepcopy(read_yaml(ROOT / "params.yaml"))
    modes = modes or {"S_8_1": {}}
    raw["modes"] = {mode: {"supernet": _attack(mode), **patch} for mode, patch in modes.items()}
    raw["run"] = {"datasets": [dataset], "rows": {f"{dataset}-{m}": {"dataset": dataset, "mode": m} for m in modes}}
    raw["data"] = {dataset: raw["data"]["digits"]}
    for name, section in sections.items():
        raw[name] = {**raw[name], **section}
    return raw


def _attack(mode: str) -> dict:
    _, eps, steps = mode.split("_")
    return {"eps": f"{eps}/255", "attack_steps": int(steps)}


def leave_unwritten(patch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and not written, which is the slow part: each file is a stub."""
    patch.setattr(style, "_render", lambda figure, form: {"svg": b"<?xml", "png": PIXEL}[form])


def write_run(raw: dict, root: Path, *, networks: int = 3, omit: tuple[str, ...] = (), seed: int = 0) -> None:
    """Plans, and made-up results of every row but those in `omit`, below `root` (the working directory)."""
    random = np.random.default_rng(seed)
    study = resolve_study(parse_params(raw))
    for path, plan in stage_plans(study).items():
        write_yaml(root / path, plan.plain())
    voting = {}
    for plan in study.rows.values():
        if plan.row not in omit:
            voting[plan.row] = _write_row(plan, random, networks)
    for plan in study.datasets.values():
        _write_dataset(plan, random, voting)


def _write_row(plan: RowPlan, random, networks: int) -> list[Voter]:
    space = SearchSpace.from_params(plan)

    def folder(stage: str) -> Path:
        return results(plan.dataset, stage, plan.row)

    archs = sorted((space.sample(random) for _ in range(networks + 1)), key=space.parameters)
    front = []
    for index, arch in enumerate(archs, 1):
        clean = round(float(random.uniform(0.7, 0.8)), 3)
        front.append(
            {
                "id": f"n{index:02d}",
                "architecture": arch.plain(),
                "parameters": space.parameters(arch),
                "clean": clean,
                "robust": round(clean - float(random.uniform(0.1, 0.2)), 3),
            }
        )
    write_json(folder("search") / "fronts.json", {"format": 1, "archive": front, "population": front})
    worse = [{**one, "clean": one["clean"] - 0.05, "architecture": space.sample(random).plain()} for one in front * 3]
    write_csv(
        folder("search") / "individuals.csv",
        [
            {
                "generation": index % (plan.search.generations + 1),
                "individual": index,
                "architecture": str(Architecture.from_plain(one["architecture"])),
                **{column: one[column] for column in ("parameters", "clean", "robust")},
            }
            for index, one in enumerate([*worse, *front])
        ],
    )
    write_csv(
        folder("search") / "hypervolume.csv",
        [
            {
                "generation": g,
                "evaluated": 24 * (g + 1),
                "hypervolume": 0.1 + 0.02 * g**0.5,
                "archive_hypervolume": 0.1 + 0.021 * g**0.5,
                "front": len(front),
            }
            for g in range(plan.search.generations + 1)
        ],
    )
    selected = front[:networks]
    write_json(folder("select") / "selected.json", {"format": 1, "networks": selected})
    for phase in ("block", "joint"):
        write_csv(
            folder(f"supernet_{phase}") / "curve.csv",
            [
                {
                    "epoch": e,
                    "lr": 0.1,
                    "loss": 2.3 / (e + 1),
                    "train_clean": 0.9 - 0.8 / (e + 1),
                    "train_robust": 0.8 - 0.75 / (e + 1),
                    "train_classes": 10,
                }
                for e in range(getattr(plan.supernet, phase).recipe.epochs)
            ],
        )
    for kind, gain in (("scratch", 0.1), ("finetune", 0.05)):
        trained = [
            train(random, one["id"], one["architecture"], one["parameters"], one["clean"] + gain) for one in selected
        ]
        write_trained(plan, f"retrain_{kind}", f"evaluate_{kind}", plan.row, trained, random)
        if kind == "scratch":
            voting = [Voter(plan.row, Record.from_plain(one, "test")) for one in trained]
            write_csv(folder("ranking") / "inherited.csv", _ranking(trained, selected))
    _write_lego(plan, "legonet", plan.row, voting, random)
    return voting


def _ranking(trained: list[dict], selected: list[dict]) -> list[dict]:
    """Recalibrated on clean images as the search has it, worse by a constant otherwise."""
    return [
        {
            "network": one["id"],
            "parameters": one["parameters"],
            "architecture": str(Architecture.from_plain(one["architecture"])),
            "recalibration": recalibration,
            **{f"inherited_{which}": round(start[which] - loss, 3) for which in ("clean", "robust")},
            **{f"trained_{which}": one["best"][which] for which in ("clean", "robust")},
        }
        for one, start in zip(trained, selected, strict=True)
        for recalibration, loss in (("none", 0.4), ("clean", 0), ("adversarial", 0.1), ("mixed", 0.1))
    ]


def _write_dataset(plan: DatasetPlan, random, voting: dict[str, list[Voter]]) -> None:
    splits = {
        name: {"images": images, "per_class": [len(range(label, images, 10)) for label in range(10)]}
        for name, images in (("train", 1257), ("validation", 180), ("test", 360))
    }
    card = {"format": 1, "dataset": plan.dataset, "classes": [str(i) for i in range(10)], "splits": splits}
    card |= {"notes": [], "warnings": []}
    write_json(results(plan.dataset, "prepare") / "card.json", card)
    if plan.pooled.trained and set(voting) >= set(plan.pooled.rows):
        _write_lego(plan, "legonet_pooled", None, [one for row in plan.pooled.rows for one in voting[row]], random)
    if plan.baselines.names:
        trained = [{**train(random, name, None, 269_722, 0.9), "baseline": name} for name in plan.baselines.names]
        write_trained(plan, "baselines", "evaluate_baselines", None, trained, random)


def _write_lego(plan, stage: str, row: str | None, voting: list[Voter], random) -> None:
    space = SearchSpace.from_params(plan)
    arch, counts, statistics = design(space, voting, plan.legonet.top, plan.eval.weights)
    folder = results(plan.dataset, stage, row)
    write_json(folder / "statistics.json", statistics)
    write_csv(folder / "counts.csv", counts)
    write_trained(
        plan,
        stage,
        f"evaluate_{stage}",
        row,
        [train(random, "lego", arch.plain(), space.parameters(arch), 0.9)],
        random,
    )


def train(random, name: str, arch: dict | None, parameters: int, clean: float) -> dict:
    clean = round(min(clean + float(random.uniform(-0.02, 0.02)), 1.0), 3)
    robust = round(clean - float(random.uniform(0.05, 0.15)), 3)
    return {
        "id": name,
        "architecture": arch,
        "baseline": None,
        "parameters": parameters,
        "epochs": 3,
        "last": {"epoch": 2, "clean": clean, "robust": robust - 0.01},
        "best": {"epoch": 1, "clean": clean, "robust": robust},
    }


def write_trained(plan, training: str, evaluation: str, row: str | None, trained: list[dict], random) -> None:
    folder = seeded(results(plan.dataset, training, row), plan.seed)
    write_json(folder / "validation.json", {"format": 1, "networks": trained})
    write_csv(
        folder / "curves.csv",
        [
            {
                "network": one["id"],
                "epoch": e,
                "loss": 1 / (e + 1),
                "lr": 0.1,
                "train_clean": 0.5,
                "train_robust": 0.4,
                "train_classes": 10,
                "validation_clean": one["best"]["clean"] - 0.2 / (e + 1),
                "validation_robust": one["best"]["robust"] if e == 2 else None,
                "validation_classes": 10,
            }
            for one in trained
            for e in range(3)
        ],
    )
    folder = seeded(results(plan.dataset, evaluation, row), plan.seed)
    write_csv(folder / "costs.csv", [_costs(plan, one) for one in trained])
    rows = []
    for one in trained:
        clean = round(one["best"]["clean"] * 360 - int(random.integers(4))) / 360
        shares = {None: clean}
        for attack in plan.eval.planned():
            shares[attack] = round(360 * (clean - 0.012 * float(attack.eps * 255))) / 360
        rows += [
            {
                "network": one["id"],
                "parameters": one["parameters"],
                "weights": plan.eval.weights,
                "epoch": 1,
                "final": True,
                "attack": attack.key if attack else "clean",
                "eps": format_fraction(attack.eps) if attack else "0/255",
                "steps": getattr(attack, "steps", None) if attack else 0,
                "success": plan.eval.success,
                "images": 360,
                "accuracy": share,
                "missed": 0 if attack else None,
            }
            for attack, share in shares.items()
        ]
    write_csv(folder / "grid.csv", rows)
    attacked = [line for one in trained for attack in plan.eval.attacks for line in _attack_rows(plan, one, attack)]
    if attacked:
        write_csv(folder / "attacks.csv", attacked)


def _attack_rows(plan, one: dict, attack) -> list[dict]:
    """Beside all PGD of the radius; each part but the last fools one more image."""
    images = attack.images or 360
    pgd = [(other.key, 0.8, 0) for other in plan.eval.pgd(final=True) if other.eps == attack.eps]
    parts = [
        (part.name, 0.8 - min(index, len(attack.parts) - 2) / images, None if part.needs_gradients else 0)
        for index, part in enumerate(attack.parts)
    ]
    lines = [("clean", "clean", 0.9, None), *(("beside", *line) for line in pgd), *(("part", *line) for line in parts)]
    lines.append(("worst", "worst", parts[-1][1], None))
    own = {"network": one["id"], "attack": attack.key, "images": images}
    return [own | dict(zip(("role", "name", "accuracy", "missed"), line, strict=True)) for line in lines]


def _costs(plan, one: dict) -> dict:
    head = SearchSpace.from_params(plan).head_parameters if one["architecture"] else 650
    return {
        "network": one["id"],
        "parameters": one["parameters"],
        "head": head,
        "body": one["parameters"] - head,
        "size": 8,
        "macs": 7 * one["parameters"],
    }


def tables_by_name(datasets) -> dict[str, Table]:
    return {table.name: table for table in all_tables(datasets)}


def records(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(to_csv(table).splitlines()))


def edit_csv(path: Path, change) -> None:
    """Rewrite a CSV with `change` applied to each of its rows."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    write_csv(path, rows)


def small_dataset(folder, *args, networks=3, **sections):
    """Of made-up results in `folder`: `params` of the other arguments."""
    write_run(params(*args, **sections), folder, networks=networks)
    (dataset,) = collect.collect()
    return dataset
