"""The commands as functions, for notebooks and scripts: the same code and the same words, errors as exceptions.

from segkd.runner import api

run = api.distill("quickstart", {"schedule.iterations": 100}, name="first")
print(run.miou, run.report)
labels = api.predict(run, ["street.png", "square.jpg"])
"""

import argparse
import contextlib
import gc
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from segkd.datasets._files import read_image
from segkd.datasets._images import as_rgb
from segkd.runner import distill as distill_command
from segkd.runner import export as export_command
from segkd.runner import predict as predict_command
from segkd.runner import score as score_command
from segkd.runner.building import delivered
from segkd.runner.building.device import find_device
from segkd.runner.command import end_loading, told, understood
from segkd.runner.display import display
from segkd.runner.predicting.image_files import Picture
from segkd.runner.process import in_main_thread
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.text_file import read_text
from segkd.runner.recipe.yaml_file import one_line
from segkd.runner.recipes import find_recipe
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import plain
from segkd.runner.run_folder.pretrained import find_student, from_pretrained
from segkd.runner.training.stop_signal import REQUESTS, SIGNALS


@dataclass(frozen=True)
class Run(os.PathLike):
    """A run, by its folder; every function here takes it in place of the folder's path."""

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def recipe(self) -> Recipe:
        """What was trained, every default filled in."""
        return RunFolder(self.folder).read_recipe()

    @property
    def rows(self) -> list[dict]:
        """The log, one row an iteration: each term's loss, the rate and, where it was scored, the scores."""
        return RunFolder(self.folder).read_rows()

    @property
    def summary(self) -> dict:
        """The closing numbers: scores, training time, parameters, operations and speed of the student."""
        return RunFolder(self.folder).read_summary()

    @property
    def miou(self) -> float:
        """Mean IoU of the delivered student on the validation images, between 0 and 1."""
        return self.summary["miou"]

    @property
    def report(self) -> str:
        """Closing table, curves and classes, as Markdown."""
        return read_text(RunFolder(self.folder).report_file)

    @property
    def pictures(self) -> list[Path]:
        """The panels of the last evaluation: image | label | teacher | student | error."""
        return RunFolder(self.folder).last_panels()

    def network(self, name: str = "student") -> nn.Module:
        """A network of the run as it was delivered, such as its teacher."""
        found = delivered.find(str(self.folder), name)
        found.network.resize = found.config.get("resize")
        return found.network


def distill(
    recipe: str | Path | dict,
    values: Mapping[str, object] | None = None,
    /,
    *,
    resume: bool = False,
    overwrite: bool = False,
    trust_checkpoint: bool = False,
    **more: object,
) -> Run:
    """Trains a recipe, and before it the teachers and baselines that it names and that have not run yet.

    Ctrl-C saves before it is raised, and `resume` goes on.

    Args:
        recipe: a path, an address, a name in `recipes.py ls`, or a mapping of what would stand in the file; the paths
            in a mapping count from the working directory.
        values: that change it, by their path: {"schedule.iterations": 100, "losses.kl.weight": 2.0}. `more` are the
            same with two underscores for a dot: schedule__iterations=100.
        resume, overwrite, trust_checkpoint: as for distill.py.

    Raises:
        RecipeError: with all the mistakes in the recipe. ValueError, OSError, FloatingPointError: what distill.py tells.
    """
    if not in_main_thread():
        raise ValueError("a training obeys Ctrl-C, which Python gives to the main thread alone; start it there")
    with _put_back():
        changes = {**(values or {}), **{key.replace("__", "."): value for key, value in more.items()}}
        source = recipe if isinstance(recipe, dict) else find_recipe(str(recipe))
        found = read(source, _assignments(changes), trust_checkpoint=trust_checkpoint)
        distill_command.distill([found], resume=resume, overwrite=overwrite)
        return Run(found.folder)


def score(
    source: str | Path | Run,
    values: Mapping[str, object] | None = None,
    *,
    network: str = "student",
    weights: str | Path | None = None,
    layout: str | None = None,
    part: str | None = None,
    metrics: Sequence[str] = (),
) -> dict:
    """The scores of a network of a run or of a recipe on its validation split: `miou`, `iou_per_class` and others.

    Args:
        values: that change the recipe: {"evaluate.protocol": "mmseg", "data.val_split": "test"}.
        network, weights, layout, part, metrics: as for score.py.
    """
    path = os.fspath(source)
    path = path if RunFolder.around(Path(path)) else find_recipe(path)
    words = [path, *_assignments(values or {}), f"--network={network}"]
    for option, value in {"weights": weights, "layout": layout, "part": part}.items():
        words += [] if value is None else [f"--{option}={os.fspath(value)}"]
    words += ["--metrics", *([metrics] if isinstance(metrics, str) else metrics)] if metrics else []
    with _put_back():
        return plain(score_command.score(*score_command.ask(words)).values)


def predict(
    network: str | Path | Run | nn.Module,
    images: Iterable[str | Path | Image.Image | np.ndarray],
    *,
    native: bool = False,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
) -> list[np.ndarray]:
    """The classes of images of any sizes, each (H, W) uint8.

    Args:
        network: a run, a run folder, a student folder, a Hub id, or what `load` gives, which is read once.
        images: files, Pillow's images or (H, W, 3) uint8 RGB arrays.
        native: images keep their size even where the network was trained on resized ones.
        window, stride: height and width of sliding windows; default: whole images.
        scales, flip: as for predict.py.
    """
    network = network if isinstance(network, nn.Module) else load(network)
    if not getattr(network, "gives_logits", False):
        raise ValueError(
            f"{type(network).__name__} is no network of segkd's with a head; give a run, or what `load` gives"
        )
    if network.num_classes > 256:
        raise ValueError(f"{network.num_classes} classes do not fit into arrays of 8 bits; call the network itself")
    if stride is not None and window is None:
        raise ValueError("stride is that of sliding windows; give window, too")
    device = find_device()
    options = argparse.Namespace(
        resize=None if native else getattr(network, "resize", None),
        mode="slide" if window else "whole",
        window=window,
        stride=stride,
        scales=scales,
        flip=flip,
        precision="fp32",
    )
    predict_command.refuse_idle_window(window, options.resize)
    network.to(device).eval()
    with _put_back():
        found = (_pixels(image) for image in ([images] if isinstance(images, (str, Path, Image.Image)) else images))
        scores = (
            predict_command.class_scores(network, [Picture("", one)], options, device, classes=True) for one in found
        )
        return [labels[0].to("cpu").numpy().astype(np.uint8) for labels in scores]


def load(source: str | Path | Run) -> nn.Module:
    """The delivered network of a run folder, a student folder or a Hub id (run_folder/pretrained.py).

    Its attribute `resize` is the height and width that it was trained to see images at, or None.
    """
    student = find_student(os.fspath(source))
    network = from_pretrained(student.path)
    network.resize = student.read_config().get("resize")
    return network


def export(
    source: str | Path | Run,
    to: str,
    *,
    output: str | Path | None = None,
    network: str = "student",
    input_size: tuple[int, int] | None = None,
    fixed_size: bool = False,
    keys_only: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes a delivered network for others, compared with it, and gives the path; the arguments are export.py's."""
    words = [os.fspath(source), f"--to={to}", f"--network={network}"]
    words += [] if output is None else [f"--output={os.fspath(output)}"]
    words += [] if input_size is None else ["--input-size", *map(str, input_size)]
    words += ["--fixed-size"] * fixed_size + ["--keys-only"] * keys_only
    words += ["--overwrite"] * overwrite
    with _put_back():
        return export_command.export_network(export_command.ask(words))


def _assignments(values: Mapping[str, object]) -> list[str]:
    """Values by their path as a command line would say them."""
    return [f"{key}={one_line(value)}" for key, value in values.items()]


def _pixels(image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright. ValueError for an array of another kind."""
    if isinstance(image, (str, Path)):
        return np.asarray(read_image(os.fspath(image)))
    if isinstance(image, Image.Image):
        return np.asarray(as_rgb(image))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"images are files, Pillow's or (H, W, 3) uint8 arrays; got {pixels.dtype} {pixels.shape}")
    return pixels


@contextlib.contextmanager
def _put_back() -> Iterator[None]:
    """Puts back what commands leave to the end of their process, and raises what they end it with."""
    # only the main thread of a process has to do with signals
    mine = (*SIGNALS, *REQUESTS, signal.SIGALRM) if in_main_thread() else ()
    before = {number: signal.getsignal(number) for number in mine}
    try:
        yield
    except BaseException as error:
        display.close()
        end_loading(error)
        gc.collect()
        if isinstance(error, SystemExit) and error.code == 2:  # argparse's, which has said what it is
            raise ValueError("an argument is none that the command takes; the last line printed says which") from None
        if isinstance(error, SystemExit):  # a training that was asked to stop
            raise KeyboardInterrupt from None
        if not isinstance(error, Exception):
            raise
        meant = understood(error)
        words = told(meant)
        raise meant if words == str(meant) else type(meant)(words) from None
    finally:
        if before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
