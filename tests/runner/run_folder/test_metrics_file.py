"""metrics.jsonl through kills and resumes."""

import json

import pytest

from segkd.runner.run_folder.metrics_file import (
    append_rows,
    keep_rows,
    phase_seconds,
    plain,
    read_rows,
    training_seconds,
    training_times,
)


def test_rows_come_back_in_order(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert read_rows(file) == []
    rows = [{"iteration": i, "lr": 0.1 / i, "loss/kl": 1e-30, "names": ["a", "b"]} for i in range(1, 6)]
    append_rows(file, rows[:2])
    append_rows(file, rows[2:])
    append_rows(file, [])
    assert read_rows(file) == rows
    assert len(file.read_text().splitlines()) == 5


def test_json_knows_no_infinity(tmp_path):
    nan, infinity = float("nan"), float("inf")
    assert plain({"a": nan, "b": [1.0, -infinity, {"c": infinity}], "d": "nan", "e": 3, "f": None, "g": True}) == {
        "a": None, "b": [1.0, None, {"c": None}], "d": "nan", "e": 3, "f": None, "g": True
    }  # fmt: skip
    append_rows(tmp_path / "a.jsonl", [{"iteration": 1, "iou_per_class": [0.5, nan]}])
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"iteration": 1, "iou_per_class": [0.5, None]}


def test_wherever_a_kill_cuts_the_file_a_resume_mends_it(tmp_path):
    file = tmp_path / "metrics.jsonl"
    rows = [{"iteration": i, "a": 0.5} for i in range(1, 4)]
    append_rows(file, rows)
    whole = file.read_bytes()
    line_ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        # a line counts when all of it is there, with or without its end
        complete = sum(end - 1 <= cut for end in line_ends)
        assert read_rows(file) == rows[:complete]
        keep_rows(file, 2)
        append_rows(file, rows[min(complete, 2) :])
        assert file.read_bytes() == whole


@pytest.mark.parametrize("bad", [b"", b"{", b"null", b"[1]", b'{"iteration": "2"}', b"\xff\xfe", b"0" * 99])
def test_a_bad_line_costs_itself_alone(tmp_path, bad, caplog):
    file, rows = tmp_path / "metrics.jsonl", [{"iteration": i} for i in range(1, 6)]
    append_rows(file, rows)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], bad + b"\n", *lines[2:]]))
    with caplog.at_level("INFO"):
        assert read_rows(file) == rows
    assert f"{file}: 1 lines are no rows and are left out, first line 3" in caplog.text
    keep_rows(file, 4)
    assert read_rows(file) == rows[:4]


def test_keep_rows_drops_what_is_computed_again(tmp_path):
    file = tmp_path / "metrics.jsonl"
    keep_rows(file, 0)
    assert file.read_text() == ""
    append_rows(file, [{"iteration": i} for i in range(1, 8)])
    keep_rows(file, 5)
    assert [row["iteration"] for row in read_rows(file)] == [1, 2, 3, 4, 5]
    keep_rows(file, 3)
    assert [row["iteration"] for row in read_rows(file)] == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_seconds_are_added_up_over_the_writes():
    rows = [{"iteration": iteration} for iteration in range(1, 11)]
    rows[3] |= {"images_per_second": 8.0, "seconds/student": 0.1, "seconds/scoring": 3.0}  # 0.5 s an iteration
    rows[5] |= {"images_per_second": 4.0, "seconds/teacher": 0.4, "seconds/student": 0.3}
    rows[9] |= {"images_per_second": 2.0, "seconds/student": 0.2, "seconds/scoring": 5.0}
    assert training_times(rows, 4) == {4: 2.0, 6: 4.0, 10: 12.0} and training_seconds(rows, 4) == 12.0
    found = phase_seconds(rows)
    assert list(found) == ["teacher", "student", "scoring"]
    assert found == pytest.approx({"teacher": 0.4 * 2 / 10, "student": (0.4 + 0.6 + 0.8) / 10, "scoring": 4.0})


def test_an_older_log_tells_no_phases():
    rows = [{"iteration": 5, "images_per_second": 10.0}, {"iteration": 6}]
    assert phase_seconds(rows) == {} == phase_seconds([]) and training_seconds([], 4) == 0.0
    # resumed by newer code: the mean is over the iterations that were measured
    rows += [{"iteration": 10, "images_per_second": 10.0, "seconds/student": 0.5}]
    assert phase_seconds(rows) == {"student": 0.5} and training_times(rows, 2) == {5: 1.0, 10: 2.0}
