"""A supernet phase on a Ray cluster: as one job or, with several ranks, data-parallel by Ray Train.

Ray Train places the ranks, joins them (gloo on CPU, nccl on GPUs), and starts them anew when one dies. What they
exchange is in `tamnas.pipeline.ranks`: torch's DistributedDataParallel would have to be built anew for every path.
"""

import logging
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tamnas.config.compute import ComputeParams
from tamnas.config.plan import PhaseStagePlan
from tamnas.data.loader import Split, load_split
from tamnas.errors import DeadlineError, DivergenceError, InputError, WorkerError
from tamnas.pipeline import device
from tamnas.pipeline.deadline import get_deadline, set_deadline
from tamnas.pipeline.jobs import Jobs
from tamnas.pipeline.paths import prepared
from tamnas.pipeline.progress import Progress
from tamnas.training.loop import Resume
from tamnas.training.phases import train_phase


@dataclass(frozen=True)
class PhaseTask:
    """A supernet phase to train; picklable. Its end is the last state in `resume`."""

    plan: PhaseStagePlan
    stage: str
    start: Path | None
    resume: Resume
    compute: ComputeParams

    def context(self) -> tuple[device.Runtime, Split]:
        runtime = device.start(self.plan.numerics, self.compute)
        return runtime, load_split(prepared(self.plan.dataset), "train", runtime.device)


def train_job(task: PhaseTask, context: tuple[device.Runtime, Split]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)  # Ray brings it to the driver
    runtime, split = context
    train_phase(task.plan, task.stage, split, task.start, runtime, task.resume)


def train_on_cluster(task: PhaseTask) -> None:
    """Train the phase on the cluster. Raises what training raises, and WorkerError if workers died too often."""
    what, files = f"{task.stage} {task.plan.name}", [prepared(task.plan.dataset), *([task.start] if task.start else [])]
    with Progress(f"{what} on the cluster", 1) as progress:  # its epochs are in the curves of its checkpoints
        if task.plan.ranks > 1:
            _train_on_ranks(task)
        else:
            with Jobs(task.context, task.compute, files, progress) as jobs:
                list(jobs.run_jobs(train_job, [task], lambda task: what))
        progress.step()


def _train_on_ranks(task: PhaseTask) -> None:
    from tamnas.pipeline.ray_jobs import Place, connect, ray

    try:
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise InputError(f"supernet.ranks is {task.plan.ranks}: needs `pip install '.[cluster]'` ({error})") from None
    connect(task.compute)
    compute, notes = task.compute, task.resume.path.parent.absolute() / "ray-train"
    resources = {"CPU": compute.cpus_per_job, **({"GPU": 1} if compute.gpus_per_job else {})}  # nccl: a GPU for each
    trainer = TorchTrainer(
        _rank,
        # By reference: what plugins register must be there before it is read.
        train_loop_config={"place": Place.here(), "task": [ray.put(task)], "deadline": get_deadline()},
        scaling_config=ScalingConfig(
            num_workers=task.plan.ranks, use_gpu=bool(compute.gpus_per_job), resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if compute.gpus_per_job else "gloo"),
        run_config=RunConfig(
            name=task.stage,
            storage_path=str(notes),
            failure_config=FailureConfig(max_failures=compute.max_retries),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        error = trainer.fit().return_value
    except TrainingFailedError as failure:
        why = str(failure).strip().splitlines()[-1]
        raise WorkerError(
            f"{task.stage} {task.plan.name}: training on {task.plan.ranks} ranks failed: {why}"
        ) from failure
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    if error is not None:
        raise error


def _rank(config: dict) -> Exception | None:
    """On every rank; what trying again would not mend is the result, for Ray Train tries again whatever is raised."""
    import ray
    from ray.train.torch import get_device

    try:
        config["place"].enter()
        set_deadline(config["deadline"])
        task = ray.get(config["task"][0])
        # A captured graph would capture the exchange, too.
        compute = task.compute.model_copy(update={"device": str(get_device()), "graphs": False})
        task = replace(task, compute=compute)
        train_job(task, task.context())
    except (DeadlineError, DivergenceError, InputError) as error:
        return error
    return None
