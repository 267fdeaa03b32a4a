"""From file names to classes: every part of every room, and what is wrong with arguments."""

import inspect
import sys
import typing
from pathlib import Path

import pydantic
import pytest

from segkd.runner.recipe import parts

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("datasets", "losses", "models")
EVERY = [(room, name) for room in ROOMS for name in parts.names(room)]


def test_names_are_the_files():
    for room in ROOMS:
        assert parts.names(room) == sorted(file.stem for file in (ROOT / room).glob("*.py") if file.name[0] != "_")


@pytest.mark.parametrize("room, name", EVERY)
def test_a_part_is_the_class_named_like_its_file(room, name):
    part = parts.find(room, name)
    assert part.__name__.lower() == name.replace("_", "") and part.__module__ == f"segkd.{room}.{name}"
    module = vars(sys.modules[part.__module__])
    classes = [value for key, value in module.items() if inspect.isclass(value) and key[0] != "_"]
    assert [value for value in classes if value.__module__ == part.__module__] == [part]


@pytest.mark.parametrize("room, name", [*EVERY, ("datasets", "_transforms")])
def test_arguments_have_hints_that_their_defaults_fit(room, name):
    part = parts.find(room, name)
    hints = typing.get_type_hints(part.__init__)
    for parameter in inspect.signature(part).parameters.values():
        assert parameter.name in hints, f"{room}/{name}.py: {parameter.name} has no type hint"
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY), parameter
        if parameter.default is not parameter.empty:
            adapter = pydantic.TypeAdapter(hints[parameter.name], config=pydantic.ConfigDict(strict=True))
            assert adapter.validate_python(parameter.default) == parameter.default
    first = list(inspect.signature(part).parameters)[:2]
    assert first[:1] == {"losses": ["task"], "models": ["num_classes"]}.get(room, first[:1])
    if room == "datasets" and name != "_transforms":
        assert first == ["root", "split"]


@pytest.mark.parametrize("name", parts.names("losses"))
def test_losses_read_student_teacher_and_target(name):
    _, *names = inspect.signature(parts.find("losses", name).forward).parameters
    assert names == ["student", "teacher", "target"]


def test_losses_say_whether_they_need_a_teacher():
    found = {name: parts.needs_teacher(name) for name in ("cross_entropy", "kl", "fitnet")}
    assert found == {"cross_entropy": False, "kl": True, "fitnet": True}


def test_wrong_arguments():
    wrong = dict(parts.wrong_arguments("losses", "kl", {"temprature": 1, "reduction": "pixl", "temperature": "hot"}))
    told = "unknown key, did you mean 'temperature'?; allowed here: temperature, reduction"
    assert wrong[("temprature",)].startswith(told)
    assert wrong[("reduction",)] == "must be 'pixel' or 'element'; got 'pixl'"
    assert wrong[("temperature",)] == "must be a valid number; got 'hot'"
    assert parts.wrong_arguments("losses", "kl", {"temperature": 2}) == []
    assert dict(parts.wrong_arguments("losses", "kl", {"task": 3})).keys() == {("task",)}
    ((key, told),) = parts.wrong_arguments("models", "pspnet", {"output_stride": 12})
    assert (key, told) == (("output_stride",), "must be 8, 14, 16 or 32; got 12")


def test_completed_arguments_are_plain_and_build():
    full = parts.completed_arguments("datasets", "synthetic", {"size": [32, 40]})
    assert full == {"size": [32, 40], "length": None, "near": [0.02, 0.75], "seed": 0}
    dataset = parts.build("datasets", "synthetic", full | {"length": 3}, "", "val")
    assert (dataset.size, dataset.split, len(dataset)) == ((32, 40), "val", 3)
    transform = parts.build("datasets", "_transforms", {"flip": 0.0}, (8, 8))
    assert type(transform).__name__ == "Transform" and transform.crop_size == (8, 8)


def test_a_new_file_is_a_new_part(new_part):
    new_part(
        "losses",
        "my_own",
        """\
        class MyOwn:
            def __init__(self, task, *, needed: int, power: float = 2.0):
                self.power = power
        """,
    )
    assert "my_own" in parts.names("losses")
    assert dict(parts.wrong_arguments("losses", "my_own", {})) == {("needed",): "is missing and has no default"}
    assert parts.build("losses", "my_own", {"needed": 1, "power": 3}, None).power == 3.0


@pytest.mark.parametrize("text, told", [
    ("class Other:\n    pass\n", r"losses/my_own.py holds no class of its own name \(such as MyOwn"),
    ("from torch import Tensor\n\nclass MyOwn(nn.Module):\n    pass\n",
     r"losses/my_own.py, line 3: Python cannot import the file: NameError: name 'nn' is not defined"),
    ("class MyOwn:\n    def __init__(self:\n", r"losses/my_own.py, line 2: .* SyntaxError: "),
    ("\nfrom segkd.losses._task import Tasks\n", r"losses/my_own.py, line 2: .* ImportError: cannot import name 'Tasks'"),
    ("import not_there\n", r"losses/my_own.py, line 1: .* ModuleNotFoundError: No module named 'not_there'"),
    ("def f():\n    return 1 / 0\n\nf()\n", r"losses/my_own.py, line 2: .* ZeroDivisionError: "),
    ("class MyOwn:\n    def __init__(self, task: 'Task'):\n        pass\n",
     r"losses/my_own.py: a hint of MyOwn.__init__ is not known: name 'Task' is not defined"),
    ("from torch import Tensor\n\nclass MyOwn:\n    def __init__(self, task, *, weight: Tensor):\n        pass\n",
     r"losses/my_own.py: an argument of MyOwn has a hint that no YAML value fits .*Tensor"),
])  # fmt: skip
def test_what_is_wrong_with_a_file(new_part, text, told):
    new_part("losses", "my_own", text)
    with pytest.raises(ValueError, match=told):
        parts.wrong_arguments("losses", "my_own", {})


def test_a_loss_says_what_it_learns_from(new_part):
    new_part("losses", "my_own", "class MyOwn:\n    def forward(self, student, teacher, target):\n        pass\n")
    with pytest.raises(ValueError, match="losses/my_own.py: its forward must have a `teacher: Prediction`, or"):
        parts.needs_teacher("my_own")


def test_a_part_that_is_not_there():
    with pytest.raises(ModuleNotFoundError, match="segkd.losses.nothing"):
        parts.find("losses", "nothing")


@pytest.mark.parametrize("source, args, file, given", [
    ("hf", {}, "huggingface", {"name": "a/b"}),
    ("hf", {"head": None, "last_norm": True}, "bare_encoder", {"backbone": "hf/a/b", "last_norm": True}),
    ("hf", {"head": "upernet"}, "upernet", {"backbone": "hf/a/b"}),
    ("timm", {"head": None}, "bare_encoder", {"backbone": "timm/a/b"}),
    ("timm", {"head": "pspnet"}, "pspnet", {"backbone": "timm/a/b"}),
    ("segkd", {"backbone": "hf/c/d"}, "a/b", {"backbone": "hf/c/d"}),
])  # fmt: skip
def test_networks_from_elsewhere_there_and_back(source, args, file, given):
    assert parts.network_part(source, "a/b", args) == (file, given)
    assert parts.arguments_in_recipe(source, file, given) == args
