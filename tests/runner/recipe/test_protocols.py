"""Protocols in a recipe: what they fix, who may change it, and the words that tell which numbers can be compared."""

import pytest

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.protocols import PROTOCOLS, SIZES, protocol_words
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Evaluate

BASE = """
name: a
data: {dataset: cityscapes, root: x, crop_size: [64, 64]}
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035}}
losses:
  - {loss: cross_entropy}
schedule: {iterations: 4}
"""


@pytest.fixture
def recipe(tmp_path):
    """recipe("protocol: cirkd", "data.dataset=voc", ...) reads BASE with this evaluate section."""
    path = tmp_path / "recipe.yaml"

    def given(section, *assignments):
        path.write_text(f"{BASE}evaluate: {{{section}}}\n")
        return read(path, assignments)

    return given


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", ["cityscapes", "voc", "ade20k", "camvid"])
def test_a_resolved_recipe_has_the_values_and_reads_again(recipe, tmp_path, protocol, dataset):
    resolved = recipe(f"protocol: {protocol}, every: 7", f"data.dataset={dataset}")
    fixed = PROTOCOLS[protocol] | SIZES.get(protocol, {}).get(dataset, {})
    assert {field: getattr(resolved.evaluate, field) for field in fixed} == fixed
    assert resolved.evaluate.every == 7 and protocol_words(resolved).startswith(f"{protocol}: ")
    (tmp_path / "resolved.yaml").write_text(resolved.dump())
    assert read(tmp_path / "resolved.yaml").evaluate == resolved.evaluate


def test_every_fixed_value_is_one_a_recipe_can_say():
    for fields in (*PROTOCOLS.values(), *(fields for sizes in SIZES.values() for fields in sizes.values())):
        assert Evaluate.model_validate(fields).model_dump(include=fields.keys()) == fields
    assert set(PROTOCOLS) >= set(SIZES)


def test_published_sizes():
    assert SIZES["trikd"]["cityscapes"]["stride"] == tuple(-(-2 * side // 3) for side in (512, 512))
    assert SIZES["mmseg"]["voc"]["fit"] == (512, 2048) and SIZES["aicsd"]["cityscapes"]["short_side"] == 513


def test_segformer_is_scored_in_halves_by_cirkd(recipe):
    student = "networks.student={model: segformer}"
    words = protocol_words(recipe("protocol: cirkd", student))
    assert words.startswith("cirkd: left and right halves of images at native size")
    for section, *other in (("protocol: cirkd", "data.dataset=voc"), ("protocol: dist",), ("every: 2",)):
        assert "whole images" in protocol_words(recipe(section, student, *other))


@pytest.mark.parametrize("section, assignment, told", [
    ("protocol: cirkd, mode: slide", "seed=1",
     "recipe.yaml:9: evaluate.mode: the protocol cirkd has whole on cityscapes, got slide; leave it out, or say "
     "evaluate.protocol=null to choose it yourself"),
    ("protocol: mmseg", "evaluate.fit=[512, 2048]",
     "command line: evaluate.fit: the protocol mmseg has [1024, 2048] on cityscapes, got [512, 2048]"),
    ("protocol: trikd", "evaluate.align_corners=false", "the protocol trikd has true on cityscapes, got false"),
    ("protocol: tsic", "evaluate.scales=[0.5, 1.0]", "the protocol tsic has [1.0] on cityscapes, got [0.5, 1.0]"),
    ("protocol: dist", "data.resize=[32, 64]", "data.resize: the protocol dist scores images at their own size"),
    ("fit: [512, 512], short_side: 3", "seed=1", "fit and short_side are two ways to say an image's size"),
    ("protocol: cirdk", "seed=1", "must be 'cirkd', 'dist', 'mmseg', 'aicsd', 'trikd' or 'tsic'; got 'cirdk'"),
])  # fmt: skip
def test_what_contradicts_a_protocol_is_one_sentence(recipe, section, assignment, told):
    with pytest.raises(RecipeError) as caught:
        recipe(section, assignment)
    assert len(caught.value.mistakes) == 1 and told in caught.value.mistakes[0]


def test_a_protocol_leaves_the_rest_to_the_recipe(recipe):
    free = recipe("protocol: cirkd, flip: true, scales: [0.5, 1.0], every: 3")
    assert "scales 0.5, 1, mirrored too, logits averaged" in protocol_words(free)
    other = recipe("protocol: aicsd, short_side: 33", "data.dataset=camvid")
    assert other.evaluate.short_side == 33


@pytest.mark.parametrize("resolved", [False, True])
def test_the_command_line_changes_the_protocol(recipe, tmp_path, resolved):
    """Of a recipe as it was written, and of the one in a run folder, which says every value."""
    first = recipe("protocol: trikd")
    path = tmp_path / "recipe.yaml"
    if resolved:
        path.write_text(first.dump())
    assert protocol_words(read(path, ["evaluate.protocol=mmseg"])) == protocol_words(recipe("protocol: mmseg"))
    if resolved:
        path.write_text(first.dump())
    else:
        recipe("protocol: trikd")
    freed = read(path, ["evaluate.protocol=null", "evaluate.flip=true"])
    assert freed.evaluate.protocol is None and freed.evaluate.window == (512, 512) and freed.evaluate.flip
    assert freed.evaluate.absent == "zero" and protocol_words(freed).startswith("windows of 512 x 512 every 342 x 342")
    with pytest.raises(RecipeError, match="command line: evaluate.mode: the protocol cirkd has whole"):
        read(path, ["evaluate.protocol=cirkd", "evaluate.mode=slide"])


def test_a_run_without_a_protocol_takes_one_from_the_command_line(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe("mode: slide, absent: skip").dump())
    words = protocol_words(read(path, ["evaluate.protocol=cirkd"]))
    assert words == (
        "cirkd: whole images at native size, scores resized once, corners aligned, scales 1, absent classes: zero"
    )


def test_words_differ_wherever_numbers_may(recipe):
    sections = [
        "every: 5", "mode: slide", "mode: halves", "mode: slide, window: [32, 32]", "mode: slide, stride: [9, 9]",
        "mode: slide, smaller: shrink", "mode: slide, average: softmax", "scales: [0.5, 1.0]", "flip: true",
        "flip: true, average: softmax", "fit: [64, 64]", "short_side: 9", "resizes: 2", "align_corners: true",
        "align_corners: false", "absent: zero", *(f"protocol: {protocol}" for protocol in PROTOCOLS),
    ]  # fmt: skip
    words = [protocol_words(recipe(section)) for section in sections]
    assert len(set(words)) == len(words)
    assert protocol_words(recipe("every: 9, average: softmax, window: [8, 8], batch_size: 2")) == words[0]
