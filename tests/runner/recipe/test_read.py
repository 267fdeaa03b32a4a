"""A recipe is read in one pass, whatever is wrong with it; what it need not say, and how it may say paths."""

import pytest
import torch
import yaml

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read, read_needed
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.run_folder.folder import RunFolder

RECIPE = """\
data: {dataset: synthetic, crop_size: [32, 32], root: $HOME/images, labelled: ~/names.txt}
networks:
  student: {model: pspnet, weights: ~/weights.pth}
  teacher: {model: pspnet, train: false, weights: {recipe: ~/recipes/teacher.yaml}}
losses: [{loss: cross_entropy}, {loss: kl, label: $HOME}]
schedule: {iterations: 3}
"""


def test_traps_of_the_file_are_told_with_the_other_mistakes(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\nseed: no\ndata: {dataset: synthetic, crop_size: [32, 32]}\nschedule: {iteration: 3}\n")
    with pytest.raises(RecipeError) as caught:
        read(path)
    lines = caught.value.mistakes
    assert sum("seed" in line for line in lines) == 1 and "a bare `no`" in lines[0]
    assert any("schedule.iteration: unknown key" in line for line in lines)
    assert any("networks: is missing" in line for line in lines)


@pytest.mark.parametrize("path, name", [
    ("kl.yaml", "kl"), ("mine/kl_dv3r18.yaml", "kl-dv3r18"), ("recipes/camvid/kl_1_8.yaml", "camvid-kl-1-8"),
    ("recipes/old/recipes/a b.yml", "a-b"), ("recipes.yaml", "recipes"), ("_x.2.yaml", "x.2"),
])  # fmt: skip
def test_a_recipe_without_a_name_is_called_like_its_file(tmp_path, path, name):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(RECIPE)
    assert read(file).name == name
    assert read(file, ["name=other"]).name == "other"


def test_paths_of_ones_own_recipe_may_begin_at_home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    home.mkdir()
    (home / "base.yaml").write_text(RECIPE)
    (tmp_path / "mine.yaml").write_text("extends: ~/base.yaml\nname: mine\n")
    recipe = read("mine.yaml", ["tracking.folder=~/runs"])
    assert (recipe.data.root, recipe.data.labelled) == (f"{home}/images", f"{home}/names.txt")
    assert recipe.networks["student"].weights == f"{home}/weights.pth"
    assert recipe.networks["teacher"].weights.recipe == "home/recipes/teacher.yaml"
    assert str(recipe.folder) == f"{home}/runs/mine" and recipe.losses[1].label == "$HOME"


@pytest.mark.parametrize("field", ["layout", "part"])
def test_what_reads_a_file_of_weights_is_a_word(tmp_path, field):
    """The file is there, so what its keys tell is asked for before the recipe's own types are looked at."""
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "teacher.pth")
    student = {"weights": str(tmp_path / "teacher.pth"), field: ["a"]}
    values = yaml.safe_load(RECIPE) | {"networks": {"student": student}}
    with pytest.raises(RecipeError, match=f"networks.student.{field}"):
        read(values)


def test_a_path_with_what_this_machine_does_not_know_makes_no_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_THERE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    for folder in ("${NOT_THERE}/runs", "a/$NOT_THERE", "~nobody-of-this-name/runs"):
        with pytest.raises(RecipeError, match="command line: tracking.folder: .* is not known on this machine"):
            read("mine.yaml", [f"tracking.folder={folder}"])
    (tmp_path / "$NOT_THERE").mkdir()  # a name all the same
    assert read("mine.yaml", ["data.root=$NOT_THERE"]).data.root == "$NOT_THERE"
    (tmp_path / "other.yaml").write_text("extends: $NOT_THERE/base.yaml\n")
    with pytest.raises(RecipeError, match="other.yaml:1: extends: .*NOT_THERE"):
        read("other.yaml")


NEEDS = """\
data: {dataset: %s, crop_size: [32, 32], root: theirs%s}
networks:
  student: {model: pspnet}
  teacher: {model: pspnet, train: false, weights: {recipe: %s.yaml}}
losses: [{loss: cross_entropy}, {loss: kl}]
schedule: {iterations: 3}
baseline: {recipe: %s.yaml}
"""


@pytest.fixture
def family(tmp_path, monkeypatch):
    """family("a", "b", "c") writes a.yaml, whose teacher is trained by b.yaml and whose baseline is c.yaml."""
    monkeypatch.chdir(tmp_path)

    def write(name, teacher=None, baseline=None, dataset="synthetic"):
        text = NEEDS % (dataset, ", args: {class_names: [a, b]}" if dataset == "folder" else "", teacher, baseline)
        if teacher is None:
            text = text.replace("{recipe: None.yaml}}", "random}", 1)
        if baseline is None:
            text = text.replace("baseline: {recipe: None.yaml}\n", "")
        (tmp_path / f"{name}.yaml").write_text(text)

    return write


def test_what_a_recipe_needs_comes_in_an_order_that_can_be_trained(family):
    family("student", "teacher", "plain")
    family("teacher", "big")
    family("plain", baseline="big")
    family("big")
    recipe = read("student.yaml")
    assert [one.name for one in read_needed(recipe, lambda one: False)] == ["big", "teacher", "plain"]
    assert [one.name for one in read_needed(recipe, lambda one: one.name == "teacher")] == ["big", "plain"]
    assert read_needed(recipe, lambda one: True) == []


def test_a_recipe_that_is_named_is_looked_for_beside_the_one_that_names_it(family, tmp_path):
    family("base", "../teacher", "plain")
    (tmp_path / "theirs/bases").mkdir(parents=True)
    (tmp_path / "base.yaml").rename(tmp_path / "theirs/bases/base.yaml")
    (tmp_path / "theirs/between.yaml").write_text("extends: bases/base.yaml\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kl.yaml").write_text("extends: ../theirs/between.yaml\n")
    recipe = read("mine/kl.yaml")
    assert recipe.networks["teacher"].weights.recipe == "theirs/teacher.yaml"
    assert recipe.baseline.recipe == "theirs/bases/plain.yaml"
    (tmp_path / "mine/kl.yaml").write_text("extends: ../theirs/between.yaml\nbaseline: {recipe: plain.yaml}\n")
    assert read("mine/kl.yaml", ["networks.teacher.weights.recipe=big.yaml"]).others == [
        OtherRecipe(recipe="mine/big.yaml"), OtherRecipe(recipe="mine/plain.yaml"),
    ]  # fmt: skip


def test_recipes_that_need_each_other_are_named(family):
    family("a", "b")
    family("b", baseline="c")
    family("c", "b")
    with pytest.raises(ValueError, match="in a circle: runs/a -> runs/b -> runs/c -> runs/b$"):
        read_needed(read("a.yaml"), lambda one: False)
    family("own", baseline="own")
    with pytest.raises(ValueError, match="in a circle: runs/own -> runs/own$"):
        read_needed(read("own.yaml"), lambda one: False)
    family("plain")
    with pytest.raises(ValueError, match="plain.yaml, which is trained before big, is called plain as a recipe that n"):
        family("big", baseline="plain")
        family("student", "big")
        read_needed(read("student.yaml", ["name=plain"]), lambda one: False)


def test_what_the_command_line_says_of_the_place_holds_for_what_is_trained_first(family):
    family("student", "teacher", "plain")
    family("teacher")
    family("plain", dataset="folder")
    said = ["tracking.wandb=disabled", "data.workers=0", "data.root=mine", "optimizer.lr=0.5", "tracking.folder=there"]
    teacher, plain = read_needed(read("student.yaml", said, trust_checkpoint=True), lambda one: False)
    for one in (teacher, plain):
        assert (one.tracking.wandb, one.data.workers, one.trust_checkpoint) == ("disabled", 0, True)
        # the experiment, and where its run lies, are the outer recipe's alone
        assert one.optimizer.lr == 0.01 and str(one.folder) == f"runs/{one.name}"
    assert (teacher.data.root, plain.data.root) == ("mine", "theirs")


def test_the_root_of_the_command_line_is_not_for_images_of_another_root(family, tmp_path):
    """Of the same kind, such as two folders: a teacher of many images would be trained on the student's few."""
    family("student", "teacher")
    family("teacher")
    large = (tmp_path / "teacher.yaml").read_text().replace("root: theirs", "root: large")
    (tmp_path / "teacher.yaml").write_text(large)
    student = read("student.yaml", ["data.root=mine"])
    (teacher,) = read_needed(student, lambda one: False)
    assert (student.data.root, teacher.data.root) == ("mine", "large")


@pytest.mark.parametrize("text, told", [
    ("methods: {a: a.yaml}", "other.yaml is a sweep and not a recipe; `python .*runner/sweep.py other.yaml` trains it"),
    ("together: []", "other.yaml is a list of recipes .* and not a recipe; `python .*runner/distill.py other.yaml` tr"),
])  # fmt: skip
def test_files_of_another_kind(tmp_path, monkeypatch, text, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(ValueError, match=told):
        read("other.yaml")


CHAIN = """
data: {dataset: synthetic, crop_size: [32, 32], batch_size: 4}
networks: {student: %s}
losses: [{loss: cross_entropy}]
schedule: {iterations: 3}
"""


def test_a_recipe_that_goes_on_from_another_one_tells_what_that_one_told(family, tmp_path):
    student = "{model: pspnet, args: {backbone: mobilenetv2_035%s}%s}"
    (tmp_path / "first.yaml").write_text(CHAIN % student % (", width: 8, align_corners: true", ""))
    (tmp_path / "second.yaml").write_text(CHAIN % student % ("", ", weights: {recipe: first.yaml}"))
    (tmp_path / "third.yaml").write_text(CHAIN % "{weights: {recipe: second.yaml}}")
    family("kd", "third")
    student = read("third.yaml").networks["student"]
    assert (student.model, student.args["width"], student.args["align_corners"]) == ("pspnet", 8, True)
    teacher = read("kd.yaml", ["networks.teacher.model=null"]).networks["teacher"]
    assert teacher.args == student.args
    (tmp_path / "first.yaml").write_text(CHAIN % "{weights: {recipe: second.yaml}}")
    (tmp_path / "second.yaml").write_text(CHAIN % "{weights: {recipe: first.yaml}}")
    with pytest.raises(RecipeError, match="networks.student.weights: .*second.yaml tells no network"):
        read("first.yaml")


def test_a_run_can_be_read_whatever_has_become_of_the_recipes_it_was_made_with(family, tmp_path):
    family("kd", "teacher")
    family("teacher")
    recipe = read("kd.yaml")
    run = RunFolder(recipe.folder)
    run.path.mkdir(parents=True)
    run.recipe_file.write_text(recipe.dump())
    for text in ((tmp_path / "teacher.yaml").read_text().replace("pspnet}", "deeplabv3}", 1), "losses: ["):
        (tmp_path / "teacher.yaml").write_text(text)
        with pytest.raises(RecipeError):
            read("kd.yaml")
        assert run.read_recipe() == recipe
