"""A recipe for a folder of one's own: a teacher, a small student and settings that fit the images, to begin with."""

import logging
import re
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from segkd.models._class_map import read_class_map
from segkd.runner.building.graph import Graph
from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import build_networks
from segkd.runner.console import clock, command, counted, say, some
from segkd.runner.drafting.formats import Found, find_data
from segkd.runner.drafting.plan import Plan, encoder_for, foreign, has_segmentation_head, is_trained, plan_for
from segkd.runner.drafting.recipe_text import header, recipe_texts
from segkd.runner.loading.batch import crops
from segkd.runner.recipe import parts
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.replacing import write_text
from segkd.runner.run_folder.weights import find_weights
from segkd.runner.scoring.cost import wait_for_gpu

FEW, SHARES = 200, (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)  # of few images, a share is looked for that is met
TRIED = 2  # images of the step whose time is taken


def draft(
    root: str,
    output: str | None,
    teacher: str | None,
    student: str | None,
    iterations: int | None,
    class_map: dict[str, str] | None = None,
) -> None:
    """Looks at a folder, says what it saw, and writes a recipe, with one for the teacher beside it.

    Args:
        output: the file; None: in the working directory, called like the folder.
        teacher: an encoder that is trained first, or a run folder, a folder of transformers or a file of weights.
        student: an encoder.
        iterations: of either training. class_map: which of a trained teacher's classes are which of the images'.

    Raises:
        ValueError, OSError: nothing is known of the folder, or a file is there already.
    """
    file = Path(output or f"{_called(Path(root).resolve().name)}.yaml")
    is_there = teacher is not None and is_trained(teacher)
    of_teacher = None if is_there else file.with_name(f"{file.stem}_teacher.yaml")
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--output {file}: give the recipe a name that ends in .yaml")
    for one in filter(None, (of_teacher, file)):
        if one.exists():
            raise ValueError(f"{one} is there already; name another file with --output")
    if class_map and not is_there:
        raise ValueError(
            "--class-map is for a teacher that is trained; one that is trained here has the images' classes"
        )
    if iterations is not None and iterations < 1:
        raise ValueError(f"--iterations {iterations}: there is at least one")
    found, train_set, val_set = _built(find_data(root))
    plan = plan_for(train_set, val_set, iterations)
    for line in (*found.said, *_told(train_set, val_set, plan)):
        say(f"saw       {line}")
    encoders = {"teacher": teacher or encoder_for("teacher"), "student": student or encoder_for("student")}
    name = _called(file.stem)
    classes = _class_map(teacher, class_map, train_set.class_names) if is_there else None
    texts = recipe_texts(name, file, of_teacher, found, plan, encoders, classes)
    seconds = _seconds(texts, train_set, plan, encoders)
    texts[file] = header(name, file, found, plan, encoders, seconds) + texts[file]
    if of_teacher is not None:
        texts[of_teacher] = f"# The teacher of {file.name}, and what it shares with its student.\n{texts[of_teacher]}"
    file.parent.mkdir(parents=True, exist_ok=True)
    for one, text in texts.items():
        write_text(one, text)
    say(f"wrote     {' and '.join(map(str, texts))}: {encoders['teacher']} teaches {encoders['student']}")
    each = f"{counted(plan.iterations, 'iteration')} of {counted(plan.batch_size, 'image')}"
    say(
        f"          {each}{'' if is_there else ' for each'}, about {clock(sum(seconds.values()))} on this {plan.device}"
    )
    say(f"next      {command('check', file)}")
    say(f"          {command('distill', file)}")


def _class_map(teacher: str, given: dict[str, str] | None, ours: Sequence[str]) -> dict[str, str] | str | None:
    """What a recipe says of the classes of a trained teacher; None where they are the images' in their order.

    Raises:
        ValueError: which of them are the same shows neither in their names nor in what is given.
    """
    theirs = _classes(teacher)
    if given:
        read_class_map(given, theirs, ours)
        return given
    if not theirs or list(theirs) == list(ours):
        return None
    try:
        groups = read_class_map("names", theirs, ours)
        if not any(group for name, group in zip(ours, groups) if name != "background"):
            raise ValueError("But for the background, no name is the same")
    except ValueError as error:
        if len(theirs) == len(ours) and not {*theirs} & {*ours}:  # they are taken class for class
            return None
        raise ValueError(
            f"--teacher {teacher} has {len(theirs)} classes and the images have {len(ours)}. {error}, with --class-map "
            f"THEIRS=OURS ..., names or ids, for each of its classes that goes to one of the images'"
        ) from None
    return "names"


def _classes(teacher: str) -> list[str]:
    """The names of a trained teacher's classes, or their numbers; none where nothing tells.

    Raises:
        ValueError: it has features alone.
    """
    other = foreign(teacher)
    if not other:
        weights = find_weights(teacher, owner="--teacher")
        return list(weights.class_names or map(str, range(weights.num_classes or 0)))
    folder = other["model"]
    if not has_segmentation_head(folder):
        advice = command("recipes", "suggest", "--teacher", folder, "--student", "NAME")
        raise ValueError(
            f"--teacher {teacher}: the network of transformers in it has no segmentation head, so it has no classes to "
            f"teach; `{advice}` writes a recipe for a teacher of features"
        )
    from segkd.models._hub import own_names, read_config  # seconds of transformers, for those who have such a teacher

    return own_names(read_config(folder, None, None), folder)


def _called(text: str) -> str:
    """A name for a run that is like the text: letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9_]+", "-", plain).strip("-_") or "my-data"


def _built(found: Found) -> tuple[Found, Dataset, Dataset]:
    """The data set's two splits, a few items of each read; few images are divided by the share that is met best."""
    wanted, tried = found.args.get("val"), {}
    for share in (wanted, *(SHARES if wanted is not None else ())):
        args = found.args if share is None else found.args | {"val": share}
        try:
            train_set, val_set = (
                parts.build("datasets", found.dataset, args, found.root, split) for split in (found.train, found.val)
            )
        except ValueError as error:
            if not str(error).startswith("val:"):  # it leaves no image for one of them
                raise
            continue
        scored = len(val_set) / (len(train_set) + len(val_set))
        tried[abs(scored - (wanted or 0))] = replace(found, args=args), train_set, val_set
        if share is None or len(train_set) >= FEW:
            break
    if not tried:
        raise ValueError(f"{found.root}: there are too few images to train on some and to score others")
    best = tried[min(tried)]
    for dataset in best[1:]:
        for index in {0, len(dataset) // 2, len(dataset) - 1}:
            dataset[index]
    return best


def _told(train_set: Dataset, val_set: Dataset, plan: Plan) -> Iterator[str]:
    names = list(train_set.class_names)
    yield f"{len(train_set)} images to train on and {len(val_set)} to score"
    yield f"{len(names)} classes: {some(names, 20)}"
    yield f"images of {'about ' if not plan.is_one_size else ''}{plan.size[0]} x {plan.size[1]} pixels (height x width)"


def _seconds(texts: dict[Path, str], dataset: Dataset, plan: Plan, encoders: dict[str, str]) -> dict[Path, float]:
    """What the iterations of each recipe take, from one step of two images, without loading and scoring."""
    seconds = {}
    logging.disable(logging.INFO)  # what is loaded here is told when it is trained
    try:
        with tempfile.TemporaryDirectory() as folder:
            for file, text in texts.items():
                Path(folder, file.name).write_text(text, encoding="utf-8")
            for file in texts:
                try:
                    recipe = read(Path(folder, file.name))
                except RecipeError as error:  # which is of a file that nobody will find
                    raise _of_the_options(error, folder, encoders) from None
                graph = build_graph(recipe, build_networks(recipe, dataset, untrained=True), dataset.ignore_index)
                seconds[file] = _seconds_of_a_step(graph.to(plan.device).train(), recipe, plan.device)
                seconds[file] *= plan.iterations * plan.batch_size / TRIED
    finally:
        logging.disable(logging.NOTSET)
    return seconds


def _of_the_options(error: RecipeError, folder: str, encoders: dict[str, str]) -> ValueError:
    """What is wrong, where an encoder is, by the option that names it: the recipe is not written."""
    texts = [one.replace(f"{folder}/", "") for one in error.mistakes]
    of_weights = [text.partition("networks.teacher.weights: ")[2] for text in texts]
    if any(of_weights):
        return ValueError(f"--teacher {encoders['teacher']}: {next(filter(None, of_weights))}")
    for role, encoder in encoders.items():
        wrong = [text for text in texts if ".args.backbone: " in text and f"got {encoder!r}" in text]
        if wrong:
            allowed = wrong[0].partition(".args.backbone: ")[2]
            no_file = "there is no such file or folder, and an encoder " if role == "teacher" else ""
            is_on_hub = role == "teacher" and re.fullmatch(r"[\w-]+/[\w.-]+", encoder)
            hub = f"; if it is on the Hub, give the folder that `hf download {encoder} --local-dir FOLDER` fills"
            return ValueError(f"--{role} {encoder}: {no_file}{allowed}{hub if is_on_hub else ''}")
    return RecipeError(texts)


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
