"""metrics.jsonl: one JSON line for every iteration of a run, whatever else is tracked, through kills and resumes."""

import json
import logging
import math
import os
from pathlib import Path

from segkd.runner.run_folder.replacing import replacing

# what the time of a step goes into, in its order; the backward pass is of students and losses together
PHASES = ("data", "teacher", "student", "losses", "backward", "optimizer", "scoring")

logger = logging.getLogger(__name__)


def append_rows(file: Path, rows: list[dict]) -> None:
    """Adds one JSON line a row; on the disk when it returns, so that a checkpoint never knows more than the log."""
    with file.open("a") as lines:
        lines.write("".join(json.dumps(plain(row)) + "\n" for row in rows))
        lines.flush()
        os.fsync(lines.fileno())


def plain(value):
    """The value without NaN and infinity, which JSON does not know: null stands for them."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_rows(file: Path) -> list[dict]:
    """The rows of a metrics file. Lines that are none, such as a last one cut off by a kill, are left out and told."""
    rows, wrong = [], []
    for number, line in enumerate(file.read_bytes().splitlines() if file.is_file() else [], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or no text at all
            row = None
        if _is_a_row(row):
            rows.append(row)
        else:
            wrong.append(number)
    if wrong:
        logger.info("%s: %d lines are no rows and are left out, first line %d", file, len(wrong), wrong[0])
    return rows


def _is_a_row(row: object) -> bool:
    """Whether this is an iteration with its numbers, of which some may not be known, and lists of them."""
    if not isinstance(row, dict) or not isinstance(row.get("iteration"), int):
        return False
    return all(value is None or isinstance(value, (int, float, list)) for value in row.values())


def training_times(rows: list[dict], batch_size: int) -> dict[int, float]:
    """Iteration -> seconds that the iterations until then took, from the speeds noted at each write.

    Evaluations and saves are not in them.
    """
    times, total, last = {}, 0.0, 0
    for row in rows:
        if row.get("images_per_second"):
            total += (row["iteration"] - last) * batch_size / row["images_per_second"]
            last = row["iteration"]
            times[last] = total
    return times


def training_seconds(rows: list[dict], batch_size: int) -> float:
    """Seconds that all iterations took."""
    return max(training_times(rows, batch_size).values(), default=0.0)


def phase_seconds(rows: list[dict]) -> dict[str, float]:
    """Phase -> its mean seconds in an iteration, `scoring` -> the mean of an evaluation.

    Empty for a log without them. A phase that is missing at some writes, such as a teacher that is read later only,
    took no time in their iterations.
    """
    sums: dict[str, float] = {}
    steps, evaluations, last = 0, 0, 0
    for row in rows:
        if "images_per_second" not in row:
            continue
        found = {key.removeprefix("seconds/"): value for key, value in row.items() if key.startswith("seconds/")}
        length, last = row["iteration"] - last, row["iteration"]
        steps += length if found else 0
        evaluations += "scoring" in found
        for phase, seconds in found.items():
            sums[phase] = sums.get(phase, 0.0) + seconds * (1 if phase == "scoring" else length)
    counts = {phase: evaluations if phase == "scoring" else steps for phase in PHASES}
    return {phase: sums[phase] / count for phase, count in counts.items() if phase in sums}


def complete_last_row(file: Path, values: dict) -> None:
    """Adds values to the last row."""
    *rows, last = read_rows(file)
    with replacing(file) as new:
        append_rows(new, [*rows, last | values])


def keep_rows(file: Path, iteration: int) -> None:
    """Drops the rows after `iteration`, which a resume is about to compute again."""
    rows = [row for row in read_rows(file) if row["iteration"] <= iteration]
    with replacing(file) as new:
        append_rows(new, rows)
