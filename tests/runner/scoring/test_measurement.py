"""What is measured of networks, and which of them are on the front."""

import pytest

from segkd.runner.scoring.measurement import Measurement, draw, measure, on_the_front


def of(name, median, miou):
    return Measurement(name, "torch on cpu", miou, 10, 20, 30, None, median, median)


def test_the_front_is_what_nobody_beats():
    fast, slow, good, equal = of("fast", 1, 0.3), of("slow", 4, 0.3), of("good", 4, 0.5), of("equal", 1, 0.3)
    worse, unscored = of("worse", 2, 0.2), of("unscored", 0.1, None)
    assert on_the_front([slow, good, unscored, worse, fast, equal]) == [fast, equal, good]


def test_a_student_folder_is_measured(deliver, tmp_path):
    student = deliver(tmp_path / "lone", ["sky", "road"], miou=0.25)
    (one,), size = measure([str(student)], (32, 48), "cpu", 2)
    assert size == (32, 48) and one.miou == 0.25 and one.flops > 0 and one.parameters > 10**5
    assert one.bytes == (student / "model.safetensors").stat().st_size and 0 < one.median <= one.p95


def test_the_picture_needs_a_score(tmp_path):
    assert draw([of("a", 1, 0.2), of("b", 2, 0.4)], tmp_path / "front.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="score exported files with score.py"):
        draw([of("a", 1, None)], tmp_path / "none.png")
