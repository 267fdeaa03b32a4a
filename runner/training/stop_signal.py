"""A training that is asked to stop finishes its step and saves."""

import signal
import sys
from types import FrameType
from typing import NoReturn

import torch
from accelerate import Accelerator


class StopSignal:
    """Ctrl-C and SIGTERM: the first lets the loop finish its step and save, the second ends at once."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def asked(self, at: bool) -> bool:
        """Whether to stop after this step. Several processes agree on it, at the steps where `at` is true."""
        if self.accelerator.num_processes == 1:
            return self.received is not None
        if not at:  # agreeing waits for every device, so not at each step
            return False
        flag = torch.tensor([self.received or 0], device=self.accelerator.device)
        self.received = int(self.accelerator.gather(flag).max()) or None
        return self.received is not None

    def leave(self, message: str) -> NoReturn:
        """Ends the process with the exit code of the signal."""
        if self.accelerator.is_main_process:
            print(message, flush=True)
        self.accelerator.wait_for_everyone()
        sys.exit(128 + self.received)
