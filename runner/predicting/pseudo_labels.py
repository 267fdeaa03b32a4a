"""The labels that a recipe's data.extra.pseudo asks for: made by a frozen network of it, once, before the training."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from segkd.datasets._files import IGNORE_INDEX
from segkd.models._class_map import ClassMapped
from segkd.runner.building.cached import weights_checksum
from segkd.runner.building.frozen import cheaper
from segkd.runner.building.networks import build_network
from segkd.runner.console import percent, progress_bar, say
from segkd.runner.loading.batch import Batch
from segkd.runner.loading.data_sets import divide, extra_images, fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.predicting.confident import Rule, count_steps, lowest_steps
from segkd.runner.predicting.label_folder import LabelFolder
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.text_file import read_json
from segkd.runner.run_folder.pretrained import WITHOUT_DOWNLOADS
from segkd.runner.run_folder.replacing import write_text
from segkd.runner.scoring.evaluation import class_scores

# to be raised whenever the same recipe would make other labels than before
FORMAT = 1
# of `evaluate`, what decides which scores an image gets
SEEN = {"mode", "window", "stride", "smaller", "average", "scales", "flip", "fit", "fit_corners", "short_side", "resizes",
        "align_corners"}  # fmt: skip


def make_pseudo_labels(recipe: Recipe, accelerator: Accelerator) -> Path | None:
    """The folder of a recipe's pseudo-labels, made where they are not there yet; None where it asks for none.

    They lie in a folder of their own for each teacher (its weights' checksum), images (names, sizes and times of files),
    way of predicting and threshold: when one of these changes, labels are made again beside the old ones. The teacher
    sees whole images one by one, as `evaluate` says; all processes make their share, and files that are there stay, so
    that a kill costs nothing and the bytes do not depend on how many processes there are.

    Raises:
        ValueError: pseudo.folder holds other labels.
    """
    pseudo = None if recipe.data.extra is None else recipe.data.extra.pseudo
    if pseudo is None:
        return None
    labelled, rest = divide(recipe)
    images = extra_images(recipe, rest)
    network, rule = build_teacher(recipe, labelled, accelerator), Rule(pseudo.confidence, pseudo.share)
    folder = open_folder(recipe, network, images, rule)
    missing = [index for index in range(len(images)) if not folder.file(images.name(index)).is_file()]
    accelerator.wait_for_everyone()  # all have looked before one writes
    if not missing:
        return folder.labels
    if accelerator.is_main_process:
        folder.describe()
        say(f"{recipe.name}: {pseudo.network} makes {len(missing)} of {len(images)} pseudo-labels, in {folder.path}")
    accelerator.wait_for_everyone()

    def predicted(chosen: list[int], title: str) -> Iterator[tuple[str, Tensor]]:
        """(name, (1, K, H, W) scores) of this process's share of the images."""
        for batch in _batches(recipe, images, chosen, accelerator, title):
            yield images.name(chosen[batch.indices[0]]), class_scores(network, batch, recipe)

    lowest = None if rule.share is None else _lowest(folder, rule, predicted, images, labelled, recipe, accelerator)
    counts = torch.zeros(2, dtype=torch.int64, device=accelerator.device)  # pixels that are kept, and all
    for name, scores in predicted(missing, "pseudo-labels"):
        labels = rule.labels(scores, lowest, recipe.evaluate.average)
        folder.write(name, labels[0].cpu().numpy())
        counts += torch.stack([(labels != IGNORE_INDEX).sum(), counts.new_tensor(labels.numel())])
    kept, pixels = accelerator.reduce(counts, reduction="sum").tolist()  # all are there when it returns
    if accelerator.is_main_process:
        say(f"{recipe.name}: {percent(kept / pixels)} % of the pixels of these {len(missing)} images are kept")
    return folder.labels


def build_teacher(recipe: Recipe, dataset: Dataset, accelerator: Accelerator) -> nn.Module:
    """The network that makes the labels, with the data set's classes, in eval mode on the device."""
    name = recipe.data.extra.pseudo.network
    entry = recipe.networks[name]
    classes = dataset.num_classes, recipe.seed, dataset.class_names
    network = cheaper(build_network(name, entry, *classes, trust=recipe.trust_checkpoint), entry)
    if not network.gives_logits or network.num_classes > IGNORE_INDEX:
        raise ValueError(f"data.extra.pseudo: networks.{name} has no scores, or more than {IGNORE_INDEX} classes")
    return network.eval().requires_grad_(False).to(accelerator.device)


def open_folder(recipe: Recipe, network: nn.Module, images: Dataset, rule: Rule) -> LabelFolder:
    """The place of the labels that a network makes of images. ValueError: it holds others."""
    pseudo = recipe.data.extra.pseudo
    entry, stamps = recipe.networks[pseudo.network], [images.stamp(index) for index in range(len(images))]
    mapped = [part for part in network.modules() if isinstance(part, ClassMapped)]
    description = {
        "format": FORMAT,
        "teacher": {
            **entry.model_dump(mode="json", include={"source", "model", "precision", "input_scale"}),
            "args": {key: value for key, value in entry.args.items() if key not in WITHOUT_DOWNLOADS},
            "classes": [[part.sizes, part.order.tolist()] for part in mapped],
            "normalize": network.normalize.constants,
            "weights": weights_checksum(network),
        },
        "images": {"count": len(images), "files": hashlib.sha256(json.dumps(stamps).encode()).hexdigest()},
        "seen": {
            "resize": recipe.data.resize,
            **recipe.evaluate.model_dump(mode="json", include=SEEN),
            "crop_size": recipe.data.crop_size if recipe.evaluate.mode == "slide" else None,
        },
        "kept": rule.described,
    }
    description = json.loads(json.dumps(description))  # as it will be read back
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(pseudo.folder or Path(recipe.tracking.folder) / "pseudo_labels" / key)
    return LabelFolder(path, description, "data.extra.pseudo" + (".folder" if pseudo.folder else ""))


class Seen:
    """Images as they are scored, beside targets of their own size, which is the size of their labels."""

    def __init__(self, resize: Callable | None):
        self.resize = resize

    def __call__(self, image: Image.Image, target: Image.Image) -> tuple:
        return (image if self.resize is None else self.resize(image, target)[0]), target


def _batches(
    recipe: Recipe, images: Dataset, chosen: list[int], accelerator: Accelerator, title: str
) -> Iterator[Batch]:
    """This process's share of some images, one by one."""
    rank, world = accelerator.process_index, accelerator.num_processes
    batches = evaluation_batches(
        Subset(images, chosen),
        rank=rank,
        world=world,
        workers=recipe.data.workers,
        resize=Seen(fixed_resize(recipe, scoring=True)),
        timeout=recipe.loop.timeout,
    )
    total, shown = len(range(rank, len(chosen), world)), accelerator.is_main_process
    for batch in progress_bar(batches, total=total, title=title, unit="images", shown=shown):
        yield batch.to(accelerator.device)


def _lowest(
    folder: LabelFolder,
    rule: Rule,
    predicted: Callable[[list[int], str], Iterator[tuple[str, Tensor]]],
    images: Dataset,
    labelled: Dataset,
    recipe: Recipe,
    accelerator: Accelerator,
) -> Tensor:
    """(K,) lowest steps that are kept, for which all images are predicted once more, before the first label."""
    if not folder.lowest_file.is_file():
        counts = 0
        for _, scores in predicted([*range(len(images))], "how sure it is"):
            counts = counts + count_steps(scores, recipe.evaluate.average)
        if not isinstance(counts, Tensor):  # of a process without an image
            counts = count_steps(torch.zeros(1, labelled.num_classes, 0, 0, device=accelerator.device))
        found = lowest_steps(accelerator.reduce(counts, reduction="sum"), rule.share)
        if accelerator.is_main_process:
            write_text(folder.lowest_file, json.dumps({"lowest": found.tolist()}) + "\n")
        accelerator.wait_for_everyone()
    return torch.tensor(read_json(folder.lowest_file, {"lowest": list})["lowest"])
