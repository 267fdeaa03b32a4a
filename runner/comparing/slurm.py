"""How runs are placed on a cluster with SLURM, and what a job of it does: train, and be queued again when time is up."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Annotated

import pydantic
from annotated_types import Interval
from pydantic import Field

from segkd.runner.recipe.section import Section

Processors = Annotated[int, Interval(ge=1, le=1024)]
Minutes = Annotated[int, Interval(ge=1, le=10**6)]
# options of sbatch that follow from how a job trains, or have a field of their own
OWN = {"array", "dependency", "error", "gpus_per_node", "job_name", "nodes", "ntasks", "ntasks_per_node", "open_mode",
       "output", "requeue", "signal", "time", "partition", "account", "cpus_per_task"}  # fmt: skip
STOPPED = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
# beside SIGTERM, after which SLURM itself queues a preempted job again
REQUESTS = (signal.SIGUSR1, signal.SIGUSR2)


class Slurm(Section):
    partition: str | None = Field(None, description="default: the cluster's")
    account: str | None = Field(None, description="whose hours are taken; default: the user's")
    nodes: Processors = Field(1, description="machines of one run, joined by torchrun")
    gpus_per_node: Annotated[int, Interval(ge=0, le=64)] = Field(
        1, description="GPUs of one run on each machine, and its processes there; 0: one process on the CPU"
    )
    cpus_per_node: Processors | None = Field(None, description="cores of one run on each machine")
    time: Minutes | str = Field(60, description="of one job: minutes, or 'h:mm:ss' or 'd-hh:mm:ss' in quotes")
    array_parallelism: Annotated[int, Interval(ge=1, le=10**5)] = Field(256, description="runs at once")
    grace: Annotated[int, Interval(ge=10, le=3600)] = Field(
        120, description="seconds before the end of its time in which a run finishes its step and saves"
    )
    requeues: Annotated[int, Interval(ge=0, le=10**4)] = Field(
        100, description="how often a run whose time is up is queued again and goes on"
    )
    restarts: Annotated[int, Interval(ge=0, le=1000)] = Field(
        3, description="how often torchrun starts all processes of a job again after one of them has died"
    )
    setup: list[str] = Field([], description="lines of the shell before the training, such as `module load cuda`")
    sbatch: dict[str, str | Annotated[int, Interval(ge=-(10**9), le=10**9)] | bool] = Field(
        {}, description="any other option of sbatch, such as `mem: 64G`"
    )

    @pydantic.field_validator("time")
    @classmethod
    def _in_minutes(cls, time: int | str) -> int:
        if isinstance(time, int):
            return time
        found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", time)
        if found is None:
            raise ValueError("must be minutes, or 'h:mm:ss' or 'd-hh:mm:ss'")
        days, hours, minutes, seconds = (int(word or 0) for word in found.groups())
        return max((days * 24 + hours) * 60 + minutes + (seconds > 0), 1)

    @pydantic.field_validator("sbatch")
    @classmethod
    def _other_options(cls, options: dict) -> dict:
        taken = sorted(key for key in options if key.lstrip("-").replace("-", "_") in OWN)
        if taken:
            raise ValueError(f"{', '.join(taken)}: what a job needs to train and go on says this, or a key of `slurm`")
        return options

    @property
    def processes_per_node(self) -> int:
        """Training processes on each machine."""
        return max(self.gpus_per_node, 1)


@dataclass
class SlurmTraining:
    """What runs on each node of a job: distill.py, by torchrun where it has several processes.

    submitit calls `checkpoint` on the main node when the job's time is nearly up, then queues the job again.

    Attributes:
        words: distill.py with its arguments. process: of the training, while it runs. asked: whether SLURM has asked
            this job to end.
    """

    words: list[str]
    slurm: Slurm
    process: subprocess.Popen | None = field(default=None, init=False)
    asked: bool = field(default=False, init=False)

    def __call__(self) -> None:
        """Trains to the end. RuntimeError: it has failed."""
        signal.signal(signal.SIGTERM, self._pass_on)
        # torchrun's time for its processes to end, else 30 s; a store of its own for each group, else one that starts
        # again may find the addresses of the processes that are gone
        environment = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(self.slurm.grace)} | os.environ
        environment |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        self.process = subprocess.Popen(self.command(), env=environment, preexec_fn=_ignore_requests)
        self._wait()
        code = self.process.wait()
        # SLURM ends this job now and queues it again if that is to be; torchrun has an exit code of its own then
        if code != 0 and (self.asked or code in STOPPED):
            time.sleep(self.slurm.grace)
        if code != 0:
            raise RuntimeError(f"{' '.join(self.words)} has ended with exit code {code}; what it said stands above")

    def command(self) -> list[str]:
        """What is started on this node."""
        import submitit

        slurm, environment = self.slurm, submitit.JobEnvironment()
        if slurm.nodes * slurm.processes_per_node == 1:
            return [sys.executable, *self.words]
        launch = ["-m", "torch.distributed.run", "--nnodes", str(slurm.nodes)]
        launch += ["--nproc-per-node", str(slurm.processes_per_node), "--max-restarts", str(slurm.restarts)]
        if slurm.nodes == 1:
            return [sys.executable, *launch, "--standalone", *self.words]
        number = int(environment.raw_job_id)
        endpoint = f"{environment.hostnames[0]}:{20000 + number % 20000}"  # the same on all nodes, other jobs' another
        launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", str(number)]
        return [sys.executable, *launch, *self.words]

    def checkpoint(self) -> object:
        """Lets the training finish its step and save; what is to be done when the job runs again."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self._pass_on()
            self._wait(self.slurm.grace)
        return DelayedSubmission(dataclasses.replace(self))

    def _pass_on(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        self.asked = True
        try:
            os.kill(self.process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass

    def _wait(self, seconds: float = float("inf")) -> None:
        """Until the training has ended. Not by its `wait`, which a signal's handler may not call inside of itself."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    return
            except ChildProcessError:
                return
            time.sleep(0.2)


def _ignore_requests() -> None:
    """Until the training listens: SLURM sends them to all processes of a job, and they would end torchrun."""
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)
