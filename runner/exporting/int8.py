"""An INT8 file that loses no more than it may: what costs too much stays in float, found by what it does to scores."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from segkd.datasets._parts_of_a_set import Chosen
from segkd.models._int8 import Range
from segkd.runner.building.delivered import Delivered
from segkd.runner.building.device import start_accelerator
from segkd.runner.console import say
from segkd.runner.exporting.agreement import Export, Loss
from segkd.runner.exporting.programs import told_of, write_onnx
from segkd.runner.exporting.quantization import Quantizer, Sensitivity, seen_images
from segkd.runner.loading.data_sets import build_dataset, build_training_sets
from segkd.runner.recipe.optimization import Curve, Optimizer
from segkd.runner.recipe.program_file import KEY
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.opening import check_same_recipe, holds_nothing
from segkd.runner.scoring.evaluation import Evaluation, evaluate
from segkd.runner.scoring.program import OtherSize, load_program


@dataclass(frozen=True)
class Wish:
    """What is asked of an INT8 file.

    Attributes:
        images: of training, spread evenly over the split, that the ranges of activations are found on.
        calibration: how. symmetric: activations as int8 around zero, as TensorRT needs them, not as uint8.
        max_loss: most points of mIoU below the float file's. val_images: how many images that is measured on, None: all
    """

    images: int = 100
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    symmetric: bool = False
    max_loss: float = 1.0
    val_images: int | None = None


def train_in_int8(run: RunFolder, iterations: int) -> Path:
    """Goes on with a run as one of its own, `<name>-int8`, which resumes where it was stopped.

    It has the same losses and teachers; the student's layers compute as they do in INT8. The learning rate begins at a
    tenth of the recipe's, without a warm-up.

    Returns:
        The folder of that run.

    Raises:
        ValueError: it did not come to its end; what it said stands on the console.
    """
    recipe = run.read_recipe()
    args = {"pretrained": False, "backbone_weights": None}
    known = {key: value for key, value in args.items() if key in recipe.networks["student"].args}
    words = [
        f"name={recipe.name}-int8",
        f"networks.student.weights={run.path}",
        "networks.student.layout=null",
        "networks.student.part=null",
        "networks.student.int8=true",
        *(f"networks.student.args.{key}={json.dumps(value)}" for key, value in known.items()),
        f"schedule.iterations={iterations}",
        *_gentle("", recipe.optimizer, recipe.schedule),
        *_gentle("networks.student.", recipe.networks["student"].optimizer, recipe.networks["student"].schedule),
        f"evaluate.every={min(recipe.evaluate.every, iterations)}",
    ]
    goes_on = read(run.recipe_file, words)
    trained = RunFolder(goes_on.folder)
    if not holds_nothing(trained):
        check_same_recipe(goes_on)  # such as another number of iterations
    script = Path(__file__).parents[1] / "distill.py"
    code = subprocess.run([sys.executable, script, run.recipe_file, *words, "--resume"]).returncode
    if code:
        raise ValueError(
            f"--qat: the training in {trained.path} did not come to its end; the same command goes on with it"
        )
    return trained.path


def _gentle(section: str, optimizer: Optimizer | None, schedule: Curve | None) -> list[str]:
    """Assignments for a tenth of a learning rate, without a warm-up, to its last iteration."""
    words = [] if optimizer is None else [f"{section}optimizer.lr={optimizer.lr / 10}"]
    if schedule is not None:
        words += [f"{section}schedule.{assignment}" for assignment in ("warmup=0", "end=null")]
        words.append(f"{section}schedule.min_lr={schedule.min_lr / 10}")
    return words


def write_int8(
    delivered: Delivered,
    path: Path,
    size: tuple[int, int],
    wish: Wish,
    *,
    fixed_size: bool = False,
    learned: dict[str, Range] = {},
    beside: Delivered | None = None,
) -> Export:
    """An INT8 file whose mIoU on validation images is at most `wish.max_loss` points below the float file's.

    Where it loses more with all nodes in INT8, each is tried alone; the 1, 2, 4, ... that change most stay in float.

    Args:
        learned: ranges of layers' inputs by the layers' names, from a training in INT8. beside: whose float file its
            loss is measured beside; None: its own.

    Raises:
        ValueError: the student has no run that says which images it was trained on, it cannot be exported, or with half
            of its nodes in float it still loses more.
    """
    if delivered.run is None:
        raise ValueError("--int8 needs the images the network was trained on; give the run folder it comes from")
    recipe = delivered.run.read_recipe()
    accelerator, val_set = start_accelerator(recipe), build_dataset(recipe, recipe.data.val_split)
    val_set = spread(val_set, wish.val_images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "float32.onnx"
        export = write_onnx(delivered.network, file, size, fixed_size=fixed_size)

        def scored(file: Path, title: str) -> Evaluation:
            return evaluate(
                load_program(file).to(accelerator.device), val_set, recipe, accelerator, f"scoring it in {title}"
            )

        if beside is not None:
            write_onnx(beside.network, folder / "before.onnx", size, fixed_size=fixed_size)
        train_set = spread(build_training_sets(recipe)[0], wish.images)
        with _size_told(export, size):
            in_float = scored(folder / "before.onnx" if beside else file, "float")
            seen = seen_images(load_program(file), train_set, recipe)
        quantizer = Quantizer(file, folder, seen, wish.calibration, symmetric=wish.symmetric, learned=learned)
        ranked: list[Sensitivity] = []
        count, most = 0, len(quantizer.nodes) // 2
        while True:
            kept = ranked[:count]
            quantizer.write(path, kept=[one.node for one in kept])
            in_int8 = scored(path, "INT8")
            loss = Loss(in_float, in_int8, kept, len(quantizer.nodes), export.scorer, file.stat().st_size)
            if loss.points <= wish.max_loss:
                break
            if count == most:
                raise ValueError(
                    f"INT8 loses {loss.points:.2f} points of mIoU with {count} of {loss.computing} nodes in float "
                    f"(--max-loss {wish.max_loss:g}); try another --calibration, or allow more"
                )
            say(f"INT8 loses {loss.points:.2f} points of mIoU with {count} nodes in float; looking for more to keep")
            ranked = ranked or quantizer.sensitivities()
            count = min(max(1, 2 * count), most)
    tell(path, told_of(delivered) | {"precision": "int8-qat" if learned else "int8"})
    program = load_program(path)
    return replace(export, scorer=lambda images: program(images).logits, loss=loss)


@contextmanager
def _size_told(export: Export, size: tuple[int, int]) -> Iterator[None]:
    """Within it, images of another size than the only one that the float file takes are told in the export's words."""
    try:
        yield
    except OtherSize as error:
        own, other = (" ".join(map(str, one)) for one in (size, error.size))
        raise ValueError(
            f"--int8 computes the run's images in the exported network, which takes {export.remark}: {own}. Among them "
            f"are some of {other}: give --input-size {other} if all are; images of several sizes need a recipe with "
            f"data.resize, or with evaluate.mode=slide and --input-size of its window"
        ) from None


def spread(dataset: Dataset, count: int | None) -> Dataset:
    """So many images of a data set, spread evenly over it; all where there are no more."""
    if count is None or count >= len(dataset):
        return dataset
    return Chosen(dataset, [int(index) for index in np.linspace(0, len(dataset) - 1, count).round()])


def tell(path: Path, about: dict) -> None:
    """Writes into an ONNX file what it says of itself."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    onnx.save(model, path)
