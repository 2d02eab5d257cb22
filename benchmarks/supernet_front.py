"""The hypervolume that each kind of search reaches on a row's trained supernet.

    python -m benchmarks.supernet_front [--row ROW] [--seeds 3] [--out FILE]

Needs a finished run: the row's supernet and its prepared images. Searches with the settings of
`benchmarks.known_front.SEARCHES`, each with the row's own population and generations, and random search with as many
evaluations. Everything evaluated is kept in one file beside OUT (or in a temporary folder) and never evaluated again.
"""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.harness import environment, report, setting
from benchmarks.known_front import SEARCHES, shown
from benchmarks.options import benchmark
from tamnas.config.fields import validated
from tamnas.config.sections import SearchPlan
from tamnas.pipeline.paths import runs
from tamnas.search.latency import measured_latencies, search_space
from tamnas.search.memo import memoised
from tamnas.search.nsga2 import search
from tamnas.search.random_search import random_search
from tamnas.seeding import derived_seed, numpy_generator


@benchmark
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True)
def main(row: str | None, where: str, threads: int, out: Path | None, seeds: int) -> None:
    at = setting(row, where, threads)
    plan, supernet = at.stage("search"), runs(at.plan.row, "joint.safetensors")
    total = plan.search.population + plan.search.generations * plan.search.offspring
    with ExitStack() as stack:
        folder = out.parent if out else Path(stack.enter_context(TemporaryDirectory()))
        path = folder / f"{at.plan.row}-evaluated.jsonl"
        space = search_space(plan, measured_latencies(plan, folder))
        memo = stack.enter_context(memoised(plan, space, supernet, at.data, at.compute, path, "searches", total))
        volumes = {}
        for name, changed in SEARCHES.items():
            setting_of = validated(SearchPlan, plan.search.plain() | changed, "params.yaml")
            seeded = [derived_seed("supernet_front", seed) % 2**32 for seed in range(seeds)]
            searches = [search(space, setting_of, memo, seed) for seed in seeded]
            volumes[name] = [result.hypervolume[-1]["archive_hypervolume"] for result in searches]
        drawn = [numpy_generator("supernet_front", "random_search", seed) for seed in range(seeds)]
        by_chance = [random_search(space, plan.search, [total], memo, generator) for generator in drawn]
        volumes["random search"] = [rows[-1]["archive_hypervolume"] for rows, _ in by_chance]
    title = f"Searches of the supernet of {at.plan.row}, {total} evaluations each, {seeds} seeds"
    columns = ["search", "hypervolume of all evaluated, % (95% interval)"]
    lines = [[name, shown(values)] for name, values in volumes.items()]
    report(title, columns, lines, environment(at.runtime.device, threads, seeds) | {"hypervolume": volumes}, out)


if __name__ == "__main__":
    main()
