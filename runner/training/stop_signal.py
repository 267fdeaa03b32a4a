"""A training that is asked to stop finishes its step and saves; one that waits for images does not wait for them."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch
from accelerate import Accelerator

from segkd.runner.console import in_notebook, say
from segkd.runner.scoring.evaluation import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REQUESTS = (signal.SIGUSR1, signal.SIGUSR2)  # a scheduler's, long before it ends the run
AT_ONCE = 0.0  # grace, in seconds: how long a stop waits for what may still come
MOMENT = 1.0  # batches on their way arrive
GRACE = 15.0
BETWEEN = 5.0  # several processes agree on whether to stop


class StopSignal:
    """Ctrl-C and SIGTERM: the first lets the loop finish its step and save, the second ends at once.

    SIGUSR1 and SIGUSR2 let it finish and save, too; none of them ends it at once, whatever comes after them.

    Until `end`: what comes before and after, such as building a network, is ended by the first one.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.received: int | None = None
        self.gave_up = False
        self._grace: float | None = None  # of what is waited for now
        self._since = 0.0  # when that began, or the signal came
        self._steps, self._until = 0, 1  # since the last agreement, and to the next one
        self._agreed = time.monotonic()
        self._before = {number: signal.signal(number, self._note) for number in (*SIGNALS, *REQUESTS)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for one in SIGNALS if number in SIGNALS else ():
            # the kernel of a notebook outlives its runs
            signal.signal(one, signal.default_int_handler if in_notebook() else signal.SIG_DFL)
        for one in REQUESTS:
            signal.signal(one, signal.SIG_IGN)
        # torchrun, and what runs in a job, pass on the signal that a scheduler has sent to all, too
        if number in SIGNALS and {"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"} & os.environ.keys():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self._grace == AT_ONCE:
            raise Stopped
        self._since = time.monotonic()
        signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, MOMENT, MOMENT)  # again and again

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        if self._grace is not None and time.monotonic() - self._since >= self._grace:
            self.gave_up = True
            raise Stopped

    @contextmanager
    def waiting(self, grace: float) -> Iterator[None]:
        """What may take long and may never end: after a signal and seconds of grace it ends with Stopped."""
        if grace == AT_ONCE and self.noted():
            raise Stopped
        self._grace, self._since = grace, time.monotonic()
        try:
            yield
        finally:
            self._grace = None

    def noted(self) -> bool:
        """Whether this process was asked to stop."""
        return self.received is not None

    def asked(self) -> bool:
        """Whether to stop after this step. Several processes agree on it every few seconds, all at the same steps."""
        if self.accelerator.num_processes == 1:
            return self.noted()
        self._steps += 1
        if self._steps < self._until:  # agreeing waits for every device, so not at each step
            return False
        now = time.monotonic()
        self._until = max(1, int(BETWEEN / self.agree((now - self._agreed) / self._steps)))
        self._steps, self._agreed = 0, now
        return self.noted()

    def agree(self, seconds: float = 0.0) -> float:
        """Where one process was asked to stop, all are. Returns the most of their `seconds`."""
        told = torch.tensor([[self.received or 0, seconds]], dtype=torch.float32, device=self.accelerator.device)
        received, most = self.accelerator.gather(told).amax(0).tolist()  # (processes, 2) -> (2,)
        self.received = int(received) or None
        return most

    def leave(self, message: str, *, together: bool) -> NoReturn:
        """Ends the process with the exit code of the signal; `together`: after the main process has said so."""
        if self.accelerator.is_main_process:
            launched = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & os.environ.keys()
            say(message + ("; a traceback of its launcher's around this is none of the run's" if launched else ""))
        if together:  # a launcher ends the others as soon as one has ended
            self.agree()
        sys.exit(128 + (self.received or signal.SIGTERM))  # another process's, which this one was not told

    def end(self) -> None:
        """Puts back what the signals did before."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
