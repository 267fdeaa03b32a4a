"""Compares runs: `python runner/compare.py RUN [RUN ...] [--baseline METHOD_OR_RUN] [--output FOLDER] [--sort]
[--keep FOLDER]`.

A RUN is a run folder, a folder that holds some, a file exported from one that score.py has scored (a row of its own,
such as "student, INT8", beside its run), or a pattern of these. Runs that differ in nothing but their seed are one
row. What is kept of runs with --keep can be compared with others as they can.
"""

import argparse
from pathlib import Path

from segkd.runner.command import ask_early, new_parser, run_command


def ask() -> argparse.Namespace:
    """The options."""
    parser = new_parser("Compare runs.")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders, folders that hold some, exported files, patterns of them"
    )
    parser.add_argument(
        "--baseline",
        metavar="METHOD_OR_RUN",
        help="what gains are over (default: the runs with the same student that learn from no other network)",
    )
    parser.add_argument(
        "--output", type=Path, help="folder for report and tables (default: comparison/ beside the runs)"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copies results there, without weights, to pass on")
    parser.add_argument("--sort", action="store_true", help="the best mIoU first")
    parser.add_argument("--skip-unfinished", action="store_true", help="leave out runs that have not come to their end")
    return parser.parse_args()


ask = ask_early(ask, __name__)  # before the imports that take time

from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import common_folder, find_runs, missing_runs
from segkd.runner.comparing.results import keep_results
from segkd.runner.comparing.tables import write_comparison
from segkd.runner.console import counted, say
from segkd.runner.run_folder.folder import refuse_inside_a_run


def main() -> None:
    options = ask()
    if options.output:
        refuse_inside_a_run(options.output / "report.html")  # which a run has, too
    runs = find_runs(options.runs, skip_unfinished=options.skip_unfinished)
    missing = missing_runs((), options.runs) if options.skip_unfinished else ()
    folder = options.output or common_folder(runs) / "comparison"
    found = compare(runs, baseline=options.baseline, sort=options.sort, missing=missing)
    say(write_comparison(found, folder))
    if options.keep:
        keep_results(runs, options.keep)
    say(f"\n{counted(len(runs), 'run')}: {folder}/report.html, table.md, table.csv and pictures")


if __name__ == "__main__":
    run_command(main)
