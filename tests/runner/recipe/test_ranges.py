"""Every number of a recipe, of a sweep and of any part's arguments has a range that what computes with it can take."""

import typing
from collections.abc import Iterator

import pydantic
import pytest

from segkd.runner.comparing.sweep_plan import Sweep
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Recipe

ROOMS = ("datasets", "losses", "models", parts.METRICS)
SCHEMAS = {"recipe": Recipe, "sweep": Sweep} | {
    f"{room}/{name}": parts._arguments(room, name)
    for room in ROOMS
    for name in [*parts.names(room), *(parts.UNNAMED if room == "datasets" else ())]
}
NONSENSE = (10**30, -(10**30), 1e30, -1e30, float("nan"), float("inf"))


def numbers_in(hint: object, path: tuple = (), around: tuple = ()) -> Iterator[tuple[tuple, object]]:
    """(path, hint with its ranges) of every number that a hint admits; 0 stands for any item, `any` for any key."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        yield from numbers_in(inside[0], path, (*around, *hint.__metadata__))
    elif hasattr(hint, "model_fields"):
        for name, field in hint.model_fields.items():
            yield from numbers_in(field.annotation, (*path, field.alias or name), tuple(field.metadata))
    elif origin is tuple and Ellipsis not in inside:
        for index, one in enumerate(inside):
            yield from numbers_in(one, (*path, index))
    elif origin in (list, tuple):
        yield from numbers_in(inside[0], (*path, 0))
    elif origin is dict:
        yield from numbers_in(inside[1], (*path, "any"))
    elif origin is not typing.Literal and inside:
        for one in inside:
            yield from numbers_in(one, path, around)
    elif hint in (int, float):
        yield path, typing.Annotated[(hint, *around)] if around else hint


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_number_is_without_a_range(name):
    for path, hint in numbers_in(SCHEMAS[name]):
        rules = pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(strict=True, allow_inf_nan=False))
        for value in NONSENSE:
            with pytest.raises(pydantic.ValidationError):
                assert rules.validate_python(value) and False, f"{name}: {path} may be {value}"


def test_every_number_was_looked_at():
    found = {".".join(map(str, path)) for name in ("recipe", "sweep") for path, _ in numbers_in(SCHEMAS[name])}
    assert len(found) > 50 and found >= {
        "seed", "data.crop_size.0", "evaluate.scales.0", "losses.0.weight", "losses.0.weight.over.1", "loop.ema",
        "networks.any.lr_scale", "optimizer.betas.1", "data.unlabelled.batch_size", "seeds.0", "gpus.0",
    }  # fmt: skip


@pytest.mark.parametrize("room, name, arguments, told", [
    ("losses", "kl", {"temperature": 1e-30}, "must be greater than or equal to 0.001; got 1e-30"),
    ("losses", "cross_entropy", {"focal_alpha": -1.0}, "must be greater than 0; got -1.0"),
    ("losses", "cross_entropy", {"ohem_threshold": 1e30}, "must be less than or equal to 1; got 1e+30"),
    ("models", "pspnet", {"width": 0}, "must be greater than or equal to 1; got 0"),
    ("models", "pspnet", {"width": -1}, "must be greater than or equal to 1; got -1"),
    ("models", "sam", {"depth": 10**9}, "must be less than or equal to 256; got 1000000000"),
    ("datasets", "_transforms", {"scale_range": [1e-9, 1.0]}, "must be greater than or equal to 0.01; got 1e-09"),
    ("models", "huggingface", {"name": "x", "config": {"sizes": [10**30]}}, "at most 1e18 in size; got 1000000000"),
])  # fmt: skip
def test_arguments_out_of_range(room, name, arguments, told):
    ((_, text),) = parts.wrong_arguments(room, name, arguments)
    assert told in text
