"""How every command begins and ends: options answered before anything heavy is imported, errors as sentences."""

import argparse
import errno
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar

from segkd.runner.console import message, printable, say
from segkd.runner.display import display
from segkd.runner.process import process_count, process_rank, require_numbers
from segkd.runner.recipe.memory import is_of_memory
from segkd.runner.recipe.mistakes import RecipeError

Asked = TypeVar("Asked")

ROOM, PLACE = (
    "make room and run it again (a training with --resume)",
    "name another place, or let this user write there",
)
# what to do about an error that the system tells in two words
CURES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EACCES: PLACE,
    errno.EPERM: PLACE,
    errno.EROFS: PLACE,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f unlimited)",
    errno.ENOENT: "nothing lies there; a link may lead to what is gone",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ELOOP: "a link in this path leads back to itself; name another place",
    errno.ENOTDIR: "a file stands where this path needs a folder; name another place",
    errno.EISDIR: "a folder stands where a file is needed; name another place",
    errno.EMFILE: "raise the limit on open files (ulimit -n 4096)",
    errno.ENFILE: "this machine has as many files open as it can; close other programs",
}


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the option that every command has; no abbreviations, so that a new option changes no old call."""
    # the program segkd runs the same files
    name = f"segkd {os.path.basename(sys.argv[0])[:-3]}" if "segkd.runner.program" in sys.modules else None
    parser = argparse.ArgumentParser(prog=name, description=description, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_recipe(
    parser: argparse.ArgumentParser, what: str = "", example: str = "optimizer.lr=0.02", *, optional: bool = False
) -> None:
    """The words that name a recipe and change it; `what` else may stand in its place, `optional` nothing, too."""
    where = "path of a recipe, or hf://user/repo/path.yaml, or wandb://entity/project/run"
    parser.add_argument("recipe", nargs="?" if optional else None, help=f"{where}{what}")
    parser.add_argument("overrides", nargs="*", help=f"key=value, such as {example} losses.kl.weight=3")
    parser.add_argument("--trust-checkpoint", action="store_true", help="read weights files that could start code")


def ask_early(ask: Callable[[], Asked], name: str) -> Callable[[], Asked]:
    """`ask`, called at once if `name` is that of the script that runs.

    A command calls this between its light imports and its heavy ones, so that --help, wrong options and refused recipes
    are answered without waiting for torch.
    """
    if name != "__main__":
        return ask
    asked: list[Asked] = []
    run_command(lambda: asked.append(ask()))
    return lambda: asked[0]


class OtherProcessEnded(OSError):
    """What the processes that are left of a run end with."""


class NotesOfRooms(logging.Handler):
    """What the rooms report, such as how many tensors of a file were loaded: text of others is shown as text."""

    def emit(self, record: logging.LogRecord) -> None:
        """Says the note on the console."""
        say(message(self.format(record)))


def speak_plainly(rank: int) -> None:
    """Lets through to the console what is to be read there, all of it as text: notes, warnings, tracebacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a letter that a terminal does not know ends no run
            stream.reconfigure(errors="backslashreplace")
    if rank == 0:
        notes = NotesOfRooms()
        notes.setFormatter(logging.Formatter())
        logging.basicConfig(handlers=[notes])
        logging.getLogger("segkd").setLevel(logging.INFO)
    warnings.formatwarning = lambda text, kind, *where: message(f"{kind.__name__}: {text}") + "\n"


def run_command(main: Callable[[], None]) -> None:
    """Runs a command; what the user can put right is told in a sentence, with its traceback only under --debug."""
    rank = process_rank()
    speak_plainly(rank)
    try:
        try:
            require_numbers()
            main()
        except BaseException as error:
            display.close()
            end_loading(error)
            raise
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        error = understood(error)
        if "--debug" in sys.argv or not _is_the_users(error):
            print(printable("".join(traceback.format_exception(error))), file=sys.stderr, flush=True)
            sys.exit(1)
        if rank == 0 or not isinstance(error, RecipeError):  # every process finds the same mistakes in a recipe
            where = f"segkd (process {rank})" if rank else "segkd"
            said = message(f"{where}: {told(error)}")
            print(f"\n{said}\n(--debug shows where in the code)", file=sys.stderr, flush=True)
        sys.exit(2)


def end_loading(error: BaseException) -> None:
    """Ends the loading processes of what an error has ended."""
    # they end with the iterators that its frames hold; Python's own way is a SIGTERM, which they ignore
    traceback.clear_frames(error.__traceback__)


def understood(error: Exception) -> Exception:
    """An error of another process as what it means for this one, any other as it is."""
    if not _is_of_another_process(error):
        return error
    reason = re.search(r"Last error:\s*(\S.*)", str(error))
    if reason is not None and "ncclRemoteError" not in str(error):  # which tells of what another process has met
        meant = OtherProcessEnded(
            f"the processes of this run cannot reach each other; NCCL says: {reason[1].strip()} (NCCL_DEBUG=INFO tells "
            f"more). What was saved is whole: go on with --resume"
        )
    else:
        shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        meant = OtherProcessEnded(
            "another process of this run ended or does not answer; what it said, if anything, stands beside this. "
            "The last checkpoint is whole: go on with --resume"
            + "; export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun starts, or a group that it starts "
            "again may look for processes that are gone" * (shared and again)
        )
    meant.__cause__ = error  # --debug shows both
    return meant


def told(error: Exception) -> str:
    """An error that the user can put right, with what to do where it is not said."""
    if getattr(error, "errno", None) in CURES:
        what = f"{error.filename}: {error.strerror}" if isinstance(error.filename, str) else str(error)
        if error.errno == errno.ENOENT and error.filename is None:
            return f"{what}: the folder this was started in is gone; go to one that is there"
        return f"{what}; {CURES[error.errno]}"
    if is_of_memory(error):
        said = (str(error).strip().splitlines() or ["out of memory"])[0]
        return f"{said}; there is not so much memory: lower data.batch_size, data.crop_size or a network's width"
    return str(error)


def _is_the_users(error: Exception) -> bool:
    """Whether this is an error that the user can put right."""
    return isinstance(error, (ValueError, OSError, FloatingPointError)) or is_of_memory(error)


def _is_of_another_process(error: Exception) -> bool:
    """Whether the processes of a run could not go on together; Gloo and NCCL tell of it in pages of their own."""
    distributed = sys.modules.get("torch.distributed")
    if not isinstance(error, RuntimeError) or distributed is None:
        return False
    # a group that cannot come together is not initialised yet
    if not distributed.is_initialized() and process_count() == 1:
        return False
    if isinstance(error, distributed.DistError):
        return True
    return re.search(r"gloo|NCCL|TCPStore|Connection (closed|reset) by peer|Broken pipe", str(error)) is not None
