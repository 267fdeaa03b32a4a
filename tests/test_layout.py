"""The house rules: who may import whom, what files may be called, how long they are, what they say about themselves."""

import ast
import configparser
import functools
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from segkd.models._network import Network

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("datasets", "losses", "models")
RUNNER = sorted((ROOT / "runner").rglob("*.py"))
PARTS = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
LARGEST = 400  # lines; a longer file wants a seam

# what a room may use besides the standard library and its own files
FRIENDS = {"torch", "torchvision", "numpy", "PIL", "timm", "transformers", "segment_anything", "safetensors",
           "huggingface_hub", "scipy", "annotated_types", "yaml"}  # fmt: skip


@functools.cache
def installed():
    """Package -> the distributions that bring it."""
    return metadata.packages_distributions()


@functools.cache
def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def found_in(files, rule):
    """File -> what a rule finds wrong in it, for the files where that is anything."""
    found = {str(file.relative_to(ROOT)): list(rule(file)) for file in files}
    return {file: wrong for file, wrong in found.items() if wrong}


def modules_of(node):
    """(module, how many dots stand before it) that a statement imports."""
    if isinstance(node, ast.Import):
        return [(alias.name, 0) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    if node.module is None:
        return [(alias.name, node.level) for alias in node.names]
    is_ours = node.module.split(".")[0] == "segkd"  # there a module may be what is imported from a folder
    return [(node.module, node.level)] + [
        (f"{node.module}.{alias.name}", node.level) for alias in node.names if is_ours
    ]


def imports(file):
    """Every import of a file, wherever it stands in it."""
    return [found for node in ast.walk(tree(file)) for found in modules_of(node)]


def imports_at_start(file):
    """The imports that run when the file is imported."""
    return [found for node in tree(file).body for found in modules_of(node)]


def not_of_the_room(file):
    """Imports that a file of datasets/, losses/ or models/ may not have."""
    siblings = {other.stem for other in file.parent.iterdir()}
    above = {other.stem for other in file.parent.parent.glob("*.py")} if file.parent.name[0] == "_" else set()
    for module, dots in imports(file):
        first = module.split(".")[0]
        known = {0: FRIENDS | sys.stdlib_module_names, 1: siblings, 2: above}
        if first not in known.get(dots, ()):
            yield "." * dots + module


def test_rooms_import_their_own_files_and_third_parties_only():
    assert found_in(PARTS, not_of_the_room) == {}


@pytest.mark.parametrize("line", [
    "import segkd.runner.building.graph", "from segkd.losses import kl", "from ..losses import kl", "import losses",
    "from datasets import load_dataset", "import requests", "from . import elsewhere",
    "def f():\n    import accelerate",
])  # fmt: skip
def test_forbidden_imports_are_found(tmp_path, line):
    (tmp_path / "part.py").write_text(f"import torch\nfrom .part import x\nimport os.path\n{line}\n")
    assert list(not_of_the_room(tmp_path / "part.py"))


def test_the_runner_imports_by_full_names():
    # its scripts have no package around them, and runner/ is on sys.path only where one of them is run
    short = {"runner", *ROOMS, *(path.stem for path in (ROOT / "runner").iterdir())}
    assert found_in(RUNNER, lambda file: [m for m, dots in imports(file) if dots or m.split(".")[0] in short]) == {}


def test_nobody_imports_an_entry_script():
    entries = {file.stem for file in RUNNER if 'if __name__ == "__main__":' in file.read_text()}
    assert {"distill", "score", "check"} <= entries
    names = {f"segkd.runner.{entry}" for entry in entries}
    others = [file for file in RUNNER + PARTS if file != ROOT / "runner/api.py"]  # which is these scripts as functions
    assert found_in(others, lambda file: names & {module for module, _ in imports(file)}) == {}


# room of runner/ -> how high it stands: arrows run down, from a room to a lower one or inside of it
FLOORS = {"recipe": 0, "loading": 1, "run_folder": 1, "building": 2, "scoring": 3,
          "training": 4, "comparing": 4, "drafting": 4, "exporting": 4, "predicting": 4}  # fmt: skip


def runs_up(file):
    """What a file of a room of runner/ imports of a room that is not lower, or of the commands above all rooms."""
    (own, *inside) = file.relative_to(ROOT / "runner").parts
    for module, _ in imports(file) if inside else ():
        words = module.split(".")
        if words[:2] == ["segkd", "runner"] and len(words) > 2 and words[2] not in ("console", "display", "process", own):
            if FLOORS.get(words[2], 9) >= FLOORS[own]:
                yield module


def test_arrows_between_the_rooms_of_the_runner_run_down():
    assert {path.name for path in (ROOT / "runner").iterdir() if path.is_dir()} - {"__pycache__"} == FLOORS.keys()
    assert found_in(RUNNER, runs_up) == {}


def test_no_two_files_import_each_other():
    names = {".".join(("segkd", *file.relative_to(ROOT).with_suffix("").parts)): file for file in RUNNER}
    below = {name: {module for module, _ in imports_at_start(file)} & names.keys() for name, file in names.items()}
    while below:  # takes away those that import none of the rest; a circle would stay
        free = [name for name, others in below.items() if not others & below.keys()]
        assert free, f"a circle among {sorted(below)}"
        below = {name: others for name, others in below.items() if name not in free}


def test_runner_files_shadow_nothing():
    # runner/ is the first place Python looks in when a script of it runs, for a file or a folder of the name it wants
    taken = (
        {"datasets", "evaluate", "models", "losses", "utils"} | sys.stdlib_module_names | installed().keys() - {"segkd"}
    )
    assert {path.stem for path in (ROOT / "runner").iterdir()} & taken == set()


def not_required(file):
    """What a file imports as a whole (inside a function it is for those who use it) and setup.cfg does not ask for."""
    required = {re.split("[><=]", line)[0] for line in SETUP["options"]["install_requires"].split()}
    for module, dots in imports_at_start(file):
        package = module.split(".")[0]
        if not dots and package != "segkd" and package not in sys.stdlib_module_names:
            if not required & {name.lower() for name in installed().get(package, [])}:
                yield package


def test_what_every_run_imports_is_installed_with_segkd():
    assert found_in(RUNNER + PARTS, not_required) == {}


def test_no_init_files():
    # with one, our datasets/ would take the place of the Hugging Face package of that name
    folders = [ROOT / name for name in ("runner", "recipes", "tests", *ROOMS)]
    assert [*ROOT.glob("__init__.py"), *(file for folder in folders for file in folder.rglob("__init__.py"))] == []


def test_files_are_short():
    sizes = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in RUNNER + PARTS + TESTS}
    assert {file: size for file, size in sizes.items() if size > LARGEST} == {}


def test_a_selectable_file_holds_one_public_class_of_its_own_name():
    def wrong(file):
        classes = [node.name for node in tree(file).body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
        return [] if [name.lower() for name in classes] == [file.stem.replace("_", "")] else [classes]

    selectable = [file for file in PARTS + RUNNER if file.parent.name in (*ROOMS, "metrics") and file.name[0] != "_"]
    assert found_in(selectable, wrong) == {}


def undocumented(file):
    """Public functions and classes of a file, and public methods of its public classes, without a docstring.

    A section of the recipe says what its fields mean, the docstring of a script is that of its `main`, and what torch
    or our Network asks of a module (forward, get_extra_state, ...) or `Metric` of a metric is documented there.
    """
    module = tree(file)
    if ast.get_docstring(module) is None:
        yield "the file itself"
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    for owner in (module, *classes):
        for node in owner.body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name[0] == "_" or node.name == "main":
                continue
            is_section = isinstance(node, ast.ClassDef) and any(
                getattr(base, "id", "") in ("Section", "Curve") for base in node.bases
            )
            is_asked_for = owner is not module and (
                hasattr(Network, node.name) or "Metric" in [getattr(base, "id", "") for base in owner.bases]
            )
            if ast.get_docstring(node) is None and not is_section and not is_asked_for:
                yield node.name


def test_everything_public_is_documented():
    assert found_in(RUNNER + PARTS, undocumented) == {}


def test_the_wheel_holds_every_room():
    rooms = {file.parent.relative_to(ROOT) for file in RUNNER + PARTS} | {Path("recipes")}
    assert {f"segkd.{'.'.join(room.parts)}" for room in rooms} == {*SETUP["options"]["packages"].split()}
    mapped = dict(line.split(" = ") for line in SETUP["options"]["package_dir"].split("\n") if line)
    assert mapped == {f"segkd.{room}": room for room in ("runner", "recipes", *ROOMS)}
