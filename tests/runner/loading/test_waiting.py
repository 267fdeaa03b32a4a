"""Loading processes that die, hang or have no shared memory: each ends in bounded time, in a sentence."""

import errno
import multiprocessing
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data._utils import signal_handling

from segkd.runner.loading import sampler, waiting
from segkd.runner.loading.waiting import LoadingError


class Troubled:
    """Images of one colour; the loading process does something to itself at the one numbered 6."""

    def __init__(self, trouble):
        self.trouble = trouble

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 6:
            self.trouble()
        return Image.new("RGB", (6, 4)), Image.new("L", (6, 4))


def load(trouble, **options):
    return list(sampler.evaluation_batches(Troubled(trouble), batch_size=2, workers=1, **options))


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(waiting, "POLL", 0.2)


def test_a_killed_process_is_told_as_one():
    with pytest.raises(LoadingError, match="^a loading process died .*The last checkpoint is whole: go on with --res"):
        load(lambda: os.kill(os.getpid(), signal.SIGKILL))


def raised_by_torch(*signal_and_frame):
    raise RuntimeError("DataLoader worker is killed by signal")


raised_by_torch.__module__ = "torch.utils.data._utils.signal_handling"


@pytest.mark.parametrize("before", [signal.SIG_DFL, raised_by_torch], ids=["first loader", "after another's loader"])
def test_a_death_is_told_by_the_next_batch_and_nowhere_else(before, monkeypatch):
    """torch raises it in whatever the main process does meanwhile, for instance in the middle of a step."""
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", before is not signal.SIG_DFL)
    earlier = signal.signal(signal.SIGCHLD, before)
    try:
        batches = sampler.evaluation_batches(Troubled(lambda: None), batch_size=2, workers=1)
        next(batches)
        (child,) = multiprocessing.active_children()
        child.kill()
        time.sleep(0.5)  # a step; a signal that comes meanwhile is answered in it
        with pytest.raises(LoadingError, match="^a loading process died"):
            list(batches)
    finally:
        signal.signal(signal.SIGCHLD, earlier)


def test_another_answer_to_the_end_of_a_process_stays():
    def answer(*signal_and_frame):
        pass

    earlier = signal.signal(signal.SIGCHLD, answer)
    try:
        load(lambda: None)
        assert signal.getsignal(signal.SIGCHLD) is answer
    finally:
        signal.signal(signal.SIGCHLD, earlier)


def test_a_process_that_hangs_is_given_up():
    children = []

    def stop():
        children.append(os.getpid())
        os.kill(os.getpid(), signal.SIGSTOP)

    since = time.monotonic()
    with pytest.raises(LoadingError, match=r"^no images came from the loading processes in \d+ s; is their disk there"):
        load(stop, timeout=1.0)
    assert 1 < time.monotonic() - since < 20


def test_a_slow_process_is_waited_for():
    assert len(load(lambda: time.sleep(1.0), timeout=30.0)) == 6


def test_shared_memory_that_is_full_is_told_at_once(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(LoadingError, match="has 1.0 MiB left. Give it more .docker run --shm-size=8g., or load in the"):
        load(lambda: time.sleep(3.0), timeout=30.0)


def test_shared_memory_without_room_for_the_processes_themselves(monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch.multiprocessing, "Queue", full)
    with pytest.raises(
        LoadingError, match="cannot start: /dev/shm has no room for them.*No space left on device.*--shm"
    ):
        load(lambda: None, timeout=30.0)
