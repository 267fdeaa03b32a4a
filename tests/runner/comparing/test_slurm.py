"""Runs on a cluster: the section of a sweep, the scripts for sbatch, and what a job does, with stand-ins for SLURM."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import submitit

from segkd.runner import sweep
from segkd.runner.comparing.slurm import Slurm, SlurmTraining
from segkd.runner.comparing.sweep_plan import read_plan, read_slurm

TEACHER = "extends: tiny.yaml\nname: big\nnetworks: {student: {args: {width: 16}}}\n"
KL = """
extends: tiny.yaml
name: kl
networks:
  teacher: {model: pspnet, args: {backbone: mobilenetv2_035, width: 16}, weights: {recipe: big.yaml}, train: false}
losses: [{loss: cross_entropy}, {loss: kl}]
"""
SWEEP = """
name: s
seeds: [0, 1]
slurm:
  partition: gpu
  account: vision
  nodes: 2
  gpus_per_node: 4
  cpus_per_node: 32
  time: '1-12:00:00'
  array_parallelism: 3
  setup: [module load cuda, source env/bin/activate]
  sbatch: {mem: 64G, constraint: a100}
methods: {none: tiny.yaml, kd: kl.yaml}
"""
SCRIPT = """\
#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --array=0-3%3
#SBATCH --constraint=a100
#SBATCH --cpus-per-task=32
#SBATCH --dependency='afterok:<big>'
#SBATCH --gpus-per-node=4
#SBATCH --job-name=s
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=64G
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=2160

# setup
module load cuda
source env/bin/activate

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/%A_%a_%t_log.out PYTHON -u -m submitit.core._submit FOLDER

# 0: s-none-s0
# 1: s-kd-s0
# 2: s-none-s1
# 3: s-kd-s1
"""
# in place of distill.py: is asked to stop in its first start, and comes to its end in the second
STAND_IN = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def stop(number, frame):
    (here / "saved").touch()
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
if not (here / "saved").exists():
    (here / "job.new").write_text(str(os.getppid()))
    (here / "job.new").rename(here / "job")
    time.sleep(60)
(here / "done").touch()
"""


@pytest.fixture
def files(folder, monkeypatch):
    """A folder with a sweep of two methods and two seeds, one of them with a teacher."""
    monkeypatch.chdir(folder)
    for name, text in {"big": TEACHER, "kl": KL, "sweep": SWEEP}.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "stand_in.py").write_text(STAND_IN)
    return folder


def test_the_scripts_of_a_sweep_over_two_nodes_each(files, run_here, capsys):
    run_here(sweep, "sweep.yaml", "--slurm", "--dry-run")
    out = capsys.readouterr().out.replace(str(files / "runs/s/slurm"), "FOLDER").replace(sys.executable, "PYTHON")
    teacher, _, runs = out.partition("# 0: big\n\n")
    assert runs.strip() == SCRIPT.strip()
    assert "--array" not in teacher and "--dependency" not in teacher and "#SBATCH --requeue\n" in teacher
    assert not (files / "runs").exists()


def test_what_is_said_of_the_cluster_may_stand_beside_the_sweep(files):
    sweep_file = read_plan("sweep.yaml").sweep
    assert read_slurm(sweep_file, "sweep.yaml", "").time == 36 * 60
    (files / "other.yaml").write_text("partition: cpu\ngpus_per_node: 0\ntime: 90\n")
    assert read_slurm(sweep_file, "sweep.yaml", "other.yaml").partition == "cpu"
    (files / "sweep.yaml").write_text("name: s\nmethods: {none: tiny.yaml}\n")
    with pytest.raises(ValueError, match="has no section `slurm`, and slurm.yaml is not there; write one, or name a"):
        read_slurm(read_plan("sweep.yaml").sweep, "sweep.yaml", "")
    (files / "slurm.yaml").write_text("partition: cpu\ntime: soon\nsbatch: {array: 1-3, mem: 8G}\nnode: 2\n")
    with pytest.raises(ValueError) as caught:
        read_slurm(read_plan("sweep.yaml").sweep, "sweep.yaml", "")
    told = str(caught.value)
    assert "slurm.yaml:2: time: must be minutes, or 'h:mm:ss' or 'd-hh:mm:ss'" in told
    assert "slurm.yaml:3: sbatch: array: what a job needs" in told, told


def test_without_slurm_a_sentence_says_so(files, run_here, monkeypatch):
    monkeypatch.setenv("PATH", str(files))
    with pytest.raises(ValueError, match="there is no sbatch on this machine; .* or look with --dry-run"):
        run_here(sweep, "sweep.yaml", "--slurm")


@pytest.mark.parametrize("nodes, gpus, told", [
    (1, 0, ""),
    (1, 1, ""),
    (1, 4, "--nnodes 1 --nproc-per-node 4 --max-restarts 3 --standalone"),
    (2, 4, "--nnodes 2 --nproc-per-node 4 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint n07:20123 --rdzv-id 123"),
    (2, 0, "--nnodes 2 --nproc-per-node 1 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint n07:20123 --rdzv-id 123"),
])  # fmt: skip
def test_what_a_node_starts(nodes, gpus, told, monkeypatch):
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "n[07-08]"}.items():
        monkeypatch.setenv(name, value)
    words = SlurmTraining(["distill.py", "r.yaml"], Slurm(nodes=nodes, gpus_per_node=gpus)).command()
    launch = ["-m", "torch.distributed.run", *told.split()] if told else []
    assert words == [sys.executable, *launch, "distill.py", "r.yaml"]


def executable(file: Path, text: str) -> None:
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)


@pytest.fixture
def cluster(files, monkeypatch):
    """sbatch, srun and scontrol that note what they are asked for; run(number, index) is what a node then does."""
    here = files / "cluster"
    here.mkdir()
    executable(
        here / "sbatch", f"n=$((100 + $(ls {here} | grep -c sh$))); cp $1 {here}/$n.sh; echo Submitted batch job $n"
    )
    executable(here / "srun", 'while [[ $1 == -* ]]; do [[ $1 == --output ]] && shift; shift; done; exec "$@"')
    executable(here / "scontrol", f'echo "$@" >> {here}/asked')
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")

    def run(number: int, index: int) -> subprocess.Popen:
        told = {"ARRAY_JOB_ID": number, "ARRAY_TASK_ID": index, "JOB_ID": number + index, "NTASKS": 1, "PROCID": 0}
        environment = os.environ | {f"SLURM_{name}": str(value) for name, value in told.items()}
        return subprocess.Popen(["bash", here / f"{number}.sh"], env=environment, start_new_session=True)

    return run


def until(file: Path) -> None:
    """Waits for a file."""
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_queued_run_saves_when_its_time_is_up_and_goes_on_when_it_is_started_again(
    files, cluster, run_here, monkeypatch, capsys
):
    (files / "sweep.yaml").write_text(re.sub("  (setup|nodes|gpus_per_node):.*\n", "", SWEEP))
    monkeypatch.setattr(sweep, "command_of", lambda job: ["python", str(files / "stand_in.py"), str(files)])
    run_here(sweep, "sweep.yaml", "--slurm")
    out = capsys.readouterr().out
    assert re.findall(r"^(\S+): (\S+), output in", out, re.M) == [
        ("100", "big"), ("101_0", "s-none-s0"), ("101_1", "s-kd-s0"), ("101_2", "s-none-s1"), ("101_3", "s-kd-s1")
    ]  # fmt: skip
    assert "--dependency=afterok:100\n" in (files / "cluster/101.sh").read_text()

    job = cluster(101, 2)
    until(files / "job")
    for process in psutil.Process(job.pid).children(recursive=True):  # as SLURM does: all of it but the script's shell
        process.send_signal(signal.SIGUSR2)
    assert job.wait(60) != 0
    assert (files / "saved").exists() and (files / "cluster/asked").read_text() == "requeue 101_2\n"
    assert cluster(101, 2).wait(60) == 0
    assert (files / "done").exists()


def test_a_job_of_submitits_local_executor_is_started_again_after_it_was_asked_to_stop(files):
    executor = submitit.LocalExecutor(folder=files / "jobs")
    executor.update_parameters(timeout_min=2)
    job = executor.submit(SlurmTraining([str(files / "stand_in.py"), str(files)], Slurm(gpus_per_node=0)))
    until(files / "job")
    os.kill(int((files / "job").read_text()), signal.SIGUSR2)
    assert job.result() is None and (files / "saved").exists() and (files / "done").exists()


def test_a_training_that_fails_is_a_job_that_fails(files):
    executor = submitit.LocalExecutor(folder=files / "jobs")
    (files / "fails.py").write_text("import sys\nprint('the disk is full')\nsys.exit(2)\n")
    job = executor.submit(SlurmTraining([str(files / "fails.py")], Slurm(gpus_per_node=0)))
    with pytest.raises(submitit.core.utils.FailedJobError, match="fails.py has ended with exit code 2; what it said"):
        job.result()
    assert "the disk is full" in job.stdout()


def test_a_launcher_that_ends_with_a_code_of_its_own_has_been_asked_all_the_same(files, monkeypatch):
    """torchrun ends with 1 after SIGTERM; SLURM ends the job after the grace and queues it again."""
    (files / "leaves.py").write_text("import os, signal, sys, time\n"
                                     "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
                                     "os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)\n")  # fmt: skip
    slept = []
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "n07"}.items():
        monkeypatch.setenv(name, value)
    training = SlurmTraining([str(files / "leaves.py")], Slurm(gpus_per_node=0, grace=17))
    monkeypatch.setattr(
        "segkd.runner.comparing.slurm.time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic)
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(RuntimeError, match="exit code 1"):
            training()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert slept[-1] == 17
