"""Every stage is killed, starved of disk, damaged and doubled, and must end with the same bytes.

    python -m tests.faults.matrix              the long part, `make faults`: prints a table of counts
    python -m tests.faults.matrix --quick      a fault or two a stage, as `make test-all` runs it
    python -m tests.faults.matrix --rounds 5 --seed 7
    python -m tests.faults.matrix --stage search --stage controls    strikes these alone

`tests/helpers/disturb.py` says how.
"""

import argparse
import collections
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tamnas.pipeline.stages import stages
from tests.helpers.disturb import Fault, Harness, Stage


def quick(harness: Harness) -> Iterator[Fault]:
    """Some of each kind, over all stages in turn: minutes matter."""
    kinds = [harness.kill, harness.terminate, harness.full_disk, harness.twins, harness.orphan, harness.interrupt]
    for one in harness.stages:
        if one.name.startswith(("prepare", "controls@")):
            yield harness.twins(one)
    for index, one in enumerate(harness.stages):
        yield kinds[index % len(kinds)](one)
        if one.name.startswith(("supernet_block", "search", "retrain_scratch", "evaluate_scratch")):
            yield harness.damage(one)
            yield harness.kill(one)


def long(harness: Harness, rounds: int, whole: bool) -> Iterator[Fault]:
    """Every kind on every stage, kind by kind: a run that is cut short has seen all stages; `whole` runs last."""
    kinds: list[Callable[[Stage], Fault | None]] = [
        harness.kill, harness.damage, harness.full_disk, harness.terminate, harness.orphan, harness.interrupt,
        harness.twins, harness.full_tmpfs, harness.kill, harness.damage,
    ]  # fmt: skip
    for kind in kinds * rounds:
        for one in harness.stages:
            # `source` ends before a Ctrl-C finds more of it than Python's own start.
            left_out = (
                not one.checkpoints if kind == harness.damage else "source@" in one.name and kind == harness.interrupt
            )
            fault = None if left_out else kind(one)
            if fault is not None:
                yield fault
    for one in harness.stages:
        if one.name.startswith(("search", "retrain_scratch", "evaluate_scratch")):
            yield harness.lost_worker(one)
    if whole:
        yield harness.whole_run(kills=12)
        yield harness.killed_dvc()


def table(faults: list[Fault]) -> str:
    """Faults tried and survived per stage and kind, and bytes lost, as Markdown."""
    kinds = list(dict.fromkeys(fault.kind for fault in faults))
    counts: dict[str, dict] = collections.defaultdict(lambda: collections.defaultdict(list))
    for fault in faults:
        counts[fault.stage.partition("@")[0]][fault.kind].append(fault)
    lines = ["| stage | " + " | ".join(kinds) + " | bytes lost |", "| --- |" + " ---: |" * (len(kinds) + 1)]
    for name, row in [*counts.items(), ("**all**", {kind: [f for f in faults if f.kind == kind] for kind in kinds})]:
        cells = [f"{sum(f.survived for f in row[kind])} of {len(row[kind])}" if row.get(kind) else "" for kind in kinds]
        lost = sum(fault.lost for found in row.values() for fault in found)
        lines.append(f"| {name} | {' | '.join(cells)} | {lost:,} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fault or two a stage")
    parser.add_argument("--rounds", type=int, default=1, help="how often the long part goes over all stages")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--stage", action="append", choices=list(stages()), help="strike this stage; again for others")
    parser.add_argument("--json", type=Path, help="write every fault to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C

    with tempfile.TemporaryDirectory(prefix="tamnas-faults-") as home:
        harness, faults = Harness(Path(home), options.seed), []
        if options.stage:
            harness.stages = [one for one in harness.stages if one.name.partition("@")[0] in options.stage]
        struck = quick(harness) if options.quick else long(harness, options.rounds, not options.stage)
        for fault in struck:
            faults.append(fault)
            outcome = "survived" if fault.survived else f"LOST {fault.lost:,} bytes {fault.trouble}"
            print(f"{fault.stage}, {fault.kind}: {outcome}", file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps([{**vars(one), "survived": one.survived} for one in faults]))
    print(table(faults))
    survived = sum(fault.survived for fault in faults)
    print(f"\n{len(faults)} faults tried, {survived} survived, {sum(fault.lost for fault in faults):,} bytes lost")
    return int(survived < len(faults))


if __name__ == "__main__":
    sys.exit(main())
