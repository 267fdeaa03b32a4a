"""The short form of tests/faults/run.py: a few cases of each subject, the same ones every time."""

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from faults import annotations, checkpoints, disks, images, kills, processes, recipes, searches, sweeps, weights
from faults.attempts import Case
from faults.tally import try_all

SEED = 0


def assert_all_right(cases: Iterable[Case], folder: Path) -> None:
    """Every case of it ends well or with a sentence."""
    counts, bad = try_all(cases, folder)
    assert counts and not bad, "\n".join(f"{finding.kind}: {case.name}\n{finding.text}" for case, finding in bad)


@pytest.mark.parametrize("subject, count", [(recipes, 40), (images, 30), (annotations, 12), (weights, 16),
                                            (checkpoints, 4)])  # fmt: skip
def test_damaged_files_are_refused_or_read_right(subject, count, tmp_path):
    assert_all_right(itertools.islice(subject.cases(SEED, count), count), tmp_path)


def test_a_run_killed_three_times_ends_as_if_undisturbed(tmp_path):
    # a seed whose kills all come in time: in a log's write, in a save, and at the start; loading processes outlive a
    # killed run by up to five seconds, which the long form waits for
    assert_all_right([kills.killed(random.Random(5), 3, "data.workers=0")], tmp_path)


def test_a_run_with_one_trouble_after_the_other_ends_as_if_undisturbed(tmp_path):
    troubles = {f"a loading process {name}": kills.TROUBLES[name] for name in ("killed", "stopped")}
    full = ("a small disk", "the run folder is read-only") if disks.may_mount() else ("a limit on the size of files",)
    troubles |= {name: disks.KINDS[name] for name in full}
    assert_all_right([kills.in_turn(troubles, random.Random(SEED))], tmp_path)


@pytest.mark.parametrize("kind", ["a second start with --overwrite", "a process killed"])
def test_processes(kind, tmp_path):
    assert_all_right([processes.KINDS[kind](kind, random.Random(SEED))], tmp_path)


def test_a_sweep_by_four_processes_of_which_some_are_killed_trains_each_run_once(tmp_path):
    case = sweeps.shared(random.Random(SEED), runs=8, signals=8, training=sweeps.stand_in)
    assert_all_right([case], tmp_path)


def test_a_search_by_three_processes_of_which_some_are_killed_tries_each_setting_once(tmp_path):
    assert_all_right([searches.shared(random.Random(SEED), signals=4)], tmp_path)
