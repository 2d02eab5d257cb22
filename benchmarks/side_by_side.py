"""How many subnets to train at once: networks per minute with one, two, four ... worker processes.

    python -m benchmarks.side_by_side [--row ROW] [--workers 1,2] [--epochs 2]

The retraining jobs of a row, on the row's data, through `run_jobs`. A network of one or two million
parameters leaves a large GPU mostly idle; the best number belongs into `compute.workers`.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import environment, report, seconds, setting
from benchmarks.options import benchmark, click
from tamnas.jobs import Jobs
from tamnas.plan import Schedule
from tamnas.retraining import NetworkSpec, TrainingTask, train_network


def nothing(spec: object, context: object) -> None:
    """A job that only makes sure that its worker is up."""


@benchmark
@click.option("--workers", default="1,2", show_default=True, help="Numbers of worker processes to try.")
@click.option("--networks", default=4, show_default=True, help="Networks to train with each number of workers.")
@click.option("--epochs", default=2, show_default=True)
def main(row, where, threads, out, workers: str, networks: int, epochs: int) -> None:
    at = setting(row, where, threads)
    scratch = at.plan.retrain.scratch
    recipe = scratch.recipe.model_copy(update={"epochs": epochs, "schedule": Schedule(kind="cosine")})
    specs = [NetworkSpec(f"n{number}", at.architecture(number)).plain() for number in range(networks)]
    taken = {}
    for count in (int(text) for text in workers.split(",")):
        compute = at.compute.model_copy(update={"engine": "processes", "workers": count})
        with TemporaryDirectory() as folder:
            task = TrainingTask(
                key=("benchmark",), space=at.space, data=at.data,
                training=scratch.model_copy(update={"recipe": recipe}), reference=at.plan.retrain.validation,
                augment=at.plan.data.augment, numerics=at.plan.numerics, compute=compute, folder=Path(folder),
            )  # fmt: skip
            with Jobs(partial(TrainingTask.context, task), compute) as jobs:
                list(jobs.run_jobs(nothing, range(2 * count)))
                run = partial(jobs.run_jobs, train_network, specs)
                taken[count] = seconds(lambda run=run: list(run()), at.runtime.device)
    first = next(iter(taken.values()))
    rows = [[count, 60 * networks / value, first / value] for count, value in taken.items()]
    title = f"{at.plan.row}: {networks} subnets, {epochs} epochs each, side by side"
    result = environment(at.runtime.device, threads) | {"seconds": taken}
    report(title, ["workers", "networks / minute", "rate / first"], rows, result, out)


if __name__ == "__main__":
    main()
