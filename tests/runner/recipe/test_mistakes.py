"""How mistakes are told: place, what was given, what is allowed, what was meant."""

import json
from typing import Annotated, Literal

import pydantic
import pytest
from pydantic import Field

from segkd.runner.recipe.mistakes import Origins, RecipeError, did_you_mean, dotted, found_by, located


class Inner(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    start: float
    over: tuple[int, int] = (0, 1)


class Outer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    source: str | None = Field(None, alias="from")
    weight: float | Inner = 1.0
    kind: bool | Literal["auto"] = "auto"
    many: list[Inner] = []
    named: dict[Annotated[str, Field(pattern=r"^[a-z]+$")], Inner] = {}
    mode: Literal["whole", "slide"] = "whole"


def found(text):
    with pytest.raises(pydantic.ValidationError) as caught:
        Outer.model_validate_json(text)
    return dict(found_by(caught.value, Outer, json.loads(text)))


def test_origins_fall_back_to_what_is_around():
    origins = Origins({(): "a:1", ("losses",): "a:2", ("losses", 0): "a:3", ("losses", 0, "args"): "a:4"})
    assert origins.of(("losses", 0, "args", "x")) == "a:4"
    assert origins.of(("losses", 1)) == "a:2" and origins.of(("seed",)) == "a:1"
    origins.forget_inside(("losses",))
    assert origins == {(): "a:1", ("losses",): "a:2"}
    assert Origins().of(("seed",)) == ""


def test_words():
    assert dotted(("losses", 1, "weight")) == "losses.1.weight" and dotted(()) == "the recipe"
    assert did_you_mean("wieght", ["loss", "weight"]) == ", did you mean 'weight'?"
    assert did_you_mean("zzz", ["loss", "weight"]) == ""
    assert did_you_mean("rl", ["lr", "name"]) == ", did you mean 'lr'?"


def test_recipe_error_counts():
    assert str(RecipeError(["a"])) == "the recipe has 1 mistake:\n  a"
    assert str(RecipeError(["a", "b"])) == "the recipe has 2 mistakes:\n  a\n  b"


def test_located_sorts_by_line_and_tells_each_once():
    origins = Origins({(): "r.yaml:1", ("a",): "r.yaml:10", ("b",): "r.yaml:9", ("c",): "command line"})
    mistakes = [(("a",), "late"), (("b", "x"), "early"), (("c",), "typed"), (("a",), "late")]
    assert located(mistakes, origins, "r.yaml") == [
        "command line: c: typed",
        "r.yaml:9: b.x: early",
        "r.yaml:10: a: late",
    ]
    assert located([(("d",), "text")], Origins(), "r.yaml") == ["r.yaml: d: text"]


def test_unknown_and_missing_keys_in_nested_sections():
    assert found('{"form": "a"}') == {
        ("form",): "unknown key, did you mean 'from'?; allowed here: from, weight, kind, many, named, mode"
    }
    assert found('{"many": [{"start": 1.0}, {"strat": 1}]}') == {
        ("many", 1, "start"): "is missing and has no default",
        ("many", 1, "strat"): "unknown key, did you mean 'start'?; allowed here: start, over",
    }
    assert found('{"named": {"a": {"start": 1, "x": {"y": 1}}}}') == {
        ("named", "a", "x"): "unknown key; allowed here: start, over"
    }
    assert list(found('{"named": {"A": {"start": 1}}}')) == [("named", "A")]


def test_a_union_is_one_mistake():
    assert found('{"weight": "a"}') == {("weight",): "must be a valid number or a mapping; got 'a'"}
    assert found('{"kind": "atuo"}') == {("kind",): "must be a valid boolean or 'auto'; got 'atuo'"}
    assert found('{"mode": "slid"}') == {("mode",): "must be 'whole' or 'slide'; got 'slid'"}
    # a mapping is judged as the section it could be
    assert found('{"weight": {"strat": 1}}') == {
        ("weight", "start"): "is missing and has no default",
        ("weight", "strat"): "unknown key, did you mean 'start'?; allowed here: start, over",
    }
    assert found('{"weight": {"start": 1, "over": [1, 2, 3]}}') == {
        ("weight", "over"): "must have at most 2 items, not 3; got [1, 2, 3]"
    }
    assert found('{"weight": {"start": 1, "over": [1, "b"]}}') == {
        ("weight", "over", 1): "must be a valid integer; got 'b'"
    }
