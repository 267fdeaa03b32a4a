"""The time of a step by what it goes into."""

import time

from segkd.runner.building.stopwatch import Stopwatch


def test_seconds_by_phase_since_the_last_reading():
    watch = Stopwatch()
    for phase, seconds in (("losses", 0.01), ("teacher", 0.02), ("losses", 0.01)):
        with watch.measure(phase):
            time.sleep(seconds)
    watch.marks.append(("data", 1.0, 1.5))
    found = watch.read()
    assert list(found) == ["data", "teacher", "losses"], "in the order of a step, those alone that were measured"
    assert found["data"] == 0.5 and found["teacher"] >= 0.02 and found["losses"] >= 0.02
    assert watch.read() == {}


def test_marks_of_a_gpu_beside_those_of_the_clock():
    """The last mark before a reading may be of either kind: an evaluation is timed by the clock."""

    class Event:
        done = False

        def synchronize(self):
            self.done = True

        def elapsed_time(self, end):
            assert end.done
            return 250.0  # milliseconds

    watch = Stopwatch()
    watch.marks += [("teacher", Event(), Event()), ("scoring", 1.0, 3.0)]
    assert watch.read() == {"teacher": 0.25, "scoring": 2.0}
