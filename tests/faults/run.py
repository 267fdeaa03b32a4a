"""The long form: `python tests/faults/run.py [--seed N] [--only recipes,images] [--count N] [--number K]`.

Prints what was tried and what came of it as a Markdown table, and ends with 1 if anything did that must not be.
tests/faults/attempts.py:Finding says what the columns mean, the head of each subject's file how it is judged.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
import types
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != HERE.resolve()]
sys.modules["faults"] = types.ModuleType("faults")  # these files call each other so, as tests/conftest.py lets them
sys.modules["faults"].__path__ = [str(HERE)]

# of this process, those it forks and those it starts alike: other numbers of threads give other last bits
os.environ["OMP_NUM_THREADS"] = "1"

from faults import annotations, checkpoints, disks, images, kills, processes, recipes, searches, sweeps, weights
from faults.tally import table, try_all

SUBJECTS = {"recipes": (recipes, 300), "images": (images, 250), "annotations": (annotations, 200), "weights": (weights, 200),
            "checkpoints": (checkpoints, 120), "kills": (kills, 16), "disks": (disks, 24),
            "processes": (processes, 20), "sweeps": (sweeps, 40), "searches": (searches, 40)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other cases of the same kinds")
    parser.add_argument("--only", default=",".join(SUBJECTS), help=f"some of {', '.join(SUBJECTS)}")
    parser.add_argument("--count", type=int, help="cases of each subject, instead of its own number")
    parser.add_argument("--number", type=int, help="one case of each subject alone, by its number")
    options = parser.parse_args()
    counts: dict[str, Counter] = {}
    failed = 0
    for subject in options.only.split(","):
        module, count = SUBJECTS[subject]
        since = time.monotonic()
        cases = module.cases(options.seed, options.count or count)
        if options.number is not None:
            cases = itertools.islice(cases, options.number, options.number + 1)
        found, bad = try_all(cases, Path(tempfile.mkdtemp(prefix=subject)))
        counts |= found
        failed += len(bad)
        print(f"{subject}: {time.monotonic() - since:.0f} s", file=sys.stderr, flush=True)
    print(f"\nseed {options.seed}\n\n{table(counts)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
