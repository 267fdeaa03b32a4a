"""What this process is: one of how many that a launcher has started, and in which of its threads it is."""

import os
import threading

DEFAULTS = {"RANK": 0, "WORLD_SIZE": 1}


def process_count() -> int:
    """How many processes run together; one where no launcher says so."""
    return _number("WORLD_SIZE")


def process_rank() -> int:
    """Which of them this is, from 0 on."""
    return _number("RANK")


def require_numbers() -> None:
    """ValueError where what a launcher says is no number."""
    for name, default in DEFAULTS.items():
        if not os.environ.get(name, str(default)).isdecimal():
            raise ValueError(
                f"the variable {name} is {os.environ[name]!r}, and where it is set it is a number that a launcher "
                f"gives the processes of a run: unset it"
            )


def in_main_thread() -> bool:
    """Whether this is the thread that Python gives signals to."""
    return threading.current_thread() is threading.main_thread()


def _number(name: str) -> int:
    given = os.environ.get(name, "")
    return int(given) if given.isdecimal() else DEFAULTS[name]
