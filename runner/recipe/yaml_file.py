"""Reads recipe files: YAML without its traps, `extends`, `key=value` overrides; knows which line each value is from."""

import copy
import functools
import os
import re
from pathlib import Path

import yaml

from segkd.runner.recipe.mistakes import Key, Origins, RecipeError, dotted


# libyaml's parser where PyYAML was built with it: ten times as fast
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML reads YAML 1.1; this one resolves plain values as in 1.2: `1e-2` is a float, `1:30` and `08` strings."""


class _Dumper(yaml.SafeDumper):
    """Quotes every string that a reader of either YAML would take for something else."""


_Loader.yaml_implicit_resolvers = {}
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^[yYnN]$"), list("yYnN"))
for tag, pattern, first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?$", list("-+0123456789.")),
    ("float", r"^[-+]?[0-9]+[eE][-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), first)

_PLAIN = {"scalar": {"null", "bool", "int", "float", "str"}, "sequence": {"seq"}, "mapping": {"map"}}
_LARGEST = 10_000  # values in one file; aliases of aliases could ask for more than the memory holds
_TOO_DEEP = "nested too deeply, or an alias stands inside of what it repeats"
_UNDERSCORED = re.compile(r"\d+(_\d+)+")
_AMBIGUOUS = {"yes", "no", "on", "off", "y", "n"}  # booleans in YAML 1.1, words in YAML 1.2


def read_file(path: str | Path) -> tuple[dict, Origins]:
    """One YAML file with what it extends: values and their origins. RecipeError lists every trap in it."""
    values, origins, traps = read_with_traps(path)
    if traps:
        raise RecipeError(traps)
    return values, origins


def read_with_traps(path: str | Path, root: Path | None = None) -> tuple[dict, Origins, list[str]]:
    """One YAML file with what it extends: values, their origins, and the traps in it as located sentences.

    A value that is a trap is null, so that what else is wrong can be found in the same pass.

    Args:
        root: a folder that what it extends must lie in.

    Raises:
        RecipeError: the file cannot be read as YAML at all. FileNotFoundError: it, or what it extends, is not there.
    """
    traps: list[str] = []
    values, origins = _read(Path(path), (), traps, root)
    return values, origins, traps


def lies_inside(root: Path, path: Path) -> bool:
    """Whether a path stays in a folder, as it is written: links are not followed, the Hub's cache is made of them."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def expanded(path: str) -> str:
    """A path with `~` and `$HOME` (or any other variable) in it as this machine has them."""
    return os.path.expandvars(os.path.expanduser(path))


def value_at(values: object, *key: str | int) -> object:
    """What stands at a path of keys in nested mappings and lists; None where nothing does."""
    for word in key:
        if isinstance(values, list) and isinstance(word, int):
            values = values[word] if word < len(values) else None
        else:
            values = values.get(word) if isinstance(values, dict) else None
    return values


def _read(path: Path, above: tuple[Path, ...], traps: list[str], root: Path | None) -> tuple[dict, Origins]:
    if path.resolve() in above:
        raise RecipeError([f"{above[-1]}: `extends` goes round in a circle through {path}"])
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        asked = f" (asked for by `extends` in {above[-1]})" if above else ""
        raise FileNotFoundError(f"there is no recipe file {path}{asked}") from None
    except UnicodeDecodeError:
        raise RecipeError([f"{path} is not a text file in UTF-8"]) from None
    values, origins, found = copy.deepcopy(_parse(text, path))  # what is kept of a file must not be changed
    traps += found
    base = values.pop("extends", None)
    if base is None:
        return values, origins
    if not isinstance(base, str):
        raise RecipeError([f"{origins.of(('extends',))}: extends must be the path of one recipe, got {base!r}"])
    if root is None:
        base = expanded(base)
    elif not lies_inside(root, path.parent / base):
        at = origins.of(("extends",))
        raise RecipeError(
            [f"{at}: extends: {base} does not lie beside this recipe, where one from elsewhere must stay"]
        )
    below, below_origins = _read(path.parent / base, (*above, path.resolve()), traps, root)
    for replaced in {key[:-1] for key in origins if key and isinstance(key[-1], int)}:
        below_origins.forget_inside(replaced)
    return merged(below, values), Origins(
        {**below_origins, **{_numbered(key, below): at for key, at in origins.items()}}
    )


@functools.lru_cache(maxsize=256)  # recipes of one experiment extend the same few files
def _parse(text: str, path: Path) -> tuple[dict, Origins, list[str]]:
    origins, traps = Origins(), []
    constructor = yaml.constructor.SafeConstructor()
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError([f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}"]) from None
    except RecursionError:
        raise RecipeError([f"{path}: {_TOO_DEEP}"]) from None
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError([f"{path}: a recipe is a mapping of keys to values; this file is not"])

    def build(node: yaml.Node, key: Key):
        here = f"{path}:{node.start_mark.line + 1}"
        origins.setdefault(key, here)
        if len(origins) > _LARGEST:
            raise RecipeError(
                [f"{here}: more than {_LARGEST} values are in this file, counting each alias as what it repeats"]
            )
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN[node.id]:
            traps.append(f"{here}: {dotted(key)}: the tag {node.tag} is not allowed in a recipe; write a plain value")
            return None
        if isinstance(node, yaml.SequenceNode):
            return [build(child, (*key, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return {name: build(child, (*key, name)) for name, child in keys(node, key)}
        if not node.style and node.value.lower() in _AMBIGUOUS:
            traps.append(
                f"{here}: {dotted(key)}: a bare `{node.value}` is read as true/false by some YAML readers "
                f'and as a word by others; write true, false or "{node.value}"'
            )
            return None
        if not node.style and _UNDERSCORED.fullmatch(node.value):
            traps.append(
                f"{here}: {dotted(key)}: a bare `{node.value}` is read as a number by some "
                f'YAML readers and as a word by others; write "{node.value}" for the word'
            )
            return None
        try:
            return constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, KeyError):
            traps.append(
                f"{here}: {dotted(key)}: {node.value[:40]!r} is no {node.tag.rpartition(':')[2]}; write a plain value"
            )
            return None

    def keys(node: yaml.MappingNode, key: Key):
        seen: dict[str, int] = {}
        for name_node, child in node.value:
            line = name_node.start_mark.line + 1
            name = name_node.value
            if not isinstance(name_node, yaml.ScalarNode) or name == "<<":
                traps.append(
                    f"{path}:{line}: only plain words can be keys; to share values between recipes use `extends`"
                )
            elif name in seen:
                traps.append(
                    f"{path}:{line}: {dotted((*key, name))} is given twice (first on line {seen[name]}); keep one"
                )
            else:
                seen[name] = line
                origins[(*key, name)] = f"{path}:{line}"
                yield name, child

    try:
        values = build(root, ())
    except RecursionError:
        raise RecipeError([f"{path}: {_TOO_DEEP}"]) from None
    return values, origins, traps


def merged(base: dict, over: dict) -> dict:
    """`over` laid on `base`: mappings are merged key by key, everything else (lists too) is replaced.

    A mapping laid on a list of loss terms, `losses: {soft: {weight: 2}}`, changes those it names by their labels.
    """
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if (
            isinstance(value, dict)
            and isinstance(below, list)
            and all(term_index(below, word) is not None for word in value)
        ):
            result[key] = list(below)
            for word, change in value.items():
                index = term_index(below, word)
                result[key][index] = merged(below[index], change) if isinstance(change, dict) else change
        else:
            both = isinstance(value, dict) and isinstance(below, dict)
            result[key] = merged(below, value) if both else value
    return result


def term_index(terms: list, word: str) -> int | None:
    """Where a term stands in a list of losses: by its number, or by its label (the loss's name without one)."""
    if word.isdecimal():
        return int(word) if int(word) < len(terms) else None
    labels = [term.get("label") or term.get("loss") if isinstance(term, dict) else None for term in terms]
    return labels.index(word) if word in labels else None


def _numbered(key: Key, values: dict) -> Key:
    """The key with the label of a term replaced by its number."""
    place: object = values
    for depth, word in enumerate(key):
        if isinstance(place, list) and isinstance(word, str):
            index = term_index(place, word)
            return key if index is None else (*key[:depth], index, *key[depth + 1 :])
        place = place.get(word) if isinstance(place, dict) else None
    return key


def write(values: object) -> str:
    """The values as YAML that `read_file` reads back, every string as a string."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)


def one_line(value: object) -> str:
    """A value as one line of YAML."""
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"), default_flow_style=True
    )
    return text.removesuffix("...\n").strip()


def override(values: dict, origins: Origins, assignments: list[str]) -> None:
    """Applies `networks.student.args.backbone=resnet50 losses.1.weight=3` in place; values are written as in YAML."""
    mistakes = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            mistakes.append(
                f"command line: {assignment!r} is not of the form key=value, such as seed=3 or losses.1.weight=0.5"
            )
            continue
        try:
            wrapped, _, traps = copy.deepcopy(_parse(f"value: {text}\n", Path("command line")))
        except RecipeError as error:
            traps = error.mistakes
        if traps:
            told = [mistake.split(": ", 1)[1].removeprefix("value: ") for mistake in traps]
            mistakes += [f"command line: {path}: {text}" for text in told]
            continue
        mistake = _assign(values, path.split("."), wrapped["value"])
        if mistake:
            mistakes.append(f"command line: {path}: {mistake}")
        key = tuple(int(word) if word.isdecimal() else word for word in path.split("."))
        key = _numbered(key, values)
        origins.forget_inside(key)
        origins[key] = "command line"
    if mistakes:
        raise RecipeError(mistakes)


def _assign(values: dict, words: list[str], value: object) -> str | None:
    """Sets one value in nested mappings and lists; says what is in the way when it cannot."""
    place: dict | list = values
    for depth, word in enumerate(words):
        last = depth + 1 == len(words)
        if isinstance(place, list):
            index = term_index(place, word)
            if index is None:
                return f"{'.'.join(words[:depth])} is a list of {len(place)}, numbered from 0; {word!r} is not in it"
            word = index
        elif not isinstance(place, dict):
            return f"{'.'.join(words[:depth])} is {place!r}, which has nothing inside"
        elif not last and place.get(word) is None:
            place[word] = {}
        if last:
            place[word] = value
        else:
            place = place[word]
    return None
