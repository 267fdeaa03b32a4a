"""Who may train in a run folder: one process at a time, over processes and over machines that share its disk.

The claims of a run are small files in a folder of their own, named 1, 2, 3, ...; the highest one holds. Who takes over
the claim n of somebody who is gone creates n + 1, which the disk (NFS, too) lets one process do and no other, and looks
once more whether n is still the claim it has judged. So two processes that find the same dead owner at once cannot both
take over, and nobody can take away a claim that another has just made. Nothing is kept by the kernel (flock), which
does not reach over machines.

An owner is alive while the time stamp of its claim changes. The stamp is a counter: an observer measures by its own
clock for how long it has seen the same one, so the machines' clocks may differ, and stop. On the owner's own machine a
process that is gone is known to be at once.
"""

import errno
import functools
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from segkd.runner.console import say

BEAT = 1.0  # seconds between two heartbeats
STALE = 60.0  # seconds without one after which a claim is taken over
LOOK = 5.0  # seconds that count at most between two looks: who was stopped itself has not seen that nothing changed
HANDED_OVER = "SEGKD_CLAIMS"  # environment: tokens of claims which the process that starts a training leaves to it


class ClaimLost(OSError):
    """Another process has taken over the claim of this one, which had given no sign of life."""


@dataclass(frozen=True)
class Holder:
    """What stands in a claim.

    Attributes:
        stamp: changes with each heartbeat. machine: where the number of the process means something. token: of this
            claim alone. since: by the clock of its machine, for people. released: the owner has let go of it. failed:
            why its training failed, in words.
    """

    number: int
    stamp: int
    host: str = "another machine"
    machine: str = ""
    process: int = 0
    since: str = "a moment ago"
    token: str = ""
    released: bool = False
    failed: str | None = None

    @property
    def is_gone(self) -> bool:
        """Whether it is known to hold no more, without waiting for its heartbeat."""
        if self.released or self.token in os.environ.get(HANDED_OVER, "").split():
            return True
        if self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            pass
        return False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


class Claim:
    """The right to train in a run folder, kept up by a thread until it is released or the process ends."""

    def __init__(self, file: Path, handle: int, words: dict):
        self.token, self.number = words["token"], int(file.name)
        self._file, self._handle, self._words = file, handle, words
        self._next = file.with_name(str(self.number + 1))
        self._stamp, self._lent, self._released = 0, False, threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"claim {file}")
        self._thread.start()

    def check(self) -> None:
        """To be called before anything is written: ClaimLost where another has taken over in the meantime."""
        try:
            # later by a second at least, which every disk can tell apart, whatever this machine's clock does
            self._stamp = max(time.time_ns(), self._stamp + 10**9)
            os.utime(self._handle, ns=(self._stamp, self._stamp))
            is_lost = os.fstat(self._handle).st_nlink == 0 or self._next.exists()
        except OSError as error:
            # another machine has removed it; any other trouble is the disk's
            is_lost = error.errno in (errno.ESTALE, errno.ENOENT)
        if is_lost:
            holder = look(self._file.parent)
            raise ClaimLost(
                f"{self._file.parents[1]} was taken over by {holder or 'another process'}, since this process gave no "
                f"sign of life for {STALE:.0f} s; it ends here and writes nothing more"
            )

    def lend(self) -> str:
        """Lets a process that is about to start take over; what is to stand in its environment under HANDED_OVER."""
        self._lent = True
        return self.token

    def release(self, *, failed: str | None = None, finished: bool = False) -> None:
        """Lets others take the claim.

        Args:
            failed: why the training failed. finished: nobody will train here again, so nothing is left of the claims.
        """
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        try:
            if finished:
                # at once: one that is released first would be taken over as one that has not come to its end
                self.check()
                _take_away(self._file)
            else:
                # by its handle: it never changes the claim of another
                _write(self._handle, self._words | {"released": True, "failed": failed})
        except OSError:  # lost, or a disk that is full: others see that it gives no sign of life
            pass
        finally:
            os.close(self._handle)

    def _keep(self) -> None:
        while not self._released.wait(BEAT):
            try:
                self.check()
            except ClaimLost as lost:
                if self._lent:
                    return
                # the main thread may be anywhere, such as in the middle of a file that the new owner writes, too
                print(f"\nsegkd: {lost}", file=sys.stderr, flush=True)
                os._exit(2)


class Observer:
    """Takes claims, and remembers for how long it has seen those of others unchanged."""

    def __init__(self):
        self._seen: dict[Path, tuple[tuple[str, int], float, float]] = {}

    def unchanged(self, folder: Path, holder: Holder) -> float:
        """Seconds in which this observer has watched the claims of a folder and seen no heartbeat."""
        now, sign = time.monotonic(), (holder.token, holder.stamp)
        before, seconds, looked = self._seen.get(folder, (None, 0.0, now))
        seconds = seconds + min(now - looked, LOOK) if before == sign else 0.0
        self._seen[folder] = (sign, seconds, now)
        return seconds

    def try_to_claim(self, folder: Path) -> Claim | Holder:
        """The claim of a folder of claims, or who holds it."""
        holder = look(folder)
        if holder is not None and not holder.is_gone and self.unchanged(folder, holder) < STALE:
            return holder
        return _succeed(folder, holder) or look(folder) or Holder(0, 0)


def claim(folder: Path) -> Claim:
    """The claim of a folder of claims. Where it is not known whether its owner lives, the next heartbeat is awaited.

    Raises:
        ValueError: another process holds it.
    """
    observer, first, told = Observer(), look(folder), False
    while True:
        taken = observer.try_to_claim(folder)
        if isinstance(taken, Claim):
            return taken
        if taken.token and (first is None or (taken.token, taken.stamp) != (first.token, first.stamp)):
            raise ValueError(
                f"{folder.parent} is being trained by {taken}; wait for its end or stop it first, or give this run "
                f"another name (name=...)"
            )
        if observer.unchanged(folder, taken) > 3 * BEAT and not told:
            say(f"{folder.parent} is claimed by {taken}; it is taken over after {STALE:.0f} s without a sign of life")
            told = True
        time.sleep(min(0.2, BEAT))


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Keeps others out of a block. Tells whether it is to be done: another may have come to its end in the meantime."""
    observer, waited = Observer(), False
    while not isinstance(taken := observer.try_to_claim(folder), Claim):
        waited = True
        time.sleep(min(0.5, BEAT))
    try:
        yield not waited or taken.number > 1  # one that came to its end has left no claim to go on counting from
    except BaseException:
        taken.release()
        raise
    taken.release(finished=True)


def look(folder: Path) -> Holder | None:
    """Who holds the claim of a folder of claims, or was the last to; None where nobody ever was."""
    numbers = _numbers(folder)
    if not numbers:
        return None
    try:
        # opened, not asked for by its name: a disk of the network shows then what other machines have written
        with (folder / str(max(numbers))).open() as file:
            text, stamp = file.read(), os.fstat(file.fileno()).st_mtime_ns
    except OSError:  # removed in this moment
        return Holder(max(numbers), 0)
    try:
        return Holder(max(numbers), stamp, **json.loads(text))
    except (ValueError, TypeError):  # being written
        return Holder(max(numbers), stamp)


def _succeed(folder: Path, holder: Holder | None) -> Claim | None:
    """Creates the claim that comes after a holder's; None where another process was faster."""
    number = 1 if holder is None else holder.number + 1
    file = folder / str(number)
    words = {"host": socket.gethostname(), "machine": _machine(), "process": os.getpid()}
    words |= {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": secrets.token_hex(8)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except (FileExistsError, FileNotFoundError):  # taken; the folder was removed in this moment
        return None
    try:
        _write(handle, words)
    except OSError:
        os.close(handle)
        _take_away(file)
        raise
    # since the holder was judged, others may have taken over, come to their end, and left the number free again
    numbers = _numbers(folder)
    is_mine = max(numbers, default=0) == number and (holder is None or _token(folder, holder.number) == holder.token)
    if not is_mine:
        os.close(handle)
        _take_away(file)
        return None
    for older in numbers - {number}:
        _remove(folder / str(older))
    return Claim(file, handle, words)


def _token(folder: Path, number: int) -> str | None:
    """Whose claim has this number; empty for one that was never written to its end, None where there is none."""
    try:
        return json.loads((folder / str(number)).read_text())["token"]
    except OSError:
        return None
    except (ValueError, KeyError, TypeError):
        return ""


def _write(handle: int, words: dict) -> None:
    text = json.dumps(words).encode()
    os.pwrite(handle, text, 0)
    os.ftruncate(handle, len(text))
    os.fsync(handle)


def _numbers(folder: Path) -> set[int]:
    try:
        return {int(name) for name in os.listdir(folder) if name.isdecimal()}
    except FileNotFoundError:
        return set()


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)


def _take_away(file: Path) -> None:
    """Removes a claim, and its folder where no other lies in it."""
    _remove(file)
    with suppress(OSError):  # another lies in it, or it is gone
        file.parent.rmdir()


@functools.cache
def _machine() -> str:
    """What no other machine is called, nor another container of this one, in which process numbers mean others."""
    words = [socket.gethostname()]
    try:
        words += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:  # no Linux
        pass
    return " ".join(words)
