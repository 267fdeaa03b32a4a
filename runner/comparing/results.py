"""What a comparison reads of runs, without weights and pictures: small enough to be passed on."""

import json
import shutil
from pathlib import Path

from segkd.runner.comparing.finished_runs import FinishedRun, common_folder, runs_below
from segkd.runner.console import some
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import PHASES, append_rows
from segkd.runner.run_folder.replacing import replacing, write_text

SHOWN = 5  # runs that are named where they are in the way


def keep_results(runs: list[FinishedRun], folder: Path) -> None:
    """Copies into a folder what `compare.py` reads of each training, about 20 kB, over its results of before.

    Runs lie there as they lie in the deepest folder around all of them. Left out are weights, checkpoints, pictures,
    the command, what the log has of losses, and exported files.

    Raises:
        ValueError: something else than results lies where results would, or other runs lie in the folder: those of
            before would be compared with these.
    """
    trained, around = [run for run in runs if not run.program], common_folder(runs).resolve()
    kept = [folder / run.folder.resolve().relative_to(around) for run in trained]
    for path in kept:
        if path.exists() and not _holds_results(path):
            raise ValueError(f"{path} holds more than results, in whose place they would come; name another folder")
    written = {path.resolve() for path in kept}
    others = [str(run.path) for run in runs_below(folder) if run.path.resolve() not in written]
    if others:
        raise ValueError(
            f"{folder} holds {some(others, SHOWN)}, which this comparison does not have, and whoever compares "
            f"the folder would find them beside it; delete them, or name another folder"
        )
    for run, path in zip(trained, kept):
        with replacing(path, folder=True) as new:
            _copy(RunFolder(run.folder), RunFolder(new))


def _holds_results(folder: Path) -> bool:
    """Whether a folder is what `keep_results` leaves, and nothing else."""
    kept = RunFolder(folder)
    files = {*_copied(kept), kept.environment_file, kept.metrics_file}
    return kept.summary_file.is_file() and all(one in files or one == kept.student.path for one in folder.rglob("*"))


def _copied(run: RunFolder) -> tuple[Path, ...]:
    return run.recipe_file, run.summary_file, run.images_file, run.student.config_file, run.teachers_file


def _copy(run: RunFolder, kept: RunFolder) -> None:
    kept.student.path.mkdir()
    for file in _copied(run):
        if file.is_file():
            shutil.copyfile(file, kept.path / file.relative_to(run.path))
    environment = json.loads(run.environment_file.read_text())
    environment.pop("command", None)  # it names folders of the machine
    write_text(kept.environment_file, json.dumps(environment, indent=2) + "\n")
    read = ("iteration", "miou", "images_per_second", *(f"seconds/{phase}" for phase in PHASES))
    rows = [{key: row[key] for key in read if key in row} for row in run.read_rows()]
    append_rows(kept.metrics_file, [row for row in rows if len(row) > 1])
