"""How many subnets to train, and to attack, at once: networks per minute with 1, 2, 4 ... workers.

    python -m benchmarks.side_by_side [--row ROW] [--workers 1,2] [--epochs 2] [--rounds 3]

The retraining jobs of a row, on the row's data, and the evaluation of what they trained: clean
accuracy and the row's validation attack. The numbers of worker processes take turns. A network of
one or two million parameters leaves a large GPU mostly idle; the best number belongs into
`compute.workers`.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Setting, alternate, environment, report, setting
from benchmarks.options import ROUNDS, Numbers, benchmark, click
from benchmarks.workers import Workers
from tamnas.config.sections import SchedulePlan
from tamnas.evaluation.accuracy import accuracy, fast_copy, pgd_accuracy
from tamnas.networks.trained import NetworkSpec, load_network
from tamnas.training.networks import TrainingContext, TrainingTask, train_network


def attack_network(spec: dict, context: TrainingContext) -> tuple[float, float]:
    """A job: clean and robust validation accuracy, in [0, 1], of a network that `train_network` left."""
    model, _ = load_network(context.space, context.folder / f"{spec['id']}.safetensors", "last", context.runtime)
    model = fast_copy(model)
    robust = pgd_accuracy(model, context.validation, context.reference.attack, context.key)
    return accuracy(model, context.validation), robust


def retraining(at: Setting, epochs: int, folder: Path) -> TrainingTask:
    scratch = at.plan.retrain.scratch
    recipe = scratch.recipe.model_copy(update={"epochs": epochs, "schedule": SchedulePlan(kind="cosine")})
    return TrainingTask(
        key=("benchmark",), space=at.space, data=at.data, training=scratch.model_copy(update={"recipe": recipe}),
        reference=at.plan.retrain.validation, augment=at.plan.data.augment, numerics=at.plan.numerics,
        compute=at.compute, folder=folder,
    )  # fmt: skip


@benchmark
@click.option("--workers", type=Numbers(), default="1,2", show_default=True, help="Numbers of worker processes to try.")
@click.option(
    "--networks", type=click.IntRange(min=1), default=4, show_default=True, help="Networks for each number of workers."
)
@click.option("--epochs", type=click.IntRange(min=1), default=2, show_default=True)
@ROUNDS
def main(row, where, threads, out, workers: list[int], networks: int, epochs: int, rounds: int) -> None:
    at = setting(row, where, threads)
    specs = [NetworkSpec(f"n{number}", at.architecture(number)).plain() for number in range(networks)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        task = retraining(at, epochs, folder)
        with Workers(partial(TrainingTask.context, task), at.compute, max(workers)) as pool:

            def train(count: int) -> None:
                for path in folder.iterdir():  # a finished network is not trained again
                    path.unlink()
                pool.run(train_network, specs, count)

            train(max(workers))  # libraries set themselves up
            runs = {
                (what, count): partial(*run, count)
                for what, run in (("trained", (train,)), ("attacked", (pool.run, attack_network, specs)))
                for count in workers
            }
            taken = alternate(runs, rounds, at.runtime.device, warm_up=0)
    first = {what: taken[what, workers[0]] for what in ("trained", "attacked")}
    rows = [[what, count, 60 * networks / value, first[what] / value] for (what, count), value in taken.items()]
    title = f"{at.plan.row}: {networks} subnets, {epochs} epochs each, trained and then attacked side by side"
    figures = {what: {count: taken[what, count] for count in workers} for what in first}
    result = environment(at.runtime.device, threads, rounds) | {"seconds": figures}
    report(title, ["what", "workers", "networks / minute", "rate / first"], rows, result, out)


if __name__ == "__main__":
    main()
