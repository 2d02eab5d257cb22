"""Parameters that must be refused, and a fresh interpreter's answers to all of them.

    python -m tests.helpers.bad_params FOLDER     runs the plan stage on every case, prints the answers as JSON

The cases here were thought of; those of every_param.py are made from the schema. The interpreter is fresh so
that it can be seen that no answer needed torch.
"""

import copy
import io
import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from unittest.mock import patch

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
RAW = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
DATASET = RAW["run"]["datasets"][0]
ROW, MODE = next((name, row["mode"]) for name, row in RAW["run"]["rows"].items())
INF, NAN = float("inf"), float("nan")


def edited(changes: dict) -> dict:
    """params.yaml with dotted keys set to new values."""
    raw = copy.deepcopy(RAW)
    for key, value in changes.items():
        *path, last = key.split(".")
        node = raw
        for part in path:
            node = node.setdefault(part, {})
        node[last] = copy.deepcopy(value)
    return raw


# (key, value): out of its range by little, or at odds with another parameter.
BAD = [
    ("seed", 1.5),
    ("network", None),
    ("network.channels", [24, 48]),
    ("network.channels", [25, 48, 96]),
    ("network.channels", [24, 24, 96]),
    ("network.strides", [1, 2, 3]),
    ("network.repeats", [1, 0, 1]),
    ("network.width", 0),
    ("network.head.hidden", 3),
    ("space.blocks", []),
    ("space.blocks", 0),
    ("space.blocks", [22]),
    ("space.blocks", [0, 0]),
    ("space.blocks", [18]),
    ("space.ratios", []),
    ("space.ratios", [0.0]),
    ("space.ratios", [1, 1.0]),
    ("space.ratios", [9.0]),
    ("supernet.eps", 0),
    ("supernet.eps", "8/255/2"),
    ("supernet.eps", None),
    ("supernet.attack_steps", 3),
    ("supernet.attack_steps", None),
    ("supernet.yopo", {"m": 1, "n": 2}),
    ("supernet.loss", "pgd_at"),  # lam is given
    ("supernet.lam", 0),
    ("supernet.momentum", 1.0),
    ("supernet.batch_size", 1),
    ("supernet.clip_norm", 0),
    ("supernet.resample_every", {}),
    ("supernet.resample_every", {"epochs": 1, "steps": 1}),
    ("supernet.schedule.warmup", 10_000),
    ("supernet.block.epochs", 0),
    ("supernet.block.clean_epochs", 17),
    ("supernet.block.milestones", [3]),  # with a cosine schedule
    ("supernet.block.budget", [1, 2]),
    ("supernet.block.budget", [None]),
    ("supernet.joint.budget", [9_000_000, None]),
    ("supernet.joint.open_ratios.every", 0),
    ("search.max_macs", 1000),  # less than any network of this space
    ("search.budget", [None, 10]),
    ("search.population", 1),
    ("search.tournament", 10_000),
    ("search.mutation_probability", 1.5),
    ("search.attack.steps", 0),
    ("search.attack.step_size", 0),
    ("retrain.max_subnets", 0),
    ("retrain.validation.start", 1.5),
    ("retrain.validation.attack.eps", None),
    ("retrain.scratch.attack", {"eps": "8/255"}),
    ("retrain.scratch.schedule.warmup", 10_000),
    ("retrain.scratch.label_smoothing", 1.0),
    ("retrain.scratch.ema", 1.0),
    ("retrain.finetune.awp", 0),
    ("retrain.scratch.schedule", {"kind": "one_cycle"}),  # nothing to rise over
    ("baselines.training.attack.lam", 0),
    ("supernet.ema", 0.9),
    ("search.bn_calibration_images", 1),
    ("search.budget", [127_082, 127_082]),  # within the range of the space, which has no such network
    ("eval.eps", []),
    ("eval.steps", [0]),
    ("eval.final", [{"eps": "8/255"}]),
    ("eval.step_divisor", 0),
    ("legonet.top", 0),
    ("legonet.pooled_mode", {DATASET: "nope"}),
    ("legonet.pooled_mode", {"nope": MODE}),
    ("baselines.names", ["resnet999"]),
    ("baselines.training.attack", None),
    ("baselines.training.schedule.warmup", 10_000),
    ("seeds", [1, 1]),
    ("seeds", [0]),  # the seed itself
    (f"modes.{MODE}.seeds", [1]),
    (f"modes.{MODE}.retrain.validation", {"attack": {"eps": "2/255", "steps": 10}}),
    ("controls.finetune_lr", [0]),
    ("controls.finetune_lr", [0.01, 0.01]),
    ("controls.common_attack", {"eps": "8/255"}),
    ("controls.common_attack", {"attack_steps": 10}),
    ("controls.common_attack", {"eps": "8", "attack_steps": 1}),
    ("eval.checks.restarts", 1),
    ("eval.checks.large_eps", "256/255"),
    ("eval.checks.attack", {"eps": "8/255"}),
    ("numerics.threads", 0),
    ("compute.device", "tpu"),
    ("compute.workers", 0),
    ("compute.address", "ray://head:10001"),
    ("compute.address", "head"),
    ("compute.gpus_per_job", 2),
    ("compute.cpus_per_job", 0),
    ("compute.max_retries", 1.5),
    ("compute", {"engine": "ray", "device": "cuda:1"}),  # Ray gives each job its GPU
    ("compute", {"engine": "ray", "device": "cuda"}),  # without a share of a GPU
    ("supernet.ranks", 0),
    ("supernet.ranks", 3),  # does not divide the batch
    ("supernet.paths", 0),
    ("supernet.paths", 3),  # does not divide the batch
    ("supernet.paths", 64),  # one image a path
    ("run.datasets", []),
    ("run.datasets", ["mnist"]),
    ("run.rows", {}),
    ("run.rows.more", {"dataset": DATASET, "mode": "nope"}),
    ("run.rows.more", {"dataset": "nope", "mode": MODE}),
    ("run.rows.more", {"dataset": DATASET}),
    (f"run.rows.{DATASET}", {"dataset": DATASET, "mode": MODE}),
    (f"run.rows.{DATASET.upper()}", {"dataset": DATASET, "mode": MODE}),  # the same folder on many machines
    (f"run.rows.{ROW.upper()}", {"dataset": DATASET, "mode": MODE}),
    ("run.rows.baselines", {"dataset": DATASET, "mode": MODE}),  # the reports' own entries
    ("run.rows.pooled_lego", {"dataset": DATASET, "mode": MODE}),
    ("retrain.validation.attack.eps", 0.031),  # 8/255, as TRADES writes it
    (f"modes.{MODE}", None),
    (f"modes.{MODE}.supernet.nope", 1),
    (f"modes.{MODE}.seed", "x"),
    (f"data.{DATASET}.source", "mnist"),
    (f"data.{DATASET}.validation", 0),
    (f"data.{DATASET}.test", None),
    (f"data.{DATASET}.classes", 1),
    (f"data.{DATASET}.augment.pad", 17),
    # inconsistent
    ("space.ratios", [0.5, -1.0]),
    ("network.repeats", [1, 2]),
    ("legonet.top", 2.5),
    ("retrain.scratch.schedule", {"kind": "milestones", "milestones": [5, 3]}),
    ("retrain.scratch.schedule", {"kind": "milestones", "milestones": [10]}),  # past the end
    ("retrain.finetune.schedule", {"kind": "cosine", "milestones": [2]}),
    ("eval.eps", ["8/255", "8/255"]),
    ("run.datasets", [DATASET, DATASET]),
    (f"data.{DATASET}", {"source": "cifar10", "images": "cifar10", "validation": 5000}),
    (f"data.{DATASET}", {"source": "npz", "path": "x.npz", "images": "cifar10", "classes": 2}),
    # too much: memory, overflow, hang
    ("supernet.eps", "1e-999999999"),
    ("supernet.eps", "1e999999999/255"),
    ("search.attack.step_size", "1/1e999999999"),
    ("network.channels", [2**40, 2**41, 2**42]),
    ("network.repeats", [10**9, 1, 1]),
    ("network.head.out", 10**12),
    ("search.population", 10**12),
    ("search.budget", [0, 10**400]),
    ("supernet.block.epochs", 2**31),
    ("space.ratios", [0.01 * i for i in range(1, 102)]),
    (f"data.{DATASET}.split_seed", 2**32),
    (f"data.{DATASET}.classes", 10**9),
]

# What can be wrong with the file itself.
TEXTS = {
    "empty": "",
    "a list": "- 1\n- 2\n",
    "cut short": "seed: [1",
    "binary": "\x00\x01",
    "a key twice": "seed: 1\nseed: 2\n",
    "a python object": "!!python/object:os.system {}\n",
    "a huge number": f"seed: {'1' * 5000}\n",
    "no date": "seed: 2001-13-45\n",
    "a laughing bomb": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "an alias to itself": "seed: &a [*a]\n",
    "deep": "seed: " + "[" * 2000 + "]" * 2000 + "\n",
    "a key that is a number": "1: 2\n",
    "too long": "# " + "x" * 2**19 + "\n",
}


# Name -> what makes a params.yaml as plain data: writing and reading them all takes seconds, naming them none.
PLAIN = {f"{index} {key} {value!r:.40}": partial(edited, {key: value}) for index, (key, value) in enumerate(BAD)}
NAMES = [*PLAIN, *(f"text: {name}" for name in TEXTS)]


def texts() -> Iterator[tuple[str, str]]:
    """(name, text of a params.yaml), for all NAMES."""
    for name, make in PLAIN.items():
        text = io.StringIO()
        YAML(pure=True).dump(make(), text)
        yield name, text.getvalue()
    yield from ((f"text: {name}", text) for name, text in TEXTS.items())


def answer(place: Path) -> dict:
    """What the plan stage says in `place`: exit code, stdout and stderr, CPU seconds, files it left."""
    from stages.plan import main

    started, out, err, code = time.process_time(), io.StringIO(), io.StringIO(), 0
    with chdir(place), redirect_stdout(out), redirect_stderr(err):
        try:
            main(args=[], standalone_mode=False)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    seconds = time.process_time() - started
    left = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seconds": seconds, "left": left}


def answers(folder: Path) -> dict[str, dict]:
    """The answer to every text, each in a folder of its own."""
    found = {}
    for index, (name, text) in enumerate(texts()):
        place = folder / str(index)
        place.mkdir()
        (place / "params.yaml").write_text(text)
        found[name] = answer(place)
    return found


def answers_to_every_param(folder: Path) -> dict[str, dict[str, dict]]:
    """The answers to the cases of every_param.py, by kind. No YAML is written and read: it would take minutes."""
    from tests.helpers import every_param

    found = {}
    for kind, make in every_param.KINDS.items():
        place = folder / kind
        place.mkdir()
        found[kind] = {}
        for name, case in make().items():
            with patch("tamnas.config.resolve.read_yaml", return_value=case.raw):
                found[kind][name] = {**answer(place), "told": case.told, "end": case.end}
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = {"answers": answers(folder), "every": answers_to_every_param(folder)}
    heavy = [name for name in ("torch", "torchvision", "pymoo", "sklearn", "matplotlib") if name in sys.modules]
    print(json.dumps({**found, "heavy": heavy}))
