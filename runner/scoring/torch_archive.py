"""What a file of torch.export may hold: torch evaluates expressions, unpickles and looks up functions as it loads one.

So a file is read here first as the ZIP archive of JSON and tensors that it is, and refused where anything in it is more
than tensors, torch's own operators on them and arithmetic of sizes.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

LARGEST = 2**28  # bytes of a part that is not tensors
# the parts of an archive as torch.export.save writes it, below a folder of any name
PARTS = re.compile(
    r"[^/]+/(data/weights/weight_\d+|data/weights/model_weights_config\.json|data/constants/tensor_\d+"
    r"|data/constants/model_constants_config\.json|models/model\.json|data/sample_inputs/model\.pt|extra/\w+\.json"
    r"|archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id|version)"
)
OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.sym_(int|float|max|min|not|sum|ite|sqrt)"
    r"|math\.(ceil|floor|trunc|sqrt|pow)"
    r"|_operator\.(add|sub|mul|neg|floordiv|truediv|mod|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
NAME = re.compile(r"[\w.+]*")  # torch writes names into the code it makes of a graph
STRUCTURE = re.compile(r'[\w\s\[\]{}",.:]*')  # of what goes in and out
# arithmetic of sizes, as sympy and torch write it
SIZES = re.compile(r"[\w\s()\[\]'.,+\-*/%<>=!]*")
WORDS = re.compile(
    r"[su]\d+|\d+|L|images|x|size|and|or|not|positive|nonnegative|integer|real|finite|True|False|Symbol|Integer|Float"
    r"|Rational|Half|One|Zero|NegativeOne|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|IntTrueDiv"
    r"|FloatTrueDiv|ToFloat|TruncToInt|CeilToInt|FloorToInt|ModularIndexing|Where|Identity|Eq|Ne|Lt|Le|Gt|Ge|Equality"
    r"|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|floor|ceiling|evaluate"
    r"|torch|sym_(max|min|int|float|not)|math|ceil"
)


def refuse_code(path: Path) -> None:
    """ValueError where loading a file of torch.export could start code, or where it is no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = next(_wrong(archive), None)
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        wrong = f"it is damaged or of another version of torch ({str(error)[:100]})"
    if wrong:
        raise ValueError(f"{path} is not read: {wrong}; only files that export.py --to torch writes are")


def _wrong(archive: zipfile.ZipFile) -> Iterator[str]:
    """What is in an archive that may not be there."""
    names = archive.namelist()
    if len({name.partition("/")[0] for name in names}) != 1 or len(set(names)) != len(names):
        yield "it is no archive of torch.export"
        return
    root = names[0].partition("/")[0]
    for name in names:
        if not PARTS.fullmatch(name):
            yield f"it holds {name[:100]}, which is no part of a network"
        elif not re.search("weight_|tensor_", name) and archive.getinfo(name).file_size > LARGEST:
            yield f"its {name} is too large"
    for kind in ("weights", "constants"):
        config = json.loads(archive.read(f"{root}/data/{kind}/model_{kind}_config.json"))["config"]
        plain = r"(weight|tensor)_\d+"
        if not all(
            entry["use_pickle"] is False and re.fullmatch(plain, entry["path_name"]) for entry in config.values()
        ):
            yield f"its {kind} are pickled objects, which could start code"
    try:  # torch would go on to read it as what starts code
        torch.load(io.BytesIO(archive.read(f"{root}/data/sample_inputs/model.pt")), weights_only=True)
    except Exception as error:
        yield f"its sample inputs are no tensors ({type(error).__name__})"
    yield from _wrong_in_graph(json.loads(archive.read(f"{root}/models/model.json")))


def _wrong_in_graph(model: dict) -> Iterator[str]:
    """What a graph holds besides torch's operators, plain names and arithmetic of sizes."""
    for key, value in _entries(model):
        if key in ("as_custom_obj", "as_graph", "as_operator"):
            yield f"it holds {key.removeprefix('as_')}, which is no tensor"
        if not NAME.fullmatch(key):
            yield f"it has the name {key[:80]!r}"
        if not isinstance(value, str) or key == "as_string":  # which torch quotes
            continue
        if key == "target" and not OPERATORS.fullmatch(value):
            yield f"it has the operator {value[:80]!r}, which is none of torch's own"
        elif key in ("expr_str", "guards_code") and not is_arithmetic(value):
            yield f"a size in it is no arithmetic: {value[:80]!r}"
        elif key in ("in_spec", "out_spec"):
            kinds = re.findall(r'"type": *"([^"]*)"', value)
            if not STRUCTURE.fullmatch(value) or {*kinds} - {"builtins.tuple", "builtins.list", "builtins.dict"}:
                yield f"it takes or gives {value[:80]!r}, which is no tensor"
        elif key not in ("target", "expr_str", "guards_code") and not NAME.fullmatch(value):
            yield f"it has the name {value[:80]!r}"


def is_arithmetic(text: object) -> bool:
    """Whether a text is arithmetic of sizes and nothing else: sympy and Python evaluate it."""
    if not isinstance(text, str) or not SIZES.fullmatch(text):
        return False
    return all(WORDS.fullmatch(word) for word in re.findall(r"\w+", text))


def _entries(value: object, above: str = "") -> Iterator[tuple[str, object]]:
    """Every (key, value) at any depth, items of a list under the list's key; not the notes on where a node is from."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "metadata":
                yield key, None
                yield from _entries(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, above)
    else:
        yield above, value
