"""What somebody may mean who names a recipe, or another file, that is not there."""

from pathlib import Path

import pytest

from segkd.runner.recipe import shipped
from segkd.runner.recipe.shipped import hint_for_recipe, near


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The working directory: my/ with recipes, runs/ with a run; and the recipes of segkd beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "folders", lambda: [tmp_path / "recipes"])
    for file in ("my/t.yaml", "my/plain.yaml", "my/notes.txt", "runs/teacher/recipe.yaml", "empty/.kept",
                 "recipes/quickstart.yaml", "recipes/camvid/kl_big_96x128.yaml"):  # fmt: skip
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("")


@pytest.mark.parametrize("path, meant", [
    ("my/t.yml", "my/t.yaml"), ("my/t", "my/t.yaml"), ("my/plian.yaml", "my/plain.yaml"), ("ym/t.yaml", "my/t.yaml"),
    ("quickstart", "recipes/quickstart.yaml"), ("recipes/camvid/kl_big_96", "recipes/camvid/kl_big_96x128.yaml"),
    ("elsewhere/kl_big_96x128.yaml", "recipes/camvid/kl_big_96x128.yaml"),
    ("camvid/kl_big_96", "recipes/camvid/kl_big_96x128.yaml"),
    ("my/nowhere.yaml", None), ("my/notes.yaml", None),
])  # fmt: skip
def test_a_recipe_that_is_not_there(path, meant):
    assert hint_for_recipe(Path(path)) == (f", did you mean {meant!r}?" if meant else "")


def test_a_folder_in_place_of_a_recipe():
    assert "; it is the folder of a run, whose recipe is runs/teacher/recipe.yaml" in hint_for_recipe(
        Path("runs/teacher")
    )
    assert hint_for_recipe(Path("my")) == "; name one of the files in it, such as my/plain.yaml"
    assert hint_for_recipe(Path("empty")) == ""


@pytest.mark.parametrize("path, meant", [
    ("runs/taecher", "runs/teacher"), ("run/teacher", "runs/teacher"), ("run/other", "runs"), ("my/notes", "my/notes.txt"),
    ("runs/nothing", None), ("/nowhere/at/all", None),
])  # fmt: skip
def test_anything_that_is_not_there(path, meant):
    assert near(Path(path)) == (f", did you mean {meant!r}?" if meant else "")
