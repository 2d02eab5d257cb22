"""A fuzzer of everything that reads files or text: nothing but InputError, in bounded time and memory.

    python -m tests.faults.fuzz --seconds 600      the long mode: every reader in turn, new examples each time
    python -m tests.faults.fuzz --only plan

The suite runs the same readers on a few fixed examples (tests/faults/test_fuzz.py).
"""

import argparse
import copy
import io
import json
import logging
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tamnas.config.fields import parse_fraction, read_yaml, write_yaml
from tamnas.config.plan import STUDY, RowControlsStagePlan, StudyPlan, read_plan, stage_plans
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.errors import InputError
from tamnas.files import read_json
from tamnas.pipeline.checkpoint import load, load_latest, to_bytes
from tamnas.pipeline.store import seal, unseal
from tamnas.report.collect import read_csv
from tamnas.space.architecture import Architecture
from tests.helpers.bad_params import RAW, ROW

SECONDS = 10  # of CPU for one example
MEGABYTES = 300  # that one example may add

numbers = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, 2**64, 10**400, -1, 0, 1e308, 5e-324])
texts = st.text(max_size=20) | st.sampled_from(
    ["8/255", "1e999999999", "1/0", "nan", "inf", "../x", "a.b", "\n", "\x00"]
)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.integers(), inner, max_size=4)
)


@contextmanager
def bounded():
    """A hang or a blow-up of memory becomes an error."""

    def too_long(*_):
        raise TimeoutError(f"one example took more than {SECONDS} s")

    with suppress(OSError):  # Linux alone can
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is there now
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > MEGABYTES:
        raise MemoryError(f"one example took {grown:.0f} MB")


def only_input_errors(read: Callable, *arguments):
    """What `read` gives, or None for an InputError, whose text must be one line."""
    with bounded():
        try:
            return read(*arguments)
        except InputError as error:
            text = str(error)
    assert "\n" not in text
    assert len(text) < 1000


def places(plain, path: tuple = ()):
    """Every key and index path inside nested dicts and lists."""
    yield path
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def mutated(draw, plain):
    """`plain` with a few values replaced, removed or renamed."""
    plain = copy.deepcopy(plain)
    for _ in range(draw(st.integers(1, 3))):
        paths = [path for path in places(plain) if path]
        if not paths:
            break
        *path, last = draw(st.sampled_from(paths))
        node = plain
        for part in path:
            node = node[part]
        change = draw(st.sampled_from(("replace", "replace", "remove", "rename")))
        if change == "replace":
            node[last] = draw(values)
        elif isinstance(node, dict) and change == "rename":
            node[draw(texts)] = node.pop(last)
        else:
            del node[last]
    return plain


@st.composite
def damaged(draw, blob: bytes):
    """`blob` cut short, with bytes altered, removed, repeated or put in."""
    blob = bytearray(blob)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(blob)))
        change = draw(st.sampled_from(("cut", "alter", "remove", "repeat", "insert")))
        if change == "cut":
            del blob[place:]
        elif change == "alter" and place < len(blob):
            blob[place] = draw(st.integers(0, 255))
        elif change == "remove":
            del blob[place : place + draw(st.integers(1, 20))]
        elif change == "repeat":
            blob[place:place] = blob[place : place + draw(st.integers(1, 50))] * draw(st.integers(1, 3))
        else:
            blob[place:place] = draw(st.binary(max_size=20))
    return bytes(blob)


def yaml_bytes(plain) -> bytes:
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(plain, text)
    return text.getvalue().encode(errors="surrogatepass")


# -- the readers -------------------------------------------------------------------------------

ARCHITECTURE = {"blocks": [0, 6, 20], "ratios": [1.0, 0.4, 2.0]}
TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}
META = {"epoch": 1, "history": [{"loss": 0.5}]}
BLOB = to_bytes(TENSORS, META)
HEADER = json.loads(BLOB[8 : 8 + struct.unpack("<Q", BLOB[:8])[0]])
CONTROLS = Path("plan") / ROW / "controls.yaml"
PLANS = {path: plan.plain() for path, plan in stage_plans(resolve_study(parse_params(RAW))).items()}
HOME = tempfile.TemporaryDirectory(prefix="tamnas-fuzz-")  # gone with the process
FOLDER = Path(HOME.name)
CSV = b"network,epoch,lr,loss,train_clean,train_robust\nn01,0,0.1,2.3,0.1,0.2\nn01,1,0.1,1.9,0.3,0.2\n"


def written(name: str, blob: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(blob)
    return path


def architecture(text: str) -> None:
    found = only_input_errors(Architecture.parse, text)
    assert found is None or Architecture.parse(str(found)) == found


def fraction(value) -> None:
    with bounded(), suppress(ValueError):
        assert isinstance(found := parse_fraction(value), Fraction)
        assert 0 < found <= 1


def params(plain) -> None:
    if isinstance(plain, dict):
        only_input_errors(parse_params, plain)


def params_file(blob: bytes) -> None:
    plain = only_input_errors(read_yaml, written("params.yaml", blob))
    if plain is not None:
        only_input_errors(parse_params, plain)


def plan(plain) -> None:
    if isinstance(plain, dict):
        try:
            write_yaml(FOLDER / STUDY.name, plain)
        except Exception:  # not everything that a dict can hold is YAML
            return
        only_input_errors(read_plan, StudyPlan, FOLDER / STUDY.name)


def plan_file(blob: bytes) -> None:
    only_input_errors(read_plan, RowControlsStagePlan, written(CONTROLS.name, blob))


def checkpoint(blob: bytes) -> None:
    path = written("state.safetensors", blob)
    found = only_input_errors(load, path)
    # What is accepted is what was written: nothing altered passes.
    assert found is None or (found[1] == META and all(torch.equal(found[0][name], TENSORS[name]) for name in TENSORS))
    only_input_errors(load_latest, path)


def checkpoint_header(header) -> None:
    text = json.dumps(header).encode()
    start = 8 + struct.unpack("<Q", BLOB[:8])[0]
    path = written("state.safetensors", struct.pack("<Q", len(text)) + text + BLOB[start:])
    only_input_errors(load, path)


def record(blob: bytes) -> None:
    with bounded(), suppress(ValueError):
        assert unseal(blob.decode()) == META


def results(blob: bytes) -> None:
    only_input_errors(read_json, written("validation.json", blob))
    only_input_errors(read_csv, written("curves.csv", blob))


READERS: dict[str, tuple[Callable, st.SearchStrategy]] = {
    "architecture": (
        architecture,
        st.text() | values.map(json.dumps) | mutated(ARCHITECTURE).map(json.dumps)
        | damaged(json.dumps(ARCHITECTURE).encode()).map(lambda blob: blob.decode(errors="replace"))
        | damaged(b"15@1.8 0@0.2 3@1").map(lambda blob: blob.decode(errors="replace")),
    ),
    "fraction": (fraction, values | st.from_regex(r"\s*[0-9.eE+/ _-]{0,30}\s*")),
    "params": (params, mutated(RAW) | st.dictionaries(st.sampled_from(list(RAW)), values)),
    "params file": (params_file, damaged(yaml_bytes(RAW)) | mutated(RAW).map(yaml_bytes) | st.binary()),
    "plan": (plan, mutated(PLANS[STUDY])),
    "plan file": (plan_file, damaged(yaml_bytes(PLANS[CONTROLS])) | st.binary()),
    "checkpoint": (checkpoint, damaged(BLOB) | st.binary()),
    "checkpoint header": (checkpoint_header, mutated(HEADER) | values),
    "record": (record, damaged(seal(META).encode()) | st.binary()),
    "results": (
        results,
        damaged(json.dumps({"format": 1, "networks": [{"id": "n01"}]}).encode()) | damaged(CSV)
        | mutated({"format": 1, "networks": []}).map(lambda plain: json.dumps(plain).encode()) | st.binary(),
    ),
}  # fmt: skip


def fuzz(name: str, examples: int, seed: int | None = None) -> int:
    """Try one reader on so many examples; how many were tried. Without a seed they are always the same."""
    read, strategy = READERS[name]
    tried = 0

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=seed is None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def try_one(example):
        nonlocal tried
        tried += 1
        read(example)

    (try_one if seed is None else with_seed(seed)(try_one))()
    return tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="of all readers together")
    parser.add_argument("--only", choices=list(READERS), help="one reader alone")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    logging.disable()  # every damaged checkpoint is warned of
    names = [options.only] if options.only else list(READERS)
    tried, spent, started, turn = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0), time.monotonic(), options.seed
    print(f"seed {options.seed}", flush=True)
    while time.monotonic() - started < options.seconds:
        name = min(names, key=spent.get)
        before = time.monotonic()
        tried[name] += fuzz(name, 200, turn)
        spent[name] += time.monotonic() - before
        turn += 1
    for name in names:
        print(f"{name}: {tried[name]:,} examples in {spent[name]:.0f} s")
    print(f"{sum(tried.values()):,} examples in {sum(spent.values()):.0f} s, nothing but InputError")


if __name__ == "__main__":
    sys.exit(main())
