"""What is decided for a folder of images before a recipe is written: size, batch, iterations, encoders."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from segkd.datasets._files import read_json
from segkd.datasets._images import open_image, upright_size
from segkd.models._weights import HUB_FILES, weights_at_hand
from segkd.runner.recipe.told_by_weights import folder_of_transformers

# encoders with ImageNet weights, where these are at hand, and such as learn from nothing
TRAINED = {"teacher": "timm/tf_efficientnet_lite2", "student": "timm/tf_efficientnet_lite0"}
UNTRAINED = {"teacher": "resnet18", "student": "mobilenetv2_050"}
PIXELS = {"cpu": 192 * 256, "cuda": 512 * 1024}  # of an image in training, so that a run takes an hour and not a week
BATCH = {"cpu": 8, "cuda": 16}
EPOCHS = 40
ITERATIONS = {"cpu": (600, 3000), "cuda": (2000, 40_000)}  # at least, at most
LEAST_SIDE = 32  # pixels
MEASURED, DECODED = 1000, 100  # images whose size is looked at: in files, and where they have to be decoded


@dataclass
class Plan:
    """What is decided for the images; sizes are (height, width) in pixels.

    Attributes:
        size: of the image in the middle. is_one_size: whether all have it, as far as they were looked at.
        resizes: whether they are brought to `crop_size` as a whole.
        scored_together: images that are scored in one batch.
    """

    device: str
    size: tuple[int, int]
    is_one_size: bool
    crop_size: tuple[int, int]
    resizes: bool
    batch_size: int
    scored_together: int
    iterations: int


def plan_for(train_set: Dataset, val_set: Dataset, iterations: int | None) -> Plan:
    """A plan for images to train on and to score; `iterations`: None: as many as their number asks for."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = [*_sizes(train_set), *_sizes(val_set)]
    height, width = size = sorted(sizes, key=lambda one: one[0] * one[1])[len(sizes) // 2]
    is_one_size, factor = len(set(sizes)) == 1, (PIXELS[device] / (height * width)) ** 0.5
    crop_size, resizes = (max(LEAST_SIDE, height), max(LEAST_SIDE, width)), factor < 0.9
    if resizes:
        alike = statistics.mean(abs(h * width / (w * height) - 1) < 0.1 for h, w in sizes)
        side = PIXELS[device] ** 0.5  # of a square, where some lie and others stand
        wanted = (height * factor, width * factor) if alike > 0.9 else (side, side)
        crop_size = tuple(max(LEAST_SIDE, round(one / LEAST_SIDE) * LEAST_SIDE) for one in wanted)
    batch_size = min(BATCH[device], max(2, len(train_set)))
    is_known = is_one_size and len(sizes) == len(train_set) + len(val_set)
    least, most = ITERATIONS[device]
    wanted = min(max(least, int(round(EPOCHS * len(train_set) / batch_size, -2))), most)
    together = batch_size if resizes or is_known else 1
    return Plan(device, size, is_one_size, crop_size, resizes, batch_size, together, iterations or wanted)


def _sizes(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """(height, width) of images spread over the data set, upright."""
    if not hasattr(dataset, "files"):
        step = -(-len(dataset) // DECODED)
        yield from (dataset[index][0].size[::-1] for index in range(0, len(dataset), step))
        return
    for path, _ in dataset.files[:: -(-len(dataset) // MEASURED)]:
        with open_image(path, None) as image:
            yield upright_size(image)


def encoder_for(role: str) -> str:
    """The encoder of the `teacher` or the `student`."""
    return TRAINED[role] if has_weights(TRAINED[role]) else UNTRAINED[role]


def stride_of(encoder: str) -> int:
    """The output stride that a head reads it at: 16, but for encoders that are not known to have any beside 32."""
    is_dilated = encoder.startswith("timm/tf_efficientnet_lite") or not encoder.startswith(("timm/", "hf/", "mit_"))
    return 16 if is_dilated else 32


def is_trained(teacher: str) -> bool:
    """Whether what is called a teacher is weights, on this machine or on the Hub, and no encoder to train."""
    return teacher.startswith("hf://") or Path(teacher).exists()


def foreign(teacher: str) -> dict[str, str]:
    """The `source` and `model` of another library's network; empty for ours.

    It is called hf/NAME or timm/NAME, or by the folder that transformers wrote it to, or by the file in it.
    """
    if is_trained(teacher):
        place = Path(teacher)
        folder = folder_of_transformers(place) if place.is_dir() or place.name in HUB_FILES else None
        return {"source": "hf", "model": str(folder)} if folder else {}
    source, _, name = teacher.partition("/")
    return {"source": source, "model": name} if source in ("hf", "timm") and name else {}


def has_segmentation_head(folder: str) -> bool:
    """Whether the network that transformers wrote to a folder has one, by its config.json."""
    return any("Segmentation" in name for name in read_json(f"{folder}/config.json", "").get("architectures") or ())


def has_weights(encoder: str) -> bool:
    """Whether an encoder's ImageNet weights are at hand."""
    return encoder.startswith("timm/") and weights_at_hand(encoder.removeprefix("timm/"))
