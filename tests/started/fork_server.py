"""Runs scripts for the tests of whole runs: torch is imported once here, then each run is a fork and starts at once.

A request is one JSON line on stdin: {script, arguments, folder, environment, processes, file_limit, curves}. The
answers are one JSON line each: the process ids at once, and the exit codes (negative: killed by that signal) when all
have ended. What process r prints is in stdout.<r> and stderr.<r> of `folder`. Without `curves`, curves.png is empty: to
draw it takes as long as all steps of a tiny run.
"""

import atexit
import gc
import json
import os
import resource
import runpy
import signal
import sys
from typing import NoReturn

import matplotlib.figure  # noqa: F401  half a second of a run that would be paid each time
import torch

import segkd.datasets.synthetic
import segkd.losses.cross_entropy
import segkd.losses.kl
import segkd.models.deeplabv3
import segkd.models.pspnet
import segkd.runner.check
import segkd.runner.distill
import segkd.runner.score  # noqa: F401
from segkd.runner.scoring import page
from segkd.runner.training import report


def run(request: dict, rank: int) -> NoReturn:
    """Becomes process `rank` of the request, runs its script and ends with its exit code."""
    os.chdir(request["folder"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{name}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in a shell's background has it ignored
    if request["processes"] > 1:  # what torchrun tells its processes
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(request["processes"]))
    if request["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], resource.RLIM_INFINITY))
    if not request["curves"]:
        report.curves = lambda rows, file: file.touch()
    sys.argv = [request["script"], *request["arguments"]]
    torch.set_num_threads(1)
    try:
        runpy.run_path(request["script"], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()  # ends loading processes and dashboards, as the end of a script does
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the rest of Python's end takes a forked process a second of copying pages


def main() -> None:
    for template in page.TEMPLATES.glob("*.html"):  # compiled once, not in each run
        page._environment().get_template(template.name)
    gc.freeze()  # collections in the forks leave alone what was imported here
    while line := sys.stdin.readline():
        request = json.loads(line)
        children = []
        for rank in range(request["processes"]):
            child = os.fork()
            if child == 0:
                run(request, rank)
            children.append(child)
        print(json.dumps(children), flush=True)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


if __name__ == "__main__":
    main()
