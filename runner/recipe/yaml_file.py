"""Reads recipe files: YAML without its traps, `extends`, `key=value` overrides; knows which line each value is from."""

import copy
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

import yaml

from segkd.runner.recipe.mistakes import Key, Origins, RecipeError, did_you_mean, dotted
from segkd.runner.recipe.shipped import hint_for_recipe
from segkd.runner.recipe.text_file import read_text


# libyaml's parser where PyYAML was built with it: ten times as fast
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML reads YAML 1.1; this one resolves plain values as in 1.2: `1e-2` is a float, `1:30` and `08` strings."""


class _Dumper(yaml.SafeDumper):
    """Quotes every string that a reader of either YAML would take for something else."""


_Loader.yaml_implicit_resolvers = {}
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

# what this reader itself takes for a trap, see read_with_traps
_UNDERSCORED = re.compile(r"\d+(_\d+)+")
_AMBIGUOUS = {"yes", "no", "on", "off", "y", "n"}  # booleans in YAML 1.1, words in YAML 1.2
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"^{_UNDERSCORED.pattern}$"), list("0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(f"(?i)^(?:{'|'.join(_AMBIGUOUS)})$"), list("yYnNoO"))

for kind in (PurePath, os.PathLike):  # paths are words, too
    _Dumper.add_multi_representer(kind, lambda dumper, path: dumper.represent_str(os.fspath(path)))

# where a recipe names others, by paths that count from its own folder
OTHER_RECIPES: tuple[Key, ...] = (("networks", "*", "weights", "recipe"), ("baseline", "recipe"))
GIVEN = "the mapping"  # where a recipe that is no file was written
_PLAIN = {"scalar": {"null", "bool", "int", "float", "str"}, "sequence": {"seq"}, "mapping": {"map"}}
_LARGEST_FILE = 2**20  # bytes
_DEEPEST = 100  # recipes that extend each other
_LARGEST = 10_000  # values in one file; aliases of aliases could ask for more than the memory holds
_ABSOLUTE = re.compile(r"[/~$]|\w+://")  # and what becomes so, and addresses
_UNKNOWN = re.compile(r"\$(\w+|\{\w+\})|^~[^/]*")  # what is left of a path with variables in it


def lies_inside(root: Path, path: Path) -> bool:
    """Whether a path stays in a folder, as it is written: links are not followed, the Hub's cache is made of them."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def expanded(path: str) -> str:
    """A path with `~` and `$HOME` (or any other variable) in it as this machine has them.

    Raises:
        ValueError: it has no such user or variable, and no file of that very name.
    """
    found = os.path.expandvars(os.path.expanduser(path))
    unknown = _UNKNOWN.search(found)
    if unknown and not os.path.lexists(found):
        raise ValueError(f"{unknown[0]} in {path!r} is not known on this machine; export it, or write the path itself")
    return found


def value_at(values: object, *key: str | int) -> object:
    """What stands at a path of keys in nested mappings and lists; None where nothing does."""
    for word in key:
        if isinstance(values, list) and isinstance(word, int):
            values = values[word] if word < len(values) else None
        else:
            values = values.get(word) if isinstance(values, dict) else None
    return values


def places(values: object, pattern: Key, above: Key = ()) -> Iterator[tuple[dict, Key]]:
    """(mapping, key) of what may stand at the end of a path of keys, `*` being every word in its place."""
    word, *rest = pattern
    for name in (list(values) if word == "*" else [word]) if isinstance(values, dict) else ():
        if rest:
            yield from places(values.get(name), tuple(rest), (*above, name))
        else:
            yield values, (*above, name)


def read_with_traps(
    path: str | Path, root: Path | None = None, above: tuple[Path, ...] = ()
) -> tuple[dict, Origins, list[str]]:
    """One YAML file with what it extends: values, their origins, and the traps in it as located sentences.

    A value that is a trap is null, so that what else is wrong can be found in the same pass.

    Args:
        root: a folder that what it extends must lie in. above: the files that extend this one.

    Raises:
        RecipeError: the file cannot be read as YAML at all. FileNotFoundError: it, or what it extends, is not there.
    """
    path = Path(path)
    real = Path(os.path.realpath(path))  # which says nothing of links that lead to themselves; reading them does
    if real in above:
        raise RecipeError([f"{above[-1]}: `extends` goes round in a circle through {path}"])
    if len(above) > _DEEPEST:
        raise RecipeError([f"{above[-1]}: more than {_DEEPEST} recipes extend each other, down to this one"])
    try:
        text = read_text(path, _LARGEST_FILE)
    except FileNotFoundError:
        asked = f" (asked for by `extends` in {above[-1]})" if above else ""
        raise FileNotFoundError(f"there is no recipe file {path}{hint_for_recipe(path)}{asked}") from None
    except ValueError as error:
        asked = f" (`extends` in {above[-1]} asks for it)" if above else ""
        raise RecipeError([f"{error}{hint_for_recipe(path) if path.is_dir() else ''}{asked}"]) from None
    values, origins, traps = copy.deepcopy(_parse(text, path))  # what is kept of a file must not be changed
    return _extended(values, origins, traps, path, root, (*above, real))


def read_given(given: dict) -> tuple[dict, Origins, list[str]]:
    """As read_with_traps: a mapping in place of a file, which may extend files of the working directory.

    Raises:
        RecipeError: something in it is no plain value.
    """
    path = Path("recipe.yaml")
    values, origins, traps = _parse(write(given), path)
    return _extended(copy.deepcopy(values), Origins(dict.fromkeys(origins, GIVEN)), traps, path, None, ())


def _extended(
    values: dict, origins: Origins, traps: list[str], path: Path, root: Path | None, above: tuple[Path, ...]
) -> tuple[dict, Origins, list[str]]:
    """The values of the file `path`, the last of `above`, laid over those of the file that it extends."""
    base = values.pop("extends", None)
    if base is None:
        return values, origins, traps
    at = origins.of(("extends",))
    if not isinstance(base, str):
        raise RecipeError([f"{at}: extends must be the path of one recipe, got {base!r}"])
    if root is None:
        try:
            base = expanded(base)
        except ValueError as error:
            raise RecipeError([f"{at}: extends: {error}"]) from None
    elif not lies_inside(root, path.parent / base):
        text = f"extends: {base} does not lie beside this recipe, where one from elsewhere must stay"
        raise RecipeError([f"{at}: {text}"])
    below, below_origins, below_traps = read_with_traps(path.parent / base, root, above)
    for place, key in (found for pattern in OTHER_RECIPES for found in places(below, pattern)):
        named = place.get(key[-1])
        if isinstance(named, str) and not _ABSOLUTE.match(named):
            place[key[-1]] = os.path.normpath(os.path.join(os.path.dirname(base), named))
    for replaced in {key[:-1] for key in origins if key and isinstance(key[-1], int)}:
        below_origins.forget_inside(replaced)
    below_origins.update({_numbered(key, below): at for key, at in origins.items()})
    return merged(below, values), below_origins, traps + below_traps


@functools.lru_cache(maxsize=256)  # recipes of one experiment extend the same few files
def _parse(text: str, path: Path) -> tuple[dict, Origins, list[str]]:
    origins, traps = Origins(), []
    constructor = yaml.constructor.SafeConstructor()

    def trap(node: yaml.Node, words: str) -> None:
        traps.append(f"{path}:{node.start_mark.line + 1}: {words}")

    def build(node: yaml.Node, key: Key):
        origins.setdefault(key, f"{path}:{node.start_mark.line + 1}")
        if len(origins) > _LARGEST:
            words = f"more than {_LARGEST} values are in this file, counting each alias as what it repeats"
            raise RecipeError([f"{origins[key]}: {words}"])
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN[node.id]:
            return trap(node, f"{dotted(key)}: the tag {node.tag} is not allowed in a recipe; write a plain value")
        if isinstance(node, yaml.SequenceNode):
            return [build(child, (*key, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return {name: build(child, (*key, name)) for name, child in keys(node, key)}
        word = node.value
        if "\0" in word:
            return trap(node, f"{dotted(key)}: holds a NUL character, which no name, path or file can have")
        bare = f"{dotted(key)}: a bare `{word}` is read as %s by some YAML readers and as a word by others; write %s"
        if not node.style and word.lower() in _AMBIGUOUS:
            return trap(node, bare % ("true/false", f'true, false or "{word}"'))
        if not node.style and _UNDERSCORED.fullmatch(word):
            return trap(node, bare % ("a number", f'"{word}" for the word'))
        try:
            return constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, KeyError):
            kind = node.tag.rpartition(":")[2]
            return trap(node, f"{dotted(key)}: {word[:40]!r} is no {kind}; write a plain value")

    def keys(node: yaml.MappingNode, key: Key):
        seen: dict[str, int] = {}
        for name_node, child in node.value:
            name, line = name_node.value, name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode) or name == "<<":
                trap(name_node, "only plain words can be keys; to share values between recipes use `extends`")
            elif "\0" in name:
                trap(name_node, f"{dotted(key)}: a key holds a NUL character")
            elif name in seen:
                trap(name_node, f"{dotted((*key, name))} is given twice (first on line {seen[name]}); keep one")
            else:
                seen[name] = line
                origins[(*key, name)] = f"{path}:{line}"
                yield name, child

    try:
        root = yaml.compose(text, Loader=_Loader)
        if not isinstance(root, yaml.MappingNode):
            raise RecipeError([f"{path}: a recipe is a mapping of keys to values; this file is not"])
        return build(root, ()), origins, traps
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError([f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}"]) from None
    except RecursionError:
        raise RecipeError([f"{path}: nested too deeply, or an alias stands inside of what it repeats"]) from None


def merged(base: dict, over: dict) -> dict:
    """`over` laid on `base`: mappings are merged key by key, everything else (lists too) is replaced.

    A mapping laid on a list of loss terms, `losses: {soft: {weight: 2}}`, changes those it names by their labels.
    """
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, dict) and isinstance(below, list):
            changes = {term_index(below, word): change for word, change in value.items()}
            if None not in changes:
                value = list(merged(dict(enumerate(below)), changes).values())
        elif isinstance(value, dict) and isinstance(below, dict):
            value = merged(below, value)
        result[key] = value
    return result


def term_index(terms: list, word: str) -> int | None:
    """Where a term stands in a list of losses: by its number, or by its label (the loss's name without one)."""
    if word.isdecimal():
        return int(word) if int(word) < len(terms) else None
    labels = labels_of(terms)
    return labels.index(word) if word in labels else None


def labels_of(terms: list) -> list:
    """What each term of a list of losses is called: by its label, or as its loss; None for what is no term."""
    return [term.get("label") or term.get("loss") if isinstance(term, dict) else None for term in terms]


def _numbered(key: Key, values: object) -> Key:
    """The key with the numbers of terms in place of their labels."""
    found: Key = ()
    for word in key:
        if isinstance(values, list) and isinstance(word, str):
            index = term_index(values, word)
            word = word if index is None else index
        values = value_at(values, word)
        found += (word,)
    return found


def write(values: object) -> str:
    """The values as YAML that is read back as they are, every string as a string."""
    return _dumped(values, width=120, default_flow_style=False)


def one_line(value: object) -> str:
    """A value as one line of YAML."""
    return _dumped(value, width=10**9, default_flow_style=True).removesuffix("...\n").strip()


def _dumped(value: object, *, width: int, default_flow_style: bool) -> str:
    style = {"width": width, "default_flow_style": default_flow_style}
    try:
        return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)
    except yaml.representer.RepresenterError as error:
        said = f"{error.args[-1]!r} cannot stand in a recipe, which has numbers, words, lists and mappings of them"
        raise RecipeError([f"{GIVEN}: {said}"]) from None


def override(values: dict, origins: Origins, assignments: list[str]) -> None:
    """Applies `networks.student.args.backbone=resnet50 losses.1.weight=3` in place; values are written as in YAML."""
    mistakes = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            example = "such as seed=3 or losses.1.weight=0.5"
            mistakes.append(f"command line: {assignment!r} is not of the form key=value, {example}")
            continue
        try:
            wrapped, _, traps = copy.deepcopy(_parse(f"value: {text}\n", Path("command line")))
        except RecipeError as error:
            traps = error.mistakes
        if not traps and len(wrapped) > 1:
            wrong = [f"sets {', '.join(list(wrapped)[1:])}, too, on lines of its own; give each its own key=value"]
        elif traps:
            wrong = [trap.split(": ", 1)[1].removeprefix("value: ") for trap in traps]
        else:
            key = _numbered(tuple(path.split(".")), values)
            wrong = _assign(values, key, wrapped["value"])
            origins.forget_inside(key)
            origins[key] = "command line"
        mistakes += [f"command line: {path}: {words}" for words in wrong]
    if mistakes:
        raise RecipeError(mistakes)


def _assign(values: dict, key: Key, value: object) -> list[str]:
    """Sets one value in nested mappings and lists; says what is in the way when it cannot."""
    place: object = values
    for depth, word in enumerate(key):
        if isinstance(place, list) and not isinstance(word, int):
            known = [str(label) for label in labels_of(place) if label is not None]
            told = f": {', '.join(known)}; {word!r} is none of them{did_you_mean(word, known)}" if known else ""
            text = f"{dotted(key[:depth])} is a list of {len(place)}, numbered from 0"
            return [text + (told or f"; {word!r} is not in it")]
        if not isinstance(place, (dict, list)):
            return [f"{dotted(key[:depth])} is {place!r}, which has nothing inside"]
        if depth + 1 == len(key):
            place[word] = value
        elif value_at(place, word) is None:
            place[word] = {}
        place = place[word]
    return []
