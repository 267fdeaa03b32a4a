"""What the time of a training step goes into."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segkd.runner.run_folder.metrics_file import PHASES

Instant = float | torch.Event


class Stopwatch:
    """Seconds by phase. On a GPU they are its own, between two events that are read later: nothing waits for it.

    Attributes:
        marks: (phase, start, end) of all that was measured since the last reading.
    """

    def __init__(self, device: torch.device | None = None):
        self.device = device if device is not None and device.type == "cuda" else None
        self.marks: list[tuple[str, Instant, Instant]] = []

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Adds what happens inside to a phase; phases are not nested."""
        start = self._now()
        yield
        self.marks.append((phase, start, self._now()))

    def _now(self) -> Instant:
        if self.device is None:
            return time.perf_counter()
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        return event

    def read(self) -> dict[str, float]:
        """The seconds since the last reading, in the order of PHASES; waits for a GPU to come to the last mark."""
        marks, self.marks = self.marks, []
        found = dict.fromkeys((phase for phase in PHASES if any(phase == mark[0] for mark in marks)), 0.0)
        for phase, start, end in marks:
            if isinstance(start, float):  # by the clock, as data and scoring are on a GPU too
                found[phase] += end - start
            else:
                end.synchronize()
                found[phase] += start.elapsed_time(end) / 1000
        return found
