"""A first recipe for a teacher and a student, and the advice behind it, as one file."""

import re
import textwrap

from segkd.runner.console import command
from segkd.runner.drafting.plan import foreign, is_trained, stride_of
from segkd.runner.drafting.rules import RULES, Asked
from segkd.runner.recipe import parts
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.recipe.yaml_file import GIVEN, one_line, override, read_given

UNTRAINED = "runs/suggested-teacher"
WIDTH = 116  # letters of a line of comment
DATA = {
    "dataset": "folder",
    "root": "data",
    "args": {"class_names": ["background", "object"]},
    "crop_size": [512, 512],
    "batch_size": 16,
}
SETTINGS = {
    "optimizer": {"name": "adamw", "lr": 5e-4, "head_lr_scale": 4.0, "weight_decay": 0.01, "no_decay": ["norm", "bias"]},
    "schedule": {"iterations": 20_000, "warmup": 1000},
    "evaluate": {"every": 1000},
}  # fmt: skip


def suggest(asked: Asked) -> str:
    """The recipe, with what was advised and why in its head.

    Raises:
        ValueError: teacher and student cannot be built, or do not fit each other.
    """
    rules = [rule for rule in RULES if rule.holds(asked)]
    networks = {"student": _network(asked.student), "teacher": _teacher(asked)}
    given = {"name": "suggested", "data": dict(DATA), "networks": networks, **SETTINGS}
    if asked.unlabelled:
        given["data"]["unlabelled"] = {"images": "data/unlabelled"}
    values, origins, _ = read_given(given)
    for rule in rules:
        override(values, origins, [f"{key}={one_line(value)}" for key, value in rule.sets.items()])
    try:
        read(values)
    except RecipeError as error:
        raise ValueError(_of_the_options(error, asked)) from None
    lines = [f"A first recipe for {asked.student} that learns from {asked.teacher}; write it to a file and change it."]
    drafting = command("recipes", "new", "--data", "FOLDER")
    lines += [f"Its data section is an example: `{drafting}` writes that of your own images."]
    for rule in rules:
        lines += ["", *textwrap.wrap(f"{rule.when[0].upper()}{rule.when[1:]}: {rule.advice}.", WIDTH)]
        lines += textwrap.wrap(f"  Rests on: {rule.rests_on}.", WIDTH, subsequent_indent="  ")
    if networks["teacher"].get("weights") == UNTRAINED:
        alone = one_line({"student": _network(asked.teacher)})
        lines += ["", "The teacher is trained first:", f"  {command('distill')} FILE name=suggested-teacher",
                  "  data.unlabelled=null 'losses=[{loss: cross_entropy}]'", f"  'networks={alone}'"]  # fmt: skip
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return head + _compact(values)


def _of_the_options(error: RecipeError, asked: Asked) -> str:
    """What is wrong, by the options that the two networks were named with: nobody has written a recipe."""
    text = "\n".join(error.mistakes)
    for option, given in (("student", asked.student), ("teacher", asked.teacher)):
        text = re.sub(rf"{GIVEN}: networks\.{option}[\w.]*: ", lambda _: f"--{option} {given}: ", text)
    return text


def _compact(values: dict) -> str:
    """YAML with a line for each network, term and value of the data, and one for any other section."""
    lines = []
    for key, value in values.items():
        if key in ("data", "networks"):
            lines += [f"{key}:", *(f"  {name}: {one_line(network)}" for name, network in value.items())]
        elif key == "losses":
            lines += [f"{key}:", *(f"  - {one_line(term)}".replace("'on'", "on") for term in value)]
        else:
            lines.append(f"{key}: {one_line(value)}")
    return "\n".join(lines) + "\n"


def _network(encoder: str) -> dict:
    """A network of ours by its file, or our head on an encoder."""
    if encoder in parts.names("models"):
        return {"model": encoder}
    stride = {"output_stride": stride_of(encoder)} if stride_of(encoder) == 32 else {}
    return {"model": "deeplabv3plus", "args": {"backbone": encoder, "pretrained": True} | stride}


def _teacher(asked: Asked) -> dict:
    """The frozen network that is learnt from."""
    other = foreign(asked.teacher)
    if asked.is_sam:
        return {"model": "sam", "args": {"head": None, "pretrained": True}, "train": False}
    if other and not asked.has_scores:
        return {**other, "args": {"head": None, "pretrained": True}, "train": False}
    if other.get("source") == "hf":  # a segmentation network with classes of its own
        return {**other, "class_map": "names", "train": False}
    if is_trained(asked.teacher):
        return {"weights": asked.teacher, "train": False}
    network = _network(asked.teacher)
    args = {key: value for key, value in network.get("args", {}).items() if key != "pretrained"}
    return {**network, "args": args, "weights": UNTRAINED, "train": False}
