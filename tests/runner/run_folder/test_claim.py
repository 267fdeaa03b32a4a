"""Who may train in a run folder: claims made, refused, handed over, taken over and lost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from segkd.runner.run_folder import claim as claims
from segkd.runner.run_folder.claim import Claim, ClaimLost, Observer, claim, claimed, look

HOLD = """
import os, sys, time
from pathlib import Path
from segkd.runner.run_folder import claim as claims
claims.BEAT = 0.05
held = claims.claim(Path(sys.argv[1]))
print("held", flush=True)
if sys.argv[2] == "with a child" and os.fork() == 0:
    time.sleep(1.5)
    os._exit(0)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.05)
    monkeypatch.setattr(claims, "STALE", 0.5)


@pytest.fixture
def folder(tmp_path):
    """The folder of a run's claims."""
    return tmp_path / "run/claim"


@pytest.fixture
def owner(folder):
    """Starts a process that holds the claim."""
    started = []

    def start(how="alone"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def written_elsewhere(folder, number=1, **words):
    """A claim of a process on another machine, which gives no sign of life."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {"host": "far", "machine": "far", "process": 7, "since": "2026-01-01", "token": "t", **words}
    (folder / str(number)).write_text(json.dumps(words))


def test_the_second_is_told_who_holds_it_and_until_when(folder, owner):
    process = owner()
    told = f"run is being trained by process {process.pid} on .* since 2.*; wait for its end or stop it first"
    with pytest.raises(ValueError, match=told):
        claim(folder)


@pytest.mark.parametrize("how", ["alone", "with a child"])
def test_a_killed_owner_of_this_machine_is_known_to_be_gone_at_once(folder, owner, how, monkeypatch):
    """Its loading processes may live on for a moment."""
    monkeypatch.setattr(claims, "STALE", 3600)
    process = owner(how)
    process.send_signal(signal.SIGKILL)
    process.wait()
    claim(folder).release()


def test_a_claim_is_free_when_it_is_released_and_gone_when_the_run_is_finished(folder, monkeypatch):
    monkeypatch.setattr(claims, "STALE", 3600)
    for number in (1, 2):
        held = claim(folder)
        assert [path.name for path in folder.iterdir()] == [str(number)]
        held.release(failed="the disk is full")
        assert look(folder).failed == "the disk is full" and look(folder).released
    claim(folder).release(finished=True)
    assert not folder.exists()


def test_an_owner_elsewhere_is_given_its_time_by_the_observers_own_clock(folder, monkeypatch):
    """Its heartbeat counts, not the time it stands for; the clocks of both may differ, and stop."""
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    written_elsewhere(folder)
    observer, beats = Observer(), [5, 4, 6]
    since = time.monotonic()
    while not isinstance(taken := observer.try_to_claim(folder), Claim):
        if beats and time.monotonic() - since > 0.3 * (4 - len(beats)):
            os.utime(folder / "1", ns=(beats[-1], beats.pop()))
        time.sleep(0.01)
    assert time.monotonic() - since >= 0.9 + claims.STALE
    before = look(folder).stamp
    time.sleep(4 * claims.BEAT)
    assert look(folder).stamp != before  # ours beats with a clock that stands still
    taken.release()


def test_an_observer_that_was_stopped_has_not_seen_that_nothing_changed(folder, monkeypatch):
    monkeypatch.setattr(claims, "LOOK", 0.1)
    written_elsewhere(folder)
    observer = Observer()
    assert observer.try_to_claim(folder).host == "far"
    time.sleep(2 * claims.STALE)
    assert observer.try_to_claim(folder).host == "far"


def test_of_many_takers_of_one_dead_claim_one_wins(folder, monkeypatch):
    """All judge it before the first of them takes over."""
    written_elsewhere(folder, released=True)
    barrier, found = threading.Barrier(8), []
    seen = claims.look
    monkeypatch.setattr(claims, "look", lambda folder: (seen(folder), barrier.wait())[0] if not found else seen(folder))

    def take():
        holder = claims.look(folder)
        found.append(claims._succeed(folder, holder))

    threads = [threading.Thread(target=take) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    winners = [one for one in found if one is not None]
    assert len(found) == 8 and len(winners) == 1
    winners[0].check()
    winners[0].release()


@pytest.mark.parametrize("now", [
    [(3, "new")], [(1, "new")], [(1, "new"), (2, "newer")], [],
])  # fmt: skip
def test_who_judges_and_sleeps_takes_nothing(folder, now):
    """In the meantime the claim it has judged was taken over, or came to its end and began anew."""
    written_elsewhere(folder, released=True)
    judged = look(folder)
    (folder / "1").unlink()
    for number, token in now:
        written_elsewhere(folder, number, token=token)
    assert claims._succeed(folder, judged) is None
    assert claims._numbers(folder) == {number for number, _ in now}
    assert folder.exists() == bool(now)  # an empty one would be taken for a claim that is left


def test_an_owner_whose_claim_was_taken_over_notices_before_it_writes(folder):
    held = claim(folder)
    held._released.set()  # its thread is stopped, as by SIGSTOP
    held._thread.join()
    other = Observer()
    while not isinstance(taken := other.try_to_claim(folder), Claim):
        time.sleep(0.01)
    with pytest.raises(
        ClaimLost, match=r"run was taken over by process \d+ on .* it ends here and writes nothing more"
    ):
        held.check()
    held._released.clear()
    held.release(finished=True)  # takes nothing from the new owner
    taken.check()
    taken.release()


def test_a_stopped_process_that_continues_ends_at_once(folder, owner):
    process = owner()
    process.send_signal(signal.SIGSTOP)
    observer = Observer()
    while not isinstance(taken := observer.try_to_claim(folder), Claim):
        time.sleep(0.02)
    process.send_signal(signal.SIGCONT)
    assert process.wait(10) == 2
    assert "run was taken over by process" in process.stderr.read()
    taken.check()
    taken.release()


def test_a_claim_is_handed_over_to_the_process_that_was_started(folder, monkeypatch):
    held = claim(folder)
    monkeypatch.setenv(claims.HANDED_OVER, f"another {held.token}")
    heir = claim(folder)
    held._released.set()
    held._thread.join()
    heir.check()
    with pytest.raises(ClaimLost):
        held.check()
    heir.release()


@pytest.mark.parametrize("text", ["", "[1]", "5"])
def test_a_claim_that_was_never_written_to_its_end_is_taken_over_in_time(folder, text):
    folder.mkdir(parents=True)
    (folder / "1").write_text(text)
    since = time.monotonic()
    claim(folder).release()
    assert time.monotonic() - since >= claims.STALE


def test_what_one_does_and_others_wait_for(folder):
    order = []

    def work(name):
        with claimed(folder) as first:
            order.append((name, first))
            time.sleep(0.2)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [first for _, first in order] == [True, False, False] and not folder.exists()


def test_what_one_has_failed_at_the_next_one_does(folder):
    order, begun = [], threading.Event()

    def work(name):
        with suppress(ZeroDivisionError), claimed(folder) as first:
            order.append((name, first))
            begun.set()
            time.sleep(0.2)
            1 / (name != "fails")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("fails", "waits")]
    threads[0].start()
    begun.wait()
    threads[1].start()
    [thread.join() for thread in threads]
    assert order == [("fails", True), ("waits", True)] and not folder.exists()


def test_a_claim_that_comes_to_its_end_is_never_there_to_be_taken_over(folder, monkeypatch):
    """Who waits and looks in the moment in which it is removed would do the work once more."""
    held, take_away, found = claim(folder), claims._take_away, []
    monkeypatch.setattr(
        claims, "_take_away", lambda file: (found.append(Observer().try_to_claim(folder)), take_away(file))
    )
    held.release(finished=True)
    assert [holder.token for holder in found] == [held.token] and not isinstance(found[0], Claim)
    assert not folder.exists()
