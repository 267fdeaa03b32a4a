"""The recipes command: what it lists, shows, copies and compares, and that it writes over nothing."""

import re
import subprocess
import sys

import pytest

from segkd.runner import recipes
from segkd.runner.recipe.read import read, read_as_written

BASE = """\
# What the two recipes share.
data: {dataset: synthetic, args: {size: [32, 48], length: 15}, crop_size: [32, 32], batch_size: 4}
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035, width: 8}}
schedule: {iterations: 4}
"""
PLAIN = """\
# Plain training of a tiny network: 12.3 mIoU in no paper.
# A second line. It has two sentences.
extends: bases/tiny.yaml
name: tiny-plain
losses: [{loss: cross_entropy}]
"""
KL = """\
# The same student with a teacher, that
# is trained first: 45.6 mIoU. More is not told.
extends: plain_tiny.yaml
name: tiny-kl
method: KD
networks:
  teacher: {model: pspnet, args: {backbone: mobilenetv2_035}, weights: {recipe: plain_tiny.yaml}, train: false}
losses:
  - {loss: cross_entropy}
  - {loss: kl, weight: 3, args: {temperature: 2.0}}
baseline: {recipe: plain_tiny.yaml}
"""


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of recipes in place of those that come with segkd; tests run beside it."""
    folder = tmp_path / "shelf"
    (folder / "synthetic/bases").mkdir(parents=True)
    (folder / "bases").mkdir()
    (folder / "other").mkdir()
    (folder / "bases/tiny.yaml").write_text(BASE)
    (folder / "synthetic/bases/tiny.yaml").write_text(BASE)
    (folder / "synthetic/plain_tiny.yaml").write_text(PLAIN)
    (folder / "synthetic/kl_tiny.yaml").write_text(KL)
    (folder / "other/plain_tiny.yaml").write_text(PLAIN.replace("bases", "../bases"))
    package = type("package", (), {"__path__": [str(folder)]})
    monkeypatch.setitem(sys.modules, "segkd.recipes", package)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_what_comes_with_segkd():
    names = recipes.shipped()
    assert {"quickstart", "camvid/kl_dv3r101_dv3r18"} <= names.keys()
    assert not any(name.startswith(("bases/", "sweeps/")) for name in names)


def test_rows_need_no_defaults():
    """What a recipe leaves to the parts it names is never told, so that `ls` need not import them."""
    for name, file in recipes.shipped().items():
        assert recipes.row(name, read_as_written(file)) == recipes.row(name, read(file))


@pytest.mark.parametrize("weights, told", [
    ("{recipe: plain_tiny.yaml}", "pspnet mobilenetv2_035"), ("weights/theirs.pth", "theirs.pth"),
    ("{recipe: nowhere.yaml}", "nowhere.yaml"),
])  # fmt: skip
def test_ls_names_a_teacher_that_its_weights_tell(shelf, weights, told):
    described = "model: pspnet, args: {backbone: mobilenetv2_035}, weights: {recipe: plain_tiny.yaml}"
    (shelf / "synthetic/kl_tiny.yaml").write_text(KL.replace(described, f"weights: {weights}"))
    row = next(line for line in recipes.list_recipes([]).splitlines() if line.startswith("synthetic/kl_tiny"))
    assert re.split(" {2,}", row)[3] == f"{told} -> pspnet mobilenetv2_035"


def test_ls_imports_nothing_heavy():
    code = "import sys; from segkd.runner import recipes; recipes.list_recipes([]); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "segkd.runner.recipe.schema" in loaded and not {"torch", "numpy", "timm", "wandb"}.intersection(loaded)


def test_ls(shelf):
    lines = recipes.list_recipes([]).splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "recipe", "other/plain_tiny", "synthetic/kl_tiny", "synthetic/plain_tiny", "3"]  # fmt: skip
    row = next(line for line in lines if line.startswith("synthetic/kl_tiny"))
    assert re.split(" {2,}", row)[1:] == [
        "synthetic", "KD", "pspnet mobilenetv2_035 -> pspnet mobilenetv2_035", "4"]  # fmt: skip
    assert "    The same student with a teacher, that is trained first: 45.6 mIoU." in lines
    assert "    Plain training of a tiny network: 12.3 mIoU in no paper." in lines


def test_ls_with_words(shelf):
    assert recipes.list_recipes(["kd", "SYNTHETIC/"]).splitlines()[1].startswith("synthetic/kl_tiny")
    assert recipes.list_recipes(["45.6"]).endswith("1 of 3 recipes")
    with pytest.raises(ValueError, match="none of the 3 recipes holds kd and nothing"):
        recipes.list_recipes(["kd", "nothing"])


@pytest.mark.parametrize("name", ["kl_tiny", "synthetic/kl_tiny", "kl_tiny.yaml", "recipes/synthetic/kl_tiny.yaml"])
def test_a_name(shelf, name):
    assert recipes.find_recipe(name) == "../shelf/synthetic/kl_tiny.yaml"


@pytest.mark.parametrize("name, error, words", [
    ("plain_tiny", ValueError, "other/plain_tiny or synthetic/plain_tiny"),
    ("kl_tyni", FileNotFoundError, "did you mean 'kl_tiny'?"),
    ("synthetic/kl_tyni", FileNotFoundError, "did you mean 'synthetic/kl_tiny'?"),
    ("nothing.yaml", FileNotFoundError, "recipes.py ls"),
    ("bases/tiny", FileNotFoundError, "no recipe bases/tiny"),
])  # fmt: skip
def test_a_name_that_is_none(shelf, name, error, words):
    with pytest.raises(error, match=re.escape(words)):
        recipes.find_recipe(name)


def test_installed_without_recipes(monkeypatch):
    monkeypatch.setitem(sys.modules, "segkd.recipes", None)
    with pytest.raises(FileNotFoundError, match="installed without its recipes"):
        recipes.shipped()


def test_show(shelf, tmp_path):
    text = recipes.show("../shelf/synthetic/kl_tiny.yaml", ["optimizer.lr=0.5"])
    lines = [line.strip() for line in text.splitlines()]
    assert "iterations: 4  # ../shelf/synthetic/bases/tiny.yaml:5" in lines
    assert "weight: 3.0  # ../shelf/synthetic/kl_tiny.yaml:10" in lines
    assert "lr: 0.5  # command line" in lines and "momentum: 0.9" in lines and "seed: 0" in lines
    # what is printed is a recipe: the same one
    (tmp_path / "work/shown.yaml").write_text(text)
    assert read("shown.yaml") == read("../shelf/synthetic/kl_tiny.yaml", ["optimizer.lr=0.5"])


@pytest.mark.parametrize("to, file", [(".", "kl_tiny.yaml"), ("mine/new.yaml", "mine/new.yaml")])
def test_copy(shelf, tmp_path, to, file):
    assert str(recipes.copy("kl_tiny", recipes.Path(to))) == file
    text = (tmp_path / "work" / file).read_text()
    assert text.startswith("# The same student with a teacher, that\n# is trained first") and "extends" not in text
    assert "momentum" not in text, "defaults stay defaults"
    assert read(file) == read(shelf / "synthetic/kl_tiny.yaml")
    with pytest.raises(ValueError, match="is there already"):
        recipes.copy("kl_tiny", recipes.Path(to))
    assert (tmp_path / "work" / file).read_text() == text


def test_a_copy_keeps_no_mistake_and_needs_a_name(shelf, tmp_path):
    (shelf / "synthetic/wrong.yaml").write_text(KL.replace("weight: 3", "wieght: 3"))
    with pytest.raises(ValueError, match="wieght"):
        recipes.copy("wrong", recipes.Path("."))
    with pytest.raises(ValueError, match="ends in .yaml"):
        recipes.copy("kl_tiny", recipes.Path("mine"))
    assert list((tmp_path / "work").iterdir()) == []


def test_diff(shelf):
    first, second = "../shelf/synthetic/plain_tiny.yaml", "../shelf/synthetic/kl_tiny.yaml"
    lines = recipes.compare(first, second).splitlines()
    assert lines[0] == f"{first} | {second}" and lines[1:3] == ["name: tiny-plain | tiny-kl", "method: - | KD"]
    assert [line.partition(":")[0] for line in lines[3:]] == ["networks.teacher", "losses.kl", "baseline"]
    assert "temperature: 2.0" in lines[4] and lines[5].endswith(f"- | {{recipe: {first}}}")
    assert recipes.compare(first, first) == f"{first} | {first}"


def test_differences_inside_terms(shelf, tmp_path):
    (tmp_path / "work/more.yaml").write_text(
        "extends: ../shelf/synthetic/kl_tiny.yaml\nname: tiny-kl\nlosses: {kl: {weight: 4}}\nevaluate: {every: 7}\n"
        "networks: {teacher: {weights: {recipe: ../shelf/synthetic/plain_tiny.yaml}}}\n"
        "baseline: {recipe: ../shelf/synthetic/plain_tiny.yaml}\n"
    )
    lines = recipes.compare("../shelf/synthetic/kl_tiny.yaml", "more.yaml").splitlines()
    assert lines[1:] == ["losses.kl.weight: 3.0 | 4.0", "evaluate.every: 1000 | 7"]


def test_the_command(server, folder):
    result = server(folder, "recipes", "ls", "quickstart", "kl")
    assert result.code == 0 and result.out.splitlines()[1].startswith("quickstart "), result.err
    result = server(folder, "recipes", "copy", "quickstart", "tiny.yaml", "--debug")
    assert result.code != 0 and "is there already" in result.err and "Traceback" in result.err
    result = server(folder, "recipes", "show", "quickstrat")
    assert result.code == 2 and "did you mean 'quickstart'?" in result.err and "Traceback" not in result.err
