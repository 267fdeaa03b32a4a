"""The recipes that come with segkd, one for your own images, and every option there is: `python runner/recipes.py ACTION`.

`ls [WORD ...]` lists them, those that hold every WORD; `show NAME` prints one with every default and where each other
value is written; `copy NAME [TO]` makes one file of it and of what it extends, to change as you like; `diff A B` tells
how two differ. NAME is that of `ls`, its last part, the path of any recipe, or an address (hf://user/repo/path.yaml,
wandb://entity/project/run). `new --data FOLDER` looks at your own images and labels and writes a recipe for them.
`suggest --teacher T --student S` prints a first recipe for two networks, with what it rests on in its head.
`options WORD` tells what a loss, network, data set, metric or section takes; `schema` prints that for editors.
"""

import argparse
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from segkd.runner.command import new_parser, run_command
from segkd.runner.console import put, say
from segkd.runner.recipe.addresses import find_source, is_address
from segkd.runner.recipe.differences import differences
from segkd.runner.recipe.editor_schema import MODELINE, editor_schema
from segkd.runner.recipe.mistakes import Key
from segkd.runner.recipe.network import Network
from segkd.runner.recipe.options import index, options_of
from segkd.runner.recipe.read import read, read_as_written
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.recipe.shipped import folders, hint_for_name, named, shipped
from segkd.runner.recipe.yaml_file import one_line, override, read_with_traps, write
from segkd.runner.run_folder.replacing import write_text


def main() -> None:
    parser = new_parser("The recipes that come with segkd.")
    words = "{ls,show,copy,diff,new,suggest,options,schema}"
    actions = parser.add_subparsers(dest="action", required=True, metavar=words)
    listing = actions.add_parser("ls", help="list them", allow_abbrev=False)
    listing.add_argument("words", nargs="*", help="only those whose line holds all of these")
    showing = actions.add_parser("show", help="print one with every default", allow_abbrev=False)
    showing.add_argument("name", help="its name in ls, a path, or an address")
    showing.add_argument("overrides", nargs="*", help="key=value, as for distill.py")
    copying = actions.add_parser("copy", help="make one file of it", allow_abbrev=False)
    copying.add_argument("name", help="its name in ls, a path, or an address")
    copying.add_argument("to", nargs="?", default=".", help="file or folder (default: here, under its own name)")
    comparing = actions.add_parser("diff", help="tell how two differ", allow_abbrev=False)
    comparing.add_argument("first", metavar="A", help="name in ls, path, or address")
    comparing.add_argument("second", metavar="B")
    drafting = actions.add_parser("new", help="write one for your own images and labels", allow_abbrev=False)
    drafting.add_argument("--data", required=True, metavar="FOLDER", help="in which images and labels lie")
    drafting.add_argument(
        "--output", metavar="FILE", help="the recipe to write (default: here, called like the folder)"
    )
    drafting.add_argument(
        "--teacher",
        help="an encoder, such as resnet50 or timm/NAME, or a run folder, folder of transformers or weights file",
    )
    drafting.add_argument("--student", help="an encoder")
    drafting.add_argument(
        "--class-map",
        nargs="+",
        default=[],
        metavar="THEIRS=OURS",
        help="which class of a trained teacher is which of the images', where they are not called the same",
    )
    drafting.add_argument("--iterations", type=int, help="of each training (default: by the number of images)")
    advising = actions.add_parser("suggest", help="advise a first recipe, and say why", allow_abbrev=False)
    advising.add_argument("--teacher", required=True, help="an encoder, sam, or a folder or file of weights")
    advising.add_argument("--student", required=True, help="an encoder, such as mobilenetv3_large_100 or timm/NAME")
    advising.add_argument("--labelled", type=int, metavar="N", help="images with labels")
    advising.add_argument("--unlabelled", type=int, metavar="N", help="images without labels")
    advising.add_argument("--hours", type=float, help="there are for the training")
    telling = actions.add_parser("options", help="tell every option of a part or a section", allow_abbrev=False)
    telling.add_argument("word", nargs="?", help="such as kl, deeplabv3, data.transform (default: all words there are)")
    actions.add_parser("schema", help="print the JSON schema of recipes, for editors", allow_abbrev=False)
    for action in actions.choices.values():  # so that it may stand at the end, as for every other command
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.action == "ls":
        say(list_recipes(options.words))
    elif options.action == "show":
        put(show(find_recipe(options.name), options.overrides))
    elif options.action == "copy":
        say(f"written to {copy(options.name, Path(options.to))}")
    elif options.action == "new":
        from segkd.runner.drafting.draft import draft  # seconds of torch, which nothing else here needs

        given = [pair.rpartition("=") for pair in options.class_map]
        if not all(theirs and ours for theirs, _, ours in given):
            raise ValueError(f"--class-map {' '.join(options.class_map)}: write THEIRS=OURS, each a name or an id")
        class_map = {theirs: ours for theirs, _, ours in given}
        draft(options.data, options.output, options.teacher, options.student, options.iterations, class_map)
    elif options.action == "suggest":
        from segkd.runner.drafting.rules import Asked
        from segkd.runner.drafting.suggestion import suggest

        names = ("teacher", "student", "labelled", "unlabelled", "hours")
        put(suggest(Asked(**{name: getattr(options, name) for name in names})))
    elif options.action == "options":
        say(options_of(options.word) if options.word else index())
    elif options.action == "schema":
        put(editor_schema())
    else:
        say(compare(find_recipe(options.first), find_recipe(options.second)))


def find_recipe(name: str) -> str:
    """The path or address of the recipe a user means. ValueError or FileNotFoundError where that is not one."""
    if is_address(name) or Path(name).is_file():
        return name
    known = shipped()
    wanted, found = named(name, known)
    if len(found) == 1:
        return os.path.relpath(known[found[0]])
    if found:
        raise ValueError(f"{name} may be {' or '.join(found)}; say which")
    raise FileNotFoundError(
        f"there is no recipe {name}, neither a file nor one that comes with segkd{hint_for_name(wanted, known)}"
    )


def list_recipes(words: list[str]) -> str:
    """A row for each recipe, and under it what it is in a sentence. ValueError where none holds all words.

    Recipes are taken as they are written, without the defaults of their parts, so that nothing heavy is imported.
    """
    known = shipped()
    entries = [(row(name, read_as_written(file)), sentence(file)) for name, file in known.items()]
    wanted = [word.lower() for word in words]
    entries = [entry for entry in entries if all(word in " ".join([*entry[0], entry[1]]).lower() for word in wanted)]
    if not entries:
        text = f"none of the {len(known)} recipes holds {' and '.join(words)}"
        raise ValueError(f"{text}; `recipes.py ls` lists them all")
    table = [["recipe", "data", "method", "networks", "iterations"], *(cells for cells, _ in entries)]
    widths = [max(map(len, column)) for column in zip(*table)]
    head, *rows = ("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table)
    lines = [head, *(f"{line}\n    {text}" for line, (_, text) in zip(rows, entries))]
    return "\n".join([*lines, f"{len(entries)} of {len(known)} recipes"])


def row(name: str, recipe: Recipe) -> list[str]:
    """Name, data set, method, teachers -> student and iterations."""
    # without a model, the file of its weights says what it is
    words = {key: network.title or Path(weights_of(network)).name for key, network in recipe.networks.items()}
    student = words.pop("student")
    networks = f"{' + '.join(words.values())} -> {student}" if words else student
    return [name, recipe.data.dataset, recipe.method_name, networks, recipe.schedule.length]


def weights_of(network: Network) -> str:
    """The path that a network's weights come from, of a file or of the recipe that trains it."""
    return network.weights.recipe if isinstance(network.weights, OtherRecipe) else str(network.weights)


def header(file: Path) -> list[str]:
    """The lines of comment a recipe begins with, without the one for editors."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return [line for line in comment if not line.startswith(MODELINE)]


def sentence(file: Path) -> str:
    """What a recipe is: the first sentence of its header, which may go on over its lines."""
    text = " ".join(line.lstrip("# ") for line in header(file))
    return re.split(r"(?<=\.) (?=[A-Z])", text, maxsplit=1)[0]


def show(name: str, overrides: list[str]) -> str:
    """The resolved recipe as YAML that runs from this folder; what is not a default says where it was written."""
    recipe, source = read(name, overrides), find_source(name)
    values, origins, _ = read_with_traps(source.path, source.root)
    override(values, origins, overrides)
    text = write(recipe.model_dump(mode="json", by_alias=True))
    lines = text.splitlines()
    for key, line in leaves(yaml.compose(text)):
        if key in origins:
            lines[line] += f"  # {source.named(origins[key])}"
    return "\n".join(["# what has no remark is a default", *lines]) + "\n"


def leaves(node: yaml.Node, key: Key = ()) -> Iterator[tuple[Key, int]]:
    """(key, line it ends on) of each value that holds no other."""
    if isinstance(node, yaml.MappingNode) and node.value:
        for name, inner in node.value:
            yield from leaves(inner, (*key, name.value))
    elif isinstance(node, yaml.SequenceNode) and node.value:
        for index, inner in enumerate(node.value):
            yield from leaves(inner, (*key, index))
    else:
        yield key, node.end_mark.line


def copy(name: str, to: Path) -> Path:
    """One file of a recipe and all that it extends, its header kept, its paths of other recipes right where it lies.

    Raises:
        ValueError: `to` is there already. RecipeError: the recipe has mistakes.
    """
    found = find_recipe(name)
    read(found)  # nothing is made of one with mistakes
    source = find_source(found)
    file = to / source.path.name if to.is_dir() else to
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{file}: give the copy a name that ends in .yaml, or a folder that is there")
    if file.exists():
        raise ValueError(f"{file} is there already; name another file or folder as second word")
    values, _, _ = read_with_traps(source.path, source.root)
    for place in [*values["networks"].values(), values]:
        other = place.get("baseline" if place is values else "weights")
        if isinstance(other, dict):
            path = source.other(other["recipe"])
            other["recipe"] = path if is_address(path) else os.path.relpath(path, file.parent)
    values = {"name": source.default_name, **values}
    file.parent.mkdir(parents=True, exist_ok=True)
    schemas = [schema for folder in folders() if (schema := folder / "schema.json").is_file()]
    editors = [MODELINE + os.path.relpath(schema, file.parent) for schema in schemas[:1]]
    write_text(file, "\n".join([*header(source.path), f"# Copied from {name}.", *editors, write(values)]))
    return file


def compare(first: str, second: str) -> str:
    """The values in which two resolved recipes differ, terms told apart by their labels."""
    values = []
    for name in (first, second):
        resolved = read(name).model_dump(mode="json", by_alias=True)
        values.append(resolved | {"losses": {term["label"]: term for term in resolved["losses"]}})
    lines = [f"{key}: {_one_line(old)} | {_one_line(new)}" for key, old, new in differences(*values)]
    return "\n".join([f"{first} | {second}", *lines])


def _one_line(value: object) -> str:
    """A value as one line of YAML, without what is not set in it; `-` for none."""
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if inner is not None}
    return "-" if value is None else one_line(value)


if __name__ == "__main__":
    run_command(main)
