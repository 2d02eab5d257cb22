"""The engine `ray` on this machine, and the paper's whole study on many workers.

    python -m benchmarks.cluster [--workers 1,2,4] [--seconds 1] [--schedule 1,8,64]

First jobs that only wait, which show what the engine costs on any number of cores, and jobs that train a subnet for an
epoch, which are limited by these: jobs a minute on so many workers against ideal, that is as many times one worker's,
and no more than there are cores where jobs compute. Then the time of an empty job, against local processes, and the
bytes in the object store. Last the schedule of profiles/paper.yaml (`benchmarks.schedule`) with times measured here, on
one CPU thread, of a training step and a PGD step of a network of every row. Nothing here was measured on a GPU.
"""

import os
import statistics
import time
from contextlib import chdir
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmarks.harness import Setting, alternate, environment, own_clock, random_images, report, setting, trained
from benchmarks.options import Numbers, benchmark, click
from benchmarks.schedule import Costs, Schedule, schedule, study
from tamnas.attacks.ascent import pgd
from tamnas.config.compute import ComputeParams
from tamnas.config.fields import read_yaml
from tamnas.config.params import Params
from tamnas.config.plan import RowPlan
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.errors import InputError
from tamnas.networks.subnet import Subnet
from tamnas.pipeline import device, profiles
from tamnas.pipeline.code import ROOT
from tamnas.pipeline.jobs import Jobs
from tamnas.seeding import numpy_generator, torch_generator
from tamnas.space.space import SearchSpace
from tamnas.training.loop import Single
from tamnas.training.step import Stepper

EMPTY = 300
NETWORKS = 4  # whose times say how networks differ
EPOCH_TARGET = 2.0  # s of an epoch of CIFAR-10 at m = 5 on one H200: the project's aim, which no one has measured
SLOWEST = "cifar10-S_8_10"  # the row that it speaks of


def wait(seconds: float, at: Setting) -> None:
    time.sleep(seconds)


def train_one(number: int, at: Setting) -> None:
    trained(at, number, 1)


def rate(jobs: Jobs, function, specs: list) -> float:
    """Jobs a minute."""
    started = time.perf_counter()
    list(jobs.run_jobs(function, specs))
    return 60 * len(specs) / (time.perf_counter() - started)


def measure(load, files, compute: ComputeParams, seconds: float) -> dict:
    """Rates, the milliseconds of an empty job and the bytes of the object store with `compute.workers`."""
    count, started = compute.workers, time.perf_counter()
    with Jobs(load, compute, files) as jobs:
        list(jobs.run_jobs(wait, [seconds] * (2 * count)))  # all are up, their contexts loaded
        up = time.perf_counter() - started - 2 * seconds
        waiting = rate(jobs, wait, [seconds] * (4 * count))
        training = rate(jobs, train_one, list(range(2 * count)))
        empty = 60_000 / rate(jobs, wait, [0.0] * EMPTY)
        stored = _stored() if compute.engine == "ray" else None
    return {"up": up, "waiting": waiting, "training": training, "empty_ms": empty, "store_bytes": stored}


def _stored() -> int:
    """Bytes of memory that the object store of this machine has taken: one copy, however many workers read it."""
    raylets = [child for child in psutil.Process().children(recursive=True) if child.name() == "raylet"]
    files = [file for raylet in raylets for file in Path(f"/proc/{raylet.pid}/fd").iterdir()]
    stores = {
        (stat.st_dev, stat.st_ino): stat for stat in (file.stat() for file in files if "plasma" in os.readlink(file))
    }
    return sum(512 * stat.st_blocks for stat in stores.values())


def measure_rows(params: Params, at: Setting, batch: int) -> tuple[dict[str, Costs], list[float]]:
    """Seconds an image for every row, and the times of several networks of one row over their mean."""
    rows = resolve_study(params).rows
    costs = {name: Costs(*_seconds(plan, at, batch, 0)) for name, plan in rows.items()}
    steps = [_seconds(rows[next(iter(rows))], at, batch, number)[0] for number in range(NETWORKS)]
    return costs, [step / statistics.mean(steps) for step in steps]


def _seconds(plan: RowPlan, at: Setting, batch: int, number: int) -> tuple[float, float]:
    """Of one image in a training step, and in a step of PGD, for one network of a row."""
    space, where = SearchSpace.from_params(plan), at.runtime.device
    arch = space.sample(numpy_generator("benchmark", number), plan.supernet.joint.budget)
    network = Subnet(space, arch, torch_generator("benchmark", number)).to(where, memory_format=device.MEMORY_FORMAT)
    images = random_images(batch, plan.data.size, space.num_classes, where)
    x = images.scaled(images.images).to(memory_format=device.MEMORY_FORMAT)
    recipe = plan.retrain.scratch.recipe
    trainee, stepper = Single(network, recipe), Stepper(plan.retrain.scratch.attack, recipe, at.runtime)
    runs = {"step": lambda: stepper(network.train(), trainee.optimiser, x, images.labels, 0 * x, 1e-3)}
    runs["pgd"] = lambda: pgd(network.eval(), x, images.labels, eps=8 / 255, step_size=2 / 255, steps=2)
    taken = alternate(runs, 1, where, clock=own_clock(where))
    return taken["step"] / batch, taken["pgd"] / batch / 2


@benchmark
@click.option("--workers", type=Numbers(), default="1,2,4", show_default=True)
@click.option("--seconds", type=float, default=1.0, show_default=True, help="Of a job that waits.")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images of a measured step.")
@click.option("--schedule", "counts", type=Numbers(), default="1,8,64", show_default=True, help="Workers of the study.")
def main(row, where, threads, out, workers: list[int], seconds: float, batch: int, counts: list[int]) -> None:
    if find_spec("ray") is None:
        raise InputError("ray is not installed: pip install '.[cluster]'")
    from tamnas.pipeline.ray_jobs import ray

    at = setting(row, where, threads)
    load, files, cores = partial(setting, row, where, threads), [at.data], len(os.sched_getaffinity(0))
    found: dict[str, dict] = {}
    for engine in ("processes", "ray"):
        for count in workers if engine == "ray" else [max(2, min(workers))]:
            compute = ComputeParams(engine=engine, workers=count, device=where, gpus_per_job=int(where == "cuda"))
            found[f"{engine}, {count}"] = measure(load, files, compute, seconds)
            if engine == "ray":
                ray.shutdown()
    first = found[f"ray, {workers[0]}"]
    rows = []
    for name, one in found.items():
        count = int(name.split(", ")[1]) / workers[0]
        ideal = {"waiting": count * first["waiting"], "training": min(count, cores) * first["training"]}
        shares = [cell for what in ideal for cell in (one[what], 100 * one[what] / ideal[what])]
        stored = "" if one["store_bytes"] is None else one["store_bytes"] / 1e6
        rows.append([name, *shares, one["empty_ms"], one["up"], stored])
    columns = ["engine, workers", "waiting jobs / min", "of ideal, %", "training jobs / min", "of ideal, %"]
    columns += ["an empty job, ms", "start, s", "object store, MB"]
    params = paper()
    costs, spread = measure_rows(params, at, batch)
    rounds, needed = study(params, costs, spread)
    plans = {str(count): schedule(rounds, needed, count) for count in counts}
    epoch = 45_000 * costs[SLOWEST].step
    result = environment(at.runtime.device, threads, 1) | {
        "engines": found, "cores": cores, "files_bytes": sum(file.stat().st_size for file in files),
        "jobs_seconds": seconds, "batch": batch, "cost_per_image": {name: vars(cost) for name, cost in costs.items()},
        "spread": spread, "epoch_seconds": epoch, "gpu_factor": epoch / EPOCH_TARGET,
        "study": {count: vars(plan) | {"ideal": plan.ideal(int(count))} for count, plan in plans.items()},
    }  # fmt: skip
    title = f"Jobs on a Ray cluster of this machine ({cores} cores), jobs of {seconds:g} s that wait or of an epoch"
    report(title, columns, rows, result | {"study_table": study_table(plans, result["gpu_factor"])}, out)
    print(study_table(plans, result["gpu_factor"]))


def paper() -> Params:
    """The checkout's params.yaml under profiles/paper.yaml."""
    with chdir(ROOT):
        raw = read_yaml(Path("params.yaml"))
        profiles.overlay(raw, profiles.read_profile("paper"))
    return parse_params(raw)


def study_table(plans: dict[str, Schedule], factor: float) -> str:
    """The whole study by number of workers: on CPU cores as measured, and on GPUs so many times as fast."""
    lines = [
        "| workers | jobs | days on so many CPU cores | ideal | of ideal, % | hours on so many GPUs | GPU hours |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for count, plan in plans.items():
        days, ideal = plan.makespan / 86_400, plan.ideal(int(count)) / 86_400
        hours = plan.makespan / factor / 3600
        cells = f"{plan.jobs:,}", f"{days:,.0f}", f"{ideal:,.0f}", f"{100 * ideal / days:.0f}", f"{hours:,.1f}"
        lines.append(f"| {count} | {' | '.join(cells)} | {hours * int(count):,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
