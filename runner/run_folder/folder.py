"""The folder of a run: what lies where in it, and how far the run has come. No other file knows these names."""

import shutil
from pathlib import Path

import numpy as np

from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.student_folder import CHECKPOINT_FILE, CHECKPOINTS, StudentFolder
from segkd.runner.recipe.text_file import read_json
from segkd.runner.run_folder.metrics_file import read_rows


class Checkpoint:
    """One checkpoint."""

    def __init__(self, path: Path):
        self.path = path
        self.weights_file = path / CHECKPOINT_FILE  # the network that is scored and delivered
        self.state_file = path / "training_state" / "state.pt"  # networks, losses, optimizers and progress
        self.images_file = path / "images.npz"  # counts of each validation image, where it was scored
        self.checksums_file = path / "checksums.json"  # of the files above


class RunFolder:
    """A run: begun once its recipe is written, finished once it has delivered its student, which comes last.

    One that was stopped may be delivered, too; it is not finished, and can be gone on with.
    """

    def __init__(self, path: Path | str):
        self.path = path = Path(path)
        self.recipe_file = path / "recipe.yaml"  # resolved
        # packages and command of the latest start, all devices and commits
        self.environment_file = path / "environment.json"
        self.metrics_file = path / "metrics.jsonl"  # one line an iteration
        self.teachers_file = path / "teachers.json"  # scores of the frozen networks
        self.checkpoints = path / CHECKPOINTS  # step-<iteration>/, and the links `last` and `best`
        self.student = StudentFolder.of_run(path)
        self.images_file = path / "images.npz"  # counts of each validation image for the delivered student
        self.summary_file = path / "summary.json"  # what comparisons read
        self.report_file = path / "report.md"
        self.curves_file = path / "curves.png"
        self.page_file = path / "report.html"
        self.nan_file = path / "nan.json"  # the iteration whose loss was not finite, and its samples
        self.wandb_id_file = path / "wandb-id"  # the wandb run to go on with
        self.claims = path / "claim"  # who trains in it: 1, 2, ... while it is not finished
        self.exports = path / "export"  # what export.py writes unless told where

    @classmethod
    def around(cls, path: Path) -> "RunFolder | None":
        """The run that a run folder or its student folder belongs to; None for any other folder."""
        folders = (path, path.parent) if path.name == "student" else (path,)
        return next((run for run in map(cls, folders) if run.is_begun), None)

    @classmethod
    def enclosing(cls, path: Path) -> "RunFolder | None":
        """The run that a path lies in, whatever links lead there; None outside of all runs, and for a run folder."""
        runs = (cls(above) for above in path.resolve().parents)
        # beside recipe.yaml: a folder to work in may have a recipe of this name, too
        return next((run for run in runs if run.is_begun and run.environment_file.is_file()), None)

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """What a training fills, and nobody else."""
        return self.checkpoints, self.student.path, self.path / "panels", self.path / "wandb"

    @property
    def own_files(self) -> tuple[Path, ...]:
        """What a training writes beside them, and nobody else; the recipe last: a folder without one is no run."""
        files = (self.environment_file, self.metrics_file, self.teachers_file, self.images_file, self.summary_file)
        files += (self.report_file, self.curves_file, self.page_file, self.nan_file, self.wandb_id_file)
        return *files, self.recipe_file

    @property
    def is_begun(self) -> bool:
        """Whether a run was ever started here."""
        return self.recipe_file.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return self.student.is_complete and not self.student.is_unfinished

    @property
    def has_progress(self) -> bool:
        """Whether the run has left more than a log: a checkpoint, or what it has delivered.

        Behind a link that leads nowhere checkpoints may be, on a disk that is missing.
        """
        is_missing = self.checkpoints.is_symlink() and not self.checkpoints.exists()
        return is_missing or bool(self.complete_checkpoints()) or self.student.config_file.is_file()

    @property
    def has_results(self) -> bool:
        """Whether what a comparison reads is here: the student was delivered, its weights may have been deleted."""
        return self.student.config_file.is_file() and self.summary_file.is_file()

    def remove_run(self) -> None:
        """Deletes what a training makes; all else that lies in the folder stays, the claim too."""
        for folder in self.own_folders:
            shutil.rmtree(folder, ignore_errors=True)
        for file in self.own_files:
            file.unlink(missing_ok=True)

    def checkpoint(self, iteration: int) -> Checkpoint:
        """The checkpoint of a finished iteration, whether it exists or not."""
        return Checkpoint(self.checkpoints / f"step-{iteration:08d}")

    def complete_checkpoints(self) -> list[Checkpoint]:
        """Those that exist, oldest first. A folder under its final name is complete."""
        return [Checkpoint(path) for path in sorted(self.checkpoints.glob("step-*")) if path.is_dir()]

    def panels(self, iteration: int) -> Path:
        """The folder for an evaluation's pictures."""
        return self.path / "panels" / f"step-{iteration:08d}"

    def last_panels(self) -> list[Path]:
        """The pictures of the newest evaluation that made some."""
        folders = sorted((self.path / "panels").glob("step-*"))
        return sorted(folders[-1].glob("*.png")) if folders else []

    def tile_folders(self) -> dict[str, dict[int, Path]]:
        """Image -> iteration -> the folder of its tiles, of all evaluations."""
        found: dict[str, dict[int, Path]] = {}
        for folder in sorted((self.path / "panels").glob("step-*/tiles/*")):
            iteration = int(folder.parent.parent.name.removeprefix("step-"))
            found.setdefault(folder.name, {})[iteration] = folder
        return found

    def read_recipe(self) -> Recipe:
        """The recipe the run was made by."""
        try:
            return read(self.recipe_file, resolved=True)
        except ValueError as error:
            raise ValueError(
                f"{self.recipe_file}, by which this run was made, cannot be read any more: {error}\nPut it back as it "
                f"was, or start over with distill.py --overwrite"
            ) from None

    def read_rows(self) -> list[dict]:
        """The log, one row an iteration."""
        return read_rows(self.metrics_file)

    def read_summary(self) -> dict:
        """The closing numbers, `miou` or, where that judges, `held_out_loss` among them. ValueError: a damaged file."""
        judged = "held_out_loss" if "held_out_loss" in read_json(self.summary_file) else "miou"
        return read_json(self.summary_file, {judged: (int, float)})

    def read_teachers(self) -> dict[str, dict]:
        """The scores of each frozen network; empty where none was scored. ValueError where the file is damaged."""
        if not self.teachers_file.is_file():
            return {}
        scores = read_json(self.teachers_file)
        for name, one in scores.items():
            if not isinstance(one, dict) or not isinstance(one.get("miou", ""), (int, float, type(None))):
                raise ValueError(
                    f"{self.teachers_file} has no miou of {name}; delete the file, and a training with --resume makes "
                    f"it again"
                )
        return scores

    def read_device(self) -> str:
        """What the run computed on, each device of a run that was moved. ValueError where the file is damaged."""
        return read_json(self.environment_file, {"device": str})["device"]

    def read_code(self) -> str | None:
        """The commit of the code, each one of a run that was resumed with another; None where it was not known."""
        told = read_json(self.environment_file).get("git")
        return told if isinstance(told, str) else None

    def read_images(self) -> tuple[list[str], np.ndarray]:
        """Names of the validation images, and the counts of each."""
        return read_images(self.images_file)

    def read_counts(self) -> dict[str, np.ndarray]:
        """What was counted for the delivered student."""
        return read_counts(self.images_file)


def read_images(file: Path) -> tuple[list[str], np.ndarray]:
    """Names of N images, and the (N, K, 3) counts of each (scoring/evaluation.py). Raises as `read_counts`."""
    arrays = read_counts(file)
    return arrays["names"].tolist(), arrays["counts"]


def read_counts(file: Path) -> dict[str, np.ndarray]:
    """`names` and `counts` of images, and the (K, K) `matrix` of the split, which older files have not.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is damaged.
    """
    try:
        with np.load(file) as arrays:
            found = dict(arrays)
            names, counts = found["names"], found["counts"]
    except FileNotFoundError:
        raise
    except Exception as error:  # BadZipFile, KeyError, zlib.error, EOFError, ...
        raise ValueError(f"{file} is damaged ({error})") from None
    if counts.shape[:1] + counts.shape[2:] != (len(names), 3):
        raise ValueError(f"{file} is damaged: {len(names)} images, counts {counts.shape}")
    return found


def tile_folder(panels: Path, name: str) -> Path:
    """The folder for the tiles of an image, beside an evaluation's pictures."""
    return panels / "tiles" / name


def tile_file(folder: Path, title: str) -> Path:
    """The file of a tile: photographs are JPEG, labels and errors PNG, whose pixels are class ids."""
    return folder / f"{title}.{'jpg' if title == 'image' else 'png'}"


def refuse_inside_a_run(path: Path) -> None:
    """ValueError for a place to write to that belongs to a run's training, where its files would be mixed with others.

    What is written about a run may lie beside them, as export/ does.
    """
    run = RunFolder.enclosing(path / "_")
    if run is not None and any(path.resolve().is_relative_to(own) for own in (*run.own_folders, *run.own_files)):
        raise ValueError(f"{path} belongs to the run {run.path}, which keeps its own files there; name another place")
