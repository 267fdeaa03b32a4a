"""What is advised for two networks: a recipe that fits together, and no rule without what it rests on."""

import re
import sys
import types
from pathlib import Path

import pytest
import yaml

from segkd.runner import check
from segkd.runner.drafting.rules import RULES, Asked
from segkd.runner.drafting.suggestion import suggest
from segkd.runner.recipe.read import read

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("asked, loss, on, told", [
    (Asked("resnet18", "mobilenetv2_050"), "kl", "labelled", "  python runner/distill.py FILE"),
    (Asked("resnet18", "mobilenetv2_050", labelled=50, unlabelled=900, hours=1.0), "kl", "both", "Hours are few"),
    (Asked("pspnet", "segformer", unlabelled=900), "kl", "both", "43.86 mIoU alone, 49.06"),
    (Asked("timm/vit_small_patch14_dinov2", "mobilenetv2_050"), "nfd", "labelled", "2207.05256"),
    (Asked("timm/vit_small_patch14_dinov2", "resnet18", hours=9.0, unlabelled=2), "nfd", "both", "0.8 GB"),
    (Asked("mit_b1", "mit_b0"), "kl", "labelled", "  python runner/distill.py FILE"),
    (Asked("sam", "mobilenetv2_050"), "nfd", "labelled", "The teacher is SAM"),
])  # fmt: skip
def test_a_suggestion_fits_together(tmp_path, monkeypatch, capsys, asked, loss, on, told):
    monkeypatch.chdir(tmp_path)
    text = suggest(asked)
    Path("mine.yaml").write_text(text)
    recipe = read("mine.yaml")
    term = recipe.losses[1]
    assert (term.loss, term.on) == (loss, on) and told in text
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 120
    assert (recipe.networks["teacher"].cache is not None) == (asked.hours is not None)
    check.check_without_data(recipe)
    assert "the parts of this recipe fit together" in capsys.readouterr().out


def test_the_teacher_that_is_trained_first(tmp_path, monkeypatch):
    """By the command in the head, whose words a shell takes apart."""
    monkeypatch.chdir(tmp_path)
    text = suggest(Asked("resnet18", "mobilenetv2_050", unlabelled=9))
    Path("mine.yaml").write_text(text)
    command = text.partition("# The teacher is trained first:\n")[2].partition("name: suggested\n")[0].replace("#", "")
    words = [found[0] or found[1] for found in re.findall(r"'([^']*)'|(\S+)", command)]
    teacher = read("mine.yaml", words[words.index("FILE") + 1 :])
    asked = read("mine.yaml").networks["teacher"]
    assert asked.weights == str(teacher.folder) and teacher.networks["student"].args["backbone"] == "resnet18"
    assert teacher.networks["student"].args | {"pretrained": False} == asked.args and teacher.data.unlabelled is None


def test_whoever_calls_the_program_is_told_its_commands(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", types.SimpleNamespace(name="segkd.runner.recipes"))
    text = suggest(Asked("resnet18", "mobilenetv2_050"))
    assert "segkd distill FILE" in text and "segkd recipes new --data FOLDER" in text and "python" not in text


def test_a_run_as_the_teacher(deliver, tmp_path):
    folder = deliver(tmp_path / "evaluation/student", ["background", "object"])  # its letters tell nothing
    text = suggest(Asked(str(folder), "mobilenetv2_050"))
    assert yaml.safe_load(text)["networks"]["teacher"] == {"weights": str(folder), "train": False}
    assert yaml.safe_load(text)["losses"][1]["loss"] == "kl"


@pytest.mark.parametrize("kind, told, loss", [
    ("MobileNetV2ForSemanticSegmentation", {"class_map": "names"}, "kl"),
    ("MobileNetV2Model", {"args": {"head": None, "pretrained": True}}, "nfd"),
])  # fmt: skip
@pytest.mark.parametrize("folder", ["hf/dino-like", "theirs"])
def test_a_folder_of_transformers_as_the_teacher(tmp_path, monkeypatch, kind, told, loss, folder):
    monkeypatch.chdir(tmp_path)
    transformers = pytest.importorskip("transformers")
    getattr(transformers, kind)(transformers.MobileNetV2Config(depth_multiplier=0.35)).save_pretrained(folder)
    found = yaml.safe_load(suggest(Asked(folder, "mobilenetv2_050")))
    assert found["networks"]["teacher"] == {"source": "hf", "model": folder, "train": False} | told
    assert found["losses"][1]["loss"] == loss


def test_an_encoder_that_is_none():
    with pytest.raises(ValueError, match="^--student resnet19: must be 'resnet18'.*\n--teacher resnet20: must be"):
        suggest(Asked("resnet20", "resnet19"))


def test_what_is_advised_first_is_what_the_recipe_does():
    text = suggest(Asked("resnet18", "mobilenetv2_050", unlabelled=9))
    assert "train the student alone first" in text and "cwd" not in text.partition("name: suggested")[0]


def test_every_rule_says_what_it_rests_on():
    """A number of ours stands in a table of the pages; what is a paper's names it, and says that it is not ours."""
    pages = "\n".join(file.read_text() for file in sorted(ROOT.rglob("*.md")))
    for rule in RULES:
        if rule.row:
            assert rule.row in pages, f"no page has the row of the rule: {rule.advice}"
        else:
            assert re.search("no training of ours|how the losses are built", rule.rests_on), rule.advice
        for paper in re.findall(r"\d{4}\.\d{5}", rule.rests_on):
            assert any(paper in file.read_text() for file in (ROOT / "losses").glob("*.py"))
