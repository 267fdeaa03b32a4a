"""recipes/schema.json is the schema, every shipped recipe names it and fits it, and a misspelt one does not."""

import json
import os
from pathlib import Path

import pytest

from segkd.runner.recipe.editor_schema import MODELINE, editor_schema
from segkd.runner.recipe.yaml_file import _parse
from segkd.runner.recipes import header

RECIPES = Path(__file__).parents[3] / "recipes"
FILES = [file for file in sorted(RECIPES.rglob("*.yaml")) if not {"sweeps", "results"}.intersection(file.parts)]


@pytest.fixture(scope="module")
def errors():
    """errors(values): what a validator of JSON schemas has against a recipe."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((RECIPES / "schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    return lambda values: [f"{list(error.path)}: {error.message[:200]}" for error in validator.iter_errors(values)]


def test_the_file_is_the_schema():
    assert (RECIPES / "schema.json").read_text() == editor_schema(), "`recipes.py schema > recipes/schema.json`"


def test_every_recipe_names_the_schema_below_its_first_comment():
    for file in FILES:
        lines, line = file.read_text().splitlines(), MODELINE + os.path.relpath(RECIPES / "schema.json", file.parent)
        assert lines.count(line) == 1 and lines.index(line) == len(header(file)), f"{file} wants the line {line}"


def test_every_recipe_fits(errors):
    assert {str(file): found for file in FILES if (found := errors(_parse(file.read_text(), file)[0]))} == {}


@pytest.mark.parametrize("values", [
    {"extends": "a.yaml", "losses": {"kl": {"weight": {"start": 0, "end": 1, "over": [0, 10]}}, "0": {"after": 3}}},
    {"networks": {"teacher": {"source": "hf", "model": "user/name", "args": {"head": None}}}},
    {"evaluate": {"metrics": {"boundary": {"width": 5}}}}, {"evaluate": {"metrics": ["boundary"]}},
    {"data": {"unlabelled": {"strong": {}}, "labelled": "1/8", "resize": [96, 128]}, "optimizer": {"lr": 1}},
])  # fmt: skip
def test_what_a_recipe_may_say(errors, values):
    assert errors(values) == []


@pytest.mark.parametrize("values", [
    {"sede": 1}, {"optimizer": {"lr": -1}}, {"losses": [{"loss": "klm"}]}, {"losses": {"kl": {"wieght": 2}}},
    {"losses": [{"loss": "kl", "args": {"temprature": 2}}]}, {"losses": [{"loss": "kl", "args": {"temperature": 0}}]},
    {"networks": {"student": {"model": "deeplabv3", "args": {"backbon": "resnet18"}}}},
    {"data": {"dataset": "folder", "args": {"imges": "a"}}}, {"data": {"transform": {"flp": 1}}},
    {"data": {"unlabelled": {"strong": {"mxi": 1}}}}, {"data": {"resize": [96]}},
    {"evaluate": {"metrics": ["boundry"]}}, {"evaluate": {"metrics": {"boundary": {"wide": 5}}}},
])  # fmt: skip
def test_what_it_may_not(errors, values):
    assert errors(values)
