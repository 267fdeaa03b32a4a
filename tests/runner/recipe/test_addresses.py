"""Recipes from the Hub and from wandb runs: where they are found, and what their paths may mean."""

import sys
import types
from pathlib import Path

import pytest

from segkd.runner import recipes
from segkd.runner.building.networks import weights_path
from segkd.runner.recipe import addresses
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read


@pytest.fixture
def hub(recipes_on_hub, tmp_path, monkeypatch):
    """The Hub with recipes of a teacher and a student; the test runs beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return recipes_on_hub


@pytest.fixture
def wandb(monkeypatch):
    """A `wandb` whose runs are the entries of `files`: path of the run -> its recipe.yaml."""
    module = types.ModuleType("wandb")
    module.files = {}

    class Run:
        def __init__(self, path):
            self.path = path

        def file(self, name):
            assert name == "recipe.yaml"
            return self

        def download(self, root, replace):
            (Path(root) / "recipe.yaml").write_text(module.files[self.path])

    module.Api = lambda: types.SimpleNamespace(run=Run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    addresses._run_folder.cache_clear()
    return module


def test_a_recipe_on_the_hub(hub):
    recipe = read("hf://user/repo/recipes/student.yaml", ["optimizer.lr=0.5"])
    assert recipe.name == "student" and recipe.schedule.iterations == 4 and recipe.optimizer.lr == 0.5
    # what it builds on is asked for in the commit it was found in, whatever is uploaded later
    teacher = f"hf://user/repo@{hub.name}/recipes/teacher.yaml"
    assert recipe.networks["teacher"].weights.recipe == recipe.baseline.recipe == teacher
    assert weights_path(recipe.networks["teacher"]) == "runs/teacher"
    assert read(teacher).name == "teacher"
    assert read(f"hf://user/repo@{hub.name}/recipes/student.yaml") == read("hf://user/repo@main/recipes/student.yaml")


def test_what_a_run_writes_down_of_it_can_be_read_anywhere(hub, tmp_path):
    recipe = read("hf://user/repo/recipes/student.yaml")
    (tmp_path / "elsewhere.yaml").write_text(recipe.dump())
    assert read(tmp_path / "elsewhere.yaml") == recipe


@pytest.mark.parametrize("address, error, words", [
    ("hf://user/repo/recipes/nothing.yaml", FileNotFoundError, "user/repo has no file recipes/nothing.yaml"),
    ("hf://user/repo/../../../../here/mine.yaml", FileNotFoundError, "has no file"),
    ("hf://user/other/recipe.yaml", FileNotFoundError, "hf://user/other could not be had from the Hub"),
    ("hf://user/repo@v2/recipe.yaml", FileNotFoundError, "could not be had from the Hub"),
    ("hf://user/repo", ValueError, "is no address of a recipe; write hf://user/repo/path.yaml"),
    ("hf://user/repo/model.safetensors", ValueError, "is no address of a recipe"),
    ("hf://datasets/user/repo/recipe.yaml", ValueError, "a model repository"),
    ("wandb://entity/project", ValueError, "wandb://entity/project/run"),
])  # fmt: skip
def test_addresses_of_nothing(hub, address, error, words):
    (hub.parents[3] / "here/mine.yaml").write_text((hub / "base.yaml").read_text())
    with pytest.raises(error, match=words):
        read(address)


def test_a_recipe_of_a_wandb_run(wandb, folder):
    wandb.files["me/project/abc"] = (folder / "tiny.yaml").read_text()
    assert read("wandb://me/project/abc", ["seed=3"]).name == "tiny"
    with pytest.raises(FileNotFoundError, match="wandb://me/project/other: its recipe.yaml could not be had"):
        read("wandb://me/project/other")


def test_a_wandb_run_without_an_account_or_wandb(wandb, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(FileNotFoundError, match="could not be had"):
        read("wandb://me/project/abc")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="no account is configured"):
        read("wandb://me/project/abc")


def test_a_wandb_run_that_needs_recipes_of_its_own_machine(wandb, folder):
    text = (folder / "tiny.yaml").read_text()
    wandb.files["me/project/abc"] = f"{text}baseline: {{recipe: ../plain/recipe.yaml}}\n"
    with pytest.raises(RecipeError) as caught:
        read("wandb://me/project/abc")
    (baseline,) = caught.value.mistakes
    assert "baseline: ../plain/recipe.yaml does not lie beside this recipe in wandb://me/project/abc" in baseline
    assert "say baseline=null on the command line" in baseline
    assert read("wandb://me/project/abc", ["baseline=null"]).baseline is None


def test_a_recipe_of_this_machine_may_say_all_that(folder):
    (folder / "recipes").mkdir()
    text = f"extends: ../tiny.yaml\nname: teacher\ntracking: {{folder: {folder}/anywhere}}\n"
    (folder / "recipes/teacher.yaml").write_text(text)
    assert read(folder / "recipes/teacher.yaml").folder == folder / "anywhere/teacher"


def test_a_strangers_recipe_learns_nothing_of_this_machine(hub, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (hub / "base.yaml").write_text(
        (hub / "base.yaml").read_text().replace("  crop_size", "  root: $HOME/a\n  crop_size")
    )
    assert read("hf://user/repo/recipes/student.yaml").data.root == "$HOME/a"
    assert read("hf://user/repo/recipes/student.yaml", ["data.root=~/b"]).data.root == "/home/me/b"


def test_the_recipes_command_takes_addresses(hub, wandb, tmp_path):
    address = f"hf://user/repo@{hub.name}/recipes/student.yaml"
    wandb.files["me/project/abc"] = (hub / "base.yaml").read_text()
    for name in (address, "hf://user/repo/recipes/teacher.yaml", "wandb://me/project/abc"):
        (tmp_path / "here/shown.yaml").write_text(recipes.show(name, []))
        assert read("shown.yaml", ["baseline=null"]) == read(name, ["baseline=null"])
        assert recipes.compare(name, name).splitlines() == [f"{name} | {name}"]
        copy = recipes.copy(name, tmp_path / "here" / f"{read(name).name}-copy.yaml")
        assert read(copy) == read(name)
