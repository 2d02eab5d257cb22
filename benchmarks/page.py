"""docs/performance.md: what the benchmarks measured, and which targets that meets.

The text is made from the JSON files of benchmarks/results alone. A figure that a result lacks (it
was measured before the benchmark wrote it, or on too small a size) leaves its target unproven.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EVALUATIONS = 50 + 20 * 50  # of the search that its target names

Results = dict[str, dict]  # of one device, by benchmark


@dataclass(frozen=True)
class Target:
    """What was asked for, and how to read it off a device's results.

    `where` is CPU, GPU (any) or H200; `measured` may raise KeyError for a figure that is not there.
    """

    text: str
    where: str
    unit: str
    measured: Callable[[Results], float]
    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        return value >= self.least if self.least is not None else value <= self.most

    @property
    def aim(self) -> str:
        return f"at least {self.least:g}{self.unit}" if self.least is not None else f"at most {self.most:g}{self.unit}"


def _require(condition: bool) -> None:
    """A result of another size than the target's is no measurement of it."""
    if not condition:
        raise KeyError("size")


def _step(name: str, over: str, geometry: str, batch: int) -> Callable[[Results], float]:
    def measured(results: Results) -> float:
        result = results[name]
        _require(result["geometry"] == geometry and result["batch"] >= batch)
        return result["ratios"][over]

    return measured


def _grid(figure: Callable[[dict], float], images: int) -> Callable[[Results], float]:
    def measured(results: Results) -> float:
        result = results["pgd_grid"]
        _require(result["images"] >= images)
        return figure(result)

    return measured


def _search_ratio(results: Results) -> float:
    seconds = results["search"]["seconds"]
    return seconds["naive, one by one"] / min(taken for name, taken in seconds.items() if name.startswith("ours"))


def _search_minutes(results: Results) -> float:
    result = results["search"]
    _require(result["images"] >= 5000 and result["attack"].startswith("PGD-10 "))
    fastest = min(taken for name, taken in result["seconds"].items() if name.startswith("ours"))
    return EVALUATIONS * fastest / result["subnets"] / 60


def _epoch(results: Results) -> float:
    result = results["supernet_epoch"]
    _require(result["images"] >= 50_000 and result["batch"] == 512 and result["geometry"] == "paper")
    return result["epoch_seconds"]


def _capture(results: Results) -> float:
    result = results["supernet_epoch"]
    _require(result["geometry"] == "paper")
    return result["new_path_seconds"]


def _deviations(what: str) -> Callable[[Results], float]:
    def measured(results: Results) -> float:
        compared = results["precision"]["compared"][what]
        _require(compared["deviation"] > 0 or compared["difference"] == 0)
        return abs(compared["difference"]) / compared["deviation"] if compared["difference"] else 0.0

    return measured


def _higher(result: dict) -> float:
    return 100 * result["robust_accuracy_higher_by_at_most"]


LITERAL, TRADES10 = "(a) literal TRADES-YOPO-5-3", "(b) TRADES-10"
ROW = "training step at 32x32, batch 128, params.yaml's geometry"
PAPER = "training step at 32x32, batch 128, the paper's geometry"
TARGETS = (
    Target(f"{ROW}: over the literal loop", "CPU", "x", _step("training_step_32", LITERAL, "row", 128), 1.6),
    Target(f"{ROW}: over TRADES-10", "CPU", "x", _step("training_step_32", TRADES10, "row", 128), 3),
    Target(f"{PAPER}: over the literal loop", "CPU", "x", _step("training_step_paper", LITERAL, "paper", 128), 1.6),
    Target(f"{PAPER}: over TRADES-10", "CPU", "x", _step("training_step_paper", TRADES10, "paper", 128), 3),
    Target("PGD grid, 1,000 images: over torchattacks", "CPU", "x", _grid(lambda result: result["ratio"], 1000), 4),
    Target("PGD grid: our robust accuracy above theirs", "CPU", " points", _grid(_higher, 1000), most=0.2),
    Target(
        "training step, the paper's geometry, batch 512: over the literal loop, eager float32",
        "H200",
        "x",
        _step("training_step", LITERAL, "paper", 512),
        5,
    ),
    Target("PGD grid, 10,000 images: over torchattacks", "GPU", "x", _grid(lambda result: result["ratio"], 10_000), 6),
    Target("PGD grid: our robust accuracy above theirs", "GPU", " points", _grid(_higher, 10_000), most=0.2),
    Target("subnets evaluated per second: over one by one", "GPU", "x", _search_ratio, 3),
    Target("search of 20 generations x 50, PGD-10, 5,000 images", "H200", " minutes", _search_minutes, most=5),
    Target("supernet epoch, 50,000 images, batch 512, the paper's space", "H200", " s", _epoch, most=2),
    Target("the paper's 1,000 epochs", "H200", " minutes", lambda results: 1000 * _epoch(results) / 60, most=60),
    Target("a new path of the supernet, its step's capture included", "GPU", " s", _capture, most=2),
    Target("bfloat16 against float32, clean accuracy", "GPU", " standard deviations", _deviations("clean"), most=1),
    Target("bfloat16 against float32, robust accuracy", "GPU", " standard deviations", _deviations("robust"), most=1),
)


def verdict(target: Target, device: str, results: Results) -> tuple[str, str]:
    """(what was measured on that device, met or missed or why it is unproven)."""
    try:
        value = target.measured(results)
    except KeyError:
        return "", "unproven (not measured)"
    measured = f"{value:.4g}{target.unit}"
    if target.where == "H200" and "H200" not in device:
        return measured, "unproven (not measured on an H200)"
    return measured, "met" if target.met(value) else "missed"


def targets_table(devices: dict[str, Results]) -> str:
    """Every target with each device that it speaks of; `devices` by the name that their results give."""
    lines = ["| target | aim | on | measured | |", "| --- | --- | --- | --- | --- |"]
    for target in TARGETS:
        judged_on = {
            name: results for name, results in devices.items() if name.startswith("CPU") == (target.where == "CPU")
        }
        on = "one H200" if target.where == "H200" else f"a {target.where}"
        missing = "no GPU at hand" if target.where != "CPU" else "not measured"
        rows = [(name, *verdict(target, name, results)) for name, results in judged_on.items()]
        for name, measured, judged in rows or [(on, "", f"unproven ({missing})")]:
            lines.append(f"| {target.text} | {target.aim} | {name} | {measured} | {judged} |")
    return "\n".join(lines)


def page(results: Path) -> str:
    """The targets, and the measured tables of every device, as Markdown. `results` has a folder for each device."""
    devices: dict[str, Results] = {}
    for folder in sorted(results.iterdir()):
        tables = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        if tables:
            devices[next(iter(tables.values()))["device"]] = tables
    parts = [
        "# How fast tamnas is\n",
        "Written by `python -m benchmarks.all`. What a ratio compares took turns in one run; figures are medians over "
        "the rounds named below each table. On a shared CPU the ratios mean something and the milliseconds do not. "
        "What was tried, kept and dropped is in [log.md](log.md). Tables of the CPU: two cores of a shared machine. "
        "One thread a process: another number gives other bits, and cores are better used by rows beside each other "
        "([pipeline.md](pipeline.md#rows-beside-each-other)).\n",
    ]
    parts.append(f"## Targets\n\n{targets_table(devices)}\n")
    for device, tables in devices.items():
        parts.append(f"## {device}\n")
        parts += [f"### {result['title']}\n\n{result['table']}\n\n{_setting(result)}\n" for result in tables.values()]
    return "\n".join(parts)


def _setting(result: dict) -> str:
    return f"torch {result['torch']}, {result['commit']}, {result['rounds']} round(s)"
