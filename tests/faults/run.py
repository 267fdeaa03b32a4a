"""The long form: `python tests/faults/run.py [--seed N] [--only recipes,images] [--count N]`.

Prints what was tried and what came of it as a Markdown table, and ends with 1 if anything did that must not be.
tests/faults/attempts.py:Finding says what the columns mean, the head of each subject's file how it is judged.
"""

import argparse
import gc
import shutil
import sys
import tempfile
import time
import traceback
import types
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != HERE.resolve()]
sys.modules["faults"] = types.ModuleType("faults")  # these files call each other so, as tests/conftest.py lets them
sys.modules["faults"].__path__ = [str(HERE)]

import torch
from faults import checkpoints, disks, images, kills, processes, recipes, weights
from faults.attempts import Case, Finding

COLUMNS = {"fine": "fine", "refused": "refused with a sentence", "hang": "hangs", "traceback": "tracebacks",
           "nonsense": "silent nonsense", "lost": "lost checkpoints", "code": "code run"}  # fmt: skip
BAD = tuple(COLUMNS)[2:]
SUBJECTS = {"recipes": (recipes, 300), "images": (images, 250), "weights": (weights, 150),
            "checkpoints": (checkpoints, 120), "kills": (kills, 16), "disks": (disks, 24),
            "processes": (processes, 20)}  # fmt: skip


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
            print(f"\n{finding.kind}: {case.situation}, number {number} ({place}): {case.name}\n{finding.text}", flush=True)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other cases of the same kinds")
    parser.add_argument("--only", default=",".join(SUBJECTS), help=f"some of {', '.join(SUBJECTS)}")
    parser.add_argument("--count", type=int, help="cases of each subject, instead of its own number")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # collections in the forks leave alone what was imported here
    counts: dict[str, Counter] = {}
    failed = 0
    for subject in options.only.split(","):
        module, count = SUBJECTS[subject]
        since = time.monotonic()
        found, bad = try_all(module.cases(options.seed, options.count or count), Path(tempfile.mkdtemp(prefix=subject)))
        counts |= found
        failed += len(bad)
        print(f"{subject}: {time.monotonic() - since:.0f} s", file=sys.stderr, flush=True)
    print(f"\nseed {options.seed}\n\n{table(counts)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
