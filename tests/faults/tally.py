"""Cases tried one after another, what came of them counted, and the counts as a table."""

import shutil
import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from faults.attempts import Case, Finding

COLUMNS = {"fine": "fine", "refused": "refused with a sentence", "hang": "hangs", "traceback": "tracebacks",
           "nonsense": "silent nonsense", "lost": "lost checkpoints", "code": "code run"}  # fmt: skip
BAD = tuple(COLUMNS)[2:]


def try_all(cases: Iterable[Case], folder: Path) -> tuple[dict[str, Counter], list[tuple[Case, Finding]]]:
    """Runs every case in a folder of its own: findings by situation, and the bad ones, whose folders are kept."""
    counts: dict[str, Counter] = {}
    bad = []
    for number, case in enumerate(cases):
        place = folder / str(number)
        place.mkdir()
        try:
            finding = case.run(place)
        except Exception:  # of the judge, not of what is judged; it must not pass for anything
            finding = Finding("traceback", f"the case itself failed\n{traceback.format_exc()}")
        counts.setdefault(case.situation, Counter())[finding.kind] += finding.times
        if finding.kind in BAD:
            bad.append((case, finding))
            print(
                f"\n{finding.kind}: {case.situation}, number {number} ({place}): {case.name}\n{finding.text}",
                flush=True,
            )
        else:
            shutil.rmtree(place, ignore_errors=True)
    return counts, bad


def table(counts: dict[str, Counter]) -> str:
    """The counts by situation as a Markdown table."""
    rows = [["situation", "tried", *COLUMNS.values()], ["---"] * (2 + len(COLUMNS))]
    total = sum(counts.values(), Counter())
    for situation, found in [*counts.items(), ("all", total)]:
        rows.append([situation, str(found.total()), *(str(found[kind]) for kind in COLUMNS)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
