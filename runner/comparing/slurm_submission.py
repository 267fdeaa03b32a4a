"""Hands the runs of a sweep to SLURM through submitit: one job array over the runs, after those of their teachers."""

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from segkd.runner.comparing.slurm import Slurm, SlurmTraining
from segkd.runner.comparing.sweep_plan import Job, Plan
from segkd.runner.console import say


def submit(plan: Plan, slurm: Slurm, jobs: list[Job], command_of: Callable[[Job], list[str]], *, dry_run: bool) -> None:
    """Queues all jobs of a sweep, or prints the scripts that would be queued.

    Args:
        jobs: the runs that are not done. command_of: distill.py with the arguments of a job, after the interpreter.

    Raises:
        ValueError: there is no submitit, or no SLURM here.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ValueError("--slurm needs submitit: pip install 'segkd[slurm]'")
    if not dry_run and shutil.which("sbatch") is None:
        raise ValueError("there is no sbatch on this machine; go to one of the cluster's, or look with --dry-run")
    after: list[str] = []
    for array in [*levels(plan), jobs]:
        if not array:
            continue
        folder = array[0].folders[0].parent / "slurm"
        trainings = [SlurmTraining(command_of(job), slurm) for job in array]
        parameters = parameters_of(slurm, plan.sweep.name, after)
        number = _print(parameters, folder, array) if dry_run else _queue(parameters, folder, trainings, slurm, array)
        after = [number]
    if not dry_run:
        say("when all is done, the same command without --slurm compares the runs")


def levels(plan: Plan) -> list[list[Job]]:
    """The teachers that are not trained yet, in groups: each needs those of earlier groups only."""
    found: list[list[Job]] = []
    left, done = list(plan.teachers), set()
    here = {teacher.recipe.folder for teacher in left}
    while left:
        ready = [teacher for teacher in left if not (set(teacher.needs) & here) - done]
        found.append([Job([teacher]) for teacher in ready])
        done |= {teacher.recipe.folder for teacher in ready}
        left = [teacher for teacher in left if teacher.recipe.folder not in done]
    return found


def parameters_of(slurm: Slurm, name: str, after: list[str]) -> dict:
    """The section in submitit's words. after: the jobs that must have come to a good end."""
    others = {key.lstrip("-").replace("_", "-"): value for key, value in slurm.sbatch.items()}
    parameters = {
        "job_name": name,
        "partition": slurm.partition,
        "account": slurm.account,
        "time": slurm.time,
        "nodes": slurm.nodes,
        "ntasks_per_node": 1,  # torchrun starts the processes of a node
        "gpus_per_node": slurm.gpus_per_node or None,
        "cpus_per_task": slurm.cpus_per_node,
        "array_parallelism": slurm.array_parallelism,
        "signal_delay_s": slurm.grace,
        "setup": slurm.setup or None,
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": {"requeue": True, **others},
    }
    if after:  # runs whose teacher has failed would wait for ever
        parameters |= {"dependency": f"afterok:{':'.join(after)}"}
        parameters["additional_parameters"]["kill-on-invalid-dep"] = "yes"
    return {key: value for key, value in parameters.items() if value is not None or key == "wckey"}


def _queue(parameters: dict, folder: Path, trainings: list[SlurmTraining], slurm: Slurm, array: list[Job]) -> str:
    from submitit import SlurmExecutor

    for job in array:
        job.prepare()
    executor = SlurmExecutor(folder=folder, max_num_timeout=slurm.requeues)
    executor.update_parameters(**parameters)
    queued = executor.submit_array(trainings)
    number = queued[0].job_id.partition("_")[0]
    for job, one in zip(array, queued):
        say(f"{one.job_id}: {job.name}, output in {one.paths.stdout}")
    return number


def _print(parameters: dict, folder: Path, array: list[Job]) -> str:
    from submitit.slurm.slurm import _make_sbatch_string

    command = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(folder.absolute())])
    count = len(array) if len(array) > 1 else None
    say(_make_sbatch_string(command, folder.absolute(), map_count=count, **parameters))
    for index, job in enumerate(array):
        say(f"# {index}: {job.name}")
    say("")
    return f"<{', '.join(job.name for job in array[:2])}{', ...' if len(array) > 2 else ''}>"
