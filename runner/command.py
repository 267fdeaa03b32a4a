"""How every command ends: user errors as sentences with exit code 2, and a training that is asked to stop, saved."""

import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import torch
from accelerate import Accelerator

from segkd.runner.recipe.mistakes import RecipeError

USER_ERRORS = (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)


def run_command(main: Callable[[], None]) -> None:
    """Runs a command; what the user can put right is told in a sentence, with its traceback only under --debug."""
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:  # the rooms report through logging, such as how many tensors of a file were loaded
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        logging.getLogger("segkd").setLevel(logging.INFO)
    try:
        try:
            main()
        except BaseException as error:
            # loading processes end with the iterators that these frames hold; Python's own way is a SIGTERM,
            # which they ignore
            traceback.clear_frames(error.__traceback__)
            raise
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except USER_ERRORS as error:
        if "--debug" in sys.argv:
            raise
        if rank == 0 or not isinstance(error, RecipeError):  # every process finds the same mistakes in a recipe
            where = f"segkd (process {rank})" if rank else "segkd"
            is_full = getattr(error, "errno", None) == errno.ENOSPC
            full = "; make room and run it again (a training with --resume)" if is_full else ""
            print(f"\n{where}: {error}{full}\n(--debug shows where in the code)", file=sys.stderr, flush=True)
        sys.exit(2)


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
