"""What signals do to a training, one after another; tests/runner/test_distill_stop.py stops whole runs."""

import signal
import time
from types import SimpleNamespace

import pytest
import torch

from segkd.runner.scoring.evaluation import Stopped
from segkd.runner.training import stop_signal
from segkd.runner.training.stop_signal import AT_ONCE, GRACE, SIGNALS, StopSignal

ALONE = SimpleNamespace(num_processes=1, is_main_process=True)


@pytest.fixture
def stop():
    before = [signal.getsignal(number) for number in SIGNALS]
    found = StopSignal(ALONE)
    yield found
    found.end()
    assert [signal.getsignal(number) for number in SIGNALS] == before, "an end leaves no trace"


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


def test_the_first_is_noted_and_a_second_of_either_kind_ends_at_once(stop):
    assert not stop.asked()
    signal.raise_signal(signal.SIGTERM)
    assert stop.asked() and handlers() == [signal.SIG_DFL, signal.SIG_DFL]


def test_several_processes_agree_every_few_seconds(monkeypatch):
    """One of two is asked to stop and takes a second for a step, the other one two."""
    clock, gathers = [0.0], []

    def gather(told):
        gathers.append(told.tolist())
        return torch.cat([told, torch.tensor([[float(signal.SIGTERM) if len(gathers) > 2 else 0.0, 2.0]])])

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stop = StopSignal(SimpleNamespace(num_processes=2, device="cpu", gather=gather))
    try:
        for step in range(1, 6):
            clock[0] += 1.0
            assert stop.asked() == (step == 5) and len(gathers) == {1: 1, 2: 1, 3: 2, 4: 2, 5: 3}[step]
    finally:
        stop.end()
    assert gathers == [[[0.0, 1.0]]] * 3 and stop.received == signal.SIGTERM


def test_under_torchrun_a_repeated_sigterm_is_the_first_one_passed_on(stop, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    signal.raise_signal(signal.SIGTERM)
    assert handlers() == [signal.SIG_DFL, signal.SIG_IGN]
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_request_of_a_scheduler_is_noted_and_ends_nothing_whatever_comes_after_it(stop, number, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for again in (number, number, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
        signal.raise_signal(again)
    assert stop.asked()


def test_what_may_end_at_once_does(stop):
    with pytest.raises(Stopped), stop.waiting(AT_ONCE):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")
    with pytest.raises(Stopped), stop.waiting(AT_ONCE):
        pytest.fail("a signal that came before was forgotten")


def test_what_does_not_come_is_given_up_after_its_grace(stop, monkeypatch):
    monkeypatch.setattr(stop_signal, "MOMENT", 0.05)
    signal.raise_signal(signal.SIGINT)
    with stop.waiting(GRACE):
        time.sleep(0.2)
    time.sleep(0.1)  # in a step nothing is given up
    assert not stop.gave_up
    since = time.monotonic()
    with pytest.raises(Stopped), stop.waiting(0.3):
        time.sleep(20)
    assert stop.gave_up and 0.3 <= time.monotonic() - since < 5


def test_a_process_that_leaves_by_another_one_s_signal_has_an_exit_code(stop):
    assert stop.received is None
    with pytest.raises(SystemExit) as ended:
        stop.leave("stopped", together=False)
    assert ended.value.code == 128 + signal.SIGTERM
