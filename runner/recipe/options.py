"""What a part or a section of a recipe takes: names, defaults and ranges from hints, meanings from docstrings."""

import importlib
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator

import pydantic

from segkd.runner.recipe import parts
from segkd.runner.recipe.allowed import allowed, fields_of
from segkd.runner.recipe.mistakes import close_to
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.yaml_file import one_line

WIDTH = 110  # letters of a line
ROOMS = {"losses": "losses", "models": "models", "datasets": "datasets", "metrics": parts.METRICS}
# files whose docstrings say what arguments mean that several parts of a room have
SHARED = {"losses": "segkd.losses._task", "models": "segkd.models._network"}
# sections that are the arguments of a part
ARGUMENTS = {"data.transform": "_transforms", "data.unlabelled.strong": "_strong", "data.mix": "_mixing"}


def options_of(word: str) -> str:
    """What `word` takes, a line and its meaning for each: a file such as kl, losses/kl, or a section such as loop.

    Raises:
        ValueError: it names nothing, or several; which words are near.
    """
    known = [*sections(), *ARGUMENTS, *(f"{room}/{name}" for room, full in ROOMS.items() for name in parts.names(full))]
    found = [word] if word in known else [key for key in known if re.split("[./]", key)[-1] == word]
    if len(found) > 1:
        raise ValueError(f"{word} may be {' or '.join(found)}; say which")
    if not found:
        near = close_to(word, dict.fromkeys([*known, *(re.split("[./]", key)[-1] for key in known)]))
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ValueError(f"nothing is called {word}{hint}; `recipes.py options` lists all there is")
    (key,) = found
    room, _, name = key.partition("/")
    if key in ARGUMENTS:
        return _of_part("datasets", ARGUMENTS[key], f"{key}: ")
    return _of_part(ROOMS[room], name) if name else _of_section(key)


def index() -> str:
    """All words that options_of takes, by what they are."""
    words = {"sections": [*sections(), *ARGUMENTS]} | {room: parts.names(full) for room, full in ROOMS.items()}
    return "\n".join(_wrapped(f"{kind:10}{'  '.join(names)}", " " * 10) for kind, names in words.items())


def sections(section: type[pydantic.BaseModel] = Recipe, above: str = "") -> dict[str, type[pydantic.BaseModel]]:
    """Path in a recipe -> section, such as data.unlabelled; `networks` and `losses` are one network and one term."""
    found = {} if above else {"recipe": section}
    for name, field in section.model_fields.items():
        for kind in _sections_in(field.annotation):
            key = f"{above}{field.alias or name}"
            found |= {key: kind} | sections(kind, f"{key}.")
    return found


def _sections_in(hint: object) -> Iterator[type[pydantic.BaseModel]]:
    if inspect.isclass(hint) and issubclass(hint, pydantic.BaseModel):
        yield hint
    for inner in typing.get_args(hint):
        yield from _sections_in(inner)


def _of_section(key: str) -> str:
    section = sections()[key]
    schema = section.model_json_schema(by_alias=True)
    meanings = {name: field.get("description", "") for name, field in fields_of(schema).items()}
    words = " ".join((section.__doc__ or "a section of the recipe.").split())
    return _wrapped(f"{key}: {words}") + f"\n\n{_table(schema, meanings)}"


def _of_part(room: str, name: str, before: str = "") -> str:
    """A part: what it is, what it asks for, its arguments, and what its docstring says of what it gives."""
    part = parts.find(room, name)
    first, source = (" ".join(_doc(one).split("\n\n")[0].split()) for one in (part, inspect.getmodule(part)))
    lines = [_wrapped(": ".join(filter(None, [f"{before}{parts.path_of(room, name)}", source]))), ""]
    lines += [*filter(None, [_wrapped(first)]), *(map(_wrapped, _asked_by(name)) if room == "losses" else ())]
    lines += ["", _table(parts.schema_of(room, name), meanings_of(room, name))]
    for title in ("Features", "Values"):
        entries = _entries(_block(_doc(part), title))
        lines += ["", f"{title}:", *(_wrapped(f"    {entry}", "    ") for entry in entries)] if entries else []
    return "\n".join(lines)


def _asked_by(loss: str) -> Iterator[str]:
    """What a loss asks for, a sentence each."""
    teacher, labels = parts.needs_teacher(loss), parts.needs_labels(loss)
    yield "It learns from another network." if teacher else "It needs no other network."
    yield "It reads labels: `on: labelled` alone." if labels else "It reads no labels: any images will do (`on`)."
    features = parts.features_read(loss)
    if features is not None:
        told = [f"`{'`, `'.join(sorted(names))}` of the {who}" for who, names in features.items() if names]
        yield f"Features it asks for by default: {', '.join(told)}." if told else "It reads scores and no features."


def _table(schema: dict, meanings: dict[str, str]) -> str:
    """Name, default and what is allowed in columns, and under them what it means."""
    fields = fields_of(schema)
    if not fields:
        return "It takes no arguments."
    rows = [["argument", "default", "allowed"]]
    for name, field in fields.items():
        default = "needed" if name in schema.get("required", []) else one_line(field.get("default"))
        rows.append([name, default if len(default) <= 30 else "...", allowed(field, schema.get("$defs", {}))])
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines, told = [], {}
    for name, default, words in rows:
        start = f"{name:{widths[0]}}  {default:{widths[1]}}  "
        lines.append(_wrapped(start + words, " " * len(start)))
        meaning = meanings.get(name)
        if meaning:
            first = told.setdefault(meaning, name)
            lines.append(_wrapped(f"    {meaning}" if first == name else f"    the same as {first}", "    "))
    return "\n".join(lines)


def meanings_of(room: str, name: str) -> dict[str, str]:
    """What each argument of a part means, from its docstring and, where that names it, the one that its room shares."""
    names = list(fields_of(parts.schema_of(room, name)))
    shared = {}
    if room in SHARED:
        shared = _meanings(_block(_doc(importlib.import_module(SHARED[room])), "Args", "Arguments"), names)
    block = _block(_doc(parts.find(room, name)), "Args")
    own = _meanings(block, names)
    seen = re.compile(r"^see models/_network\.py[.;]?\s*")
    own = {key: f"{shared.get(key, '')} {seen.sub('', text)}".strip() if seen.match(text) else text
           for key, text in own.items()}  # fmt: skip
    entries = _entries(block)
    told = {}  # in the words on another argument
    for key in [key for key in names if key not in shared | own]:
        entry = next((entry for entry in entries if re.search(rf"\b{key}\b", entry)), None)
        told |= {key: f"see {re.split('[,:]', entry)[0]}"} if entry else {}
    return {**shared, **own, **told}


def _doc(part: object) -> str:
    """The docstring of a class or module itself; empty where nobody has written one."""
    return inspect.cleandoc(part.__doc__ or "")


def _block(docstring: str, *titles: str) -> str:
    """What stands under one of the titles, such as Args, in a docstring."""
    lines = docstring.splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip() in [f"{title}:" for title in titles]:
            depth = len(line) - len(line.lstrip())
            inside = itertools.takewhile(lambda one: one[: depth + 1].isspace() or not one, lines[number:])
            return textwrap.dedent("\n".join(inside)).strip("\n")
    return ""


def _entries(block: str) -> list[str]:
    """The entries of a block, each in one line: what is indented, or follows a comma, goes on."""
    entries: list[str] = []
    for line in block.splitlines():
        if entries and (line.startswith(" ") or not line or entries[-1].endswith(",")):
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line.strip())
    return [entry.strip() for entry in entries]


def _meanings(block: str, names: list[str]) -> dict[str, str]:
    """Argument -> its meaning; an entry may name several, `a, b: ...`, and others behind a full stop, `... c: ...`."""
    word = r"\w+(?: \([^)]*\))?"
    found: dict[str, str] = {}
    for entry in _entries(block):
        start, *pieces = re.split(rf"(?:^|(?<=\. ))((?:{word}, )*{word}): ", entry)
        heads: list[str] = []
        for head, text in zip(pieces[::2], pieces[1::2]):
            words = re.findall(r"\w+", re.sub(r"\([^)]*\)", "", head))
            known = [one for one in words if one in names]
            if known:
                heads = known
                remarks = " ".join(re.findall(r"\(([^)]*)\)", head))
                found |= {one: (f"{text.strip()} ({remarks})" if remarks else text.strip()) for one in heads}
            else:
                found |= {one: f"{found[one]} {head}: {text.strip()}" for one in heads}
    return found


def _wrapped(text: str, behind: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=behind, break_long_words=False, break_on_hyphens=False,
                         drop_whitespace=True, replace_whitespace=False) if text.strip() else text  # fmt: skip
