"""The check command: what it says about a recipe, and that it leaves nothing behind."""

import re

import numpy as np
import pytest
from PIL import Image

from segkd.runner.check import check_data
from segkd.runner.recipe.read import read

TEACHER = "networks.teacher={model: deeplabv3, args: {backbone: resnet18, output_stride: 16, width: 8}, train: false, weights: random}"


@pytest.fixture
def check(server, folder):
    """check("seed=1", ...) checks tiny.yaml with these changes."""
    return lambda *words: server(folder, "check", "tiny.yaml", *words)


def test_check_reports_every_part_and_writes_a_picture(check, folder):
    result = check(TEACHER, "losses=[{loss: cross_entropy}, {loss: fitnet, weight: 10, after: 2}]", "loop.accumulate=2")
    assert result.code == 0, result.err
    firsts = [line.split()[0] for line in result.out.splitlines() if line[:1].strip()]
    assert firsts == ["recipe", "data", "sizes", "labels", "picture", "start", "network", "network", "images", "images",
                      "term", "term", "cost", "verdict"]  # fmt: skip
    assert "15 images to train on" in result.out and "student: pspnet mobilenetv2_035, trained" in result.out
    assert "teacher: deeplabv3 resnet18, frozen" in result.out and "this recipe will run" in result.out
    assert "of teacher are normalised with imagenet: mean 123.675 116.28 103.53" in result.out
    assert "fitnet" in result.out and "(iteration 3)" in result.out, "the term behind its gate is tried too"
    assert "32x48 (height x width), all images" in result.out
    assert re.search(r"labels +all 15 to train on \| all 15 to score: .*\n +sky +\d+\.\d% +15 \| ", result.out)
    assert "picture   runs/tiny-data.png shows some images" in result.out
    assert [path.name for path in (folder / "runs").iterdir()] == ["tiny-data.png"]


def test_check_keeps_pixels(check, folder, assert_refused):
    result = check("data.cache=disk", "--cache")
    assert result.code == 0, result.err
    told = [line for line in result.out.splitlines() if line.startswith("pixels")]
    assert [line.split(" images")[0] for line in told[2:]] == ["pixels    15 of 15", "pixels    15 of 15"]
    assert told[-1].endswith("in runs/pixel_cache") and "this recipe will run" in result.out
    assert len(list((folder / "runs/pixel_cache").glob("synthetic-*-*-*.bin"))) == 4
    assert_refused(check("data.cache=ram", "--cache"), "is given back when the last run that uses it ends")


def test_check_tells_class_weights_that_follow_from_the_labels(check):
    result = check("losses=[{loss: cross_entropy, args: {class_weights: auto}}, {loss: lovasz}]")
    assert result.code == 0, result.err
    assert "classes   cross_entropy: class weights by median_frequency: sky 0." in result.out


def test_check_warns_of_parameters_without_a_gradient(check):
    result = check(TEACHER, "losses=[{loss: fitnet}]")
    assert result.code == 0, result.err
    assert "get no gradient from any active term" in result.out


def test_check_of_a_recipe_whose_teacher_is_not_trained_yet(check, folder):
    (folder / "teacher.yaml").write_text("extends: tiny.yaml\nname: teacher\n")
    result = check(
        "losses=[{loss: cross_entropy}, {loss: kl}]",
        "networks.teacher={model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8}, "
        "train: false, weights: {recipe: teacher.yaml}}",
    )
    assert result.code == 0, result.err
    assert "teacher.yaml will be trained first, into runs/teacher" in result.out
    assert re.search(
        r"^cost +before it teacher is trained, which takes about \d+:\d\d and .* memory$", result.out, re.M
    )


def test_check_without_data(check, folder):
    result = check(
        "--no-data",
        "data={dataset: camvid, root: nowhere, args: {}, crop_size: [96, 64], unlabelled: {images: no_images}}",
        TEACHER.replace("weights: random", "weights: teacher.pth"),
        "networks.student.args.pretrained=true",
        "losses=[{loss: cross_entropy}, {loss: fitnet, weight: 10, after: 2, on: both}]",
    )
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "recipe", "network", "network", "term", "term", "data", "data", "download", "weights", "verdict"]  # fmt: skip
    assert "student: pspnet mobilenetv2_035, trained" in lines[1] and "one 96x64 crop" in lines[1]
    assert "fitnet: trains student from teacher, on both images" in lines[4]
    assert "no folder nowhere" in lines[5] and "no folder no_images" in lines[6]
    assert "no teacher.pth" in result.out and "mobilenetv2_035" in result.out
    assert "fit together; it still needs what the 4 lines above name" in lines[-1]
    assert not (folder / "runs").exists()


def test_check_without_data_names_what_is_named_anywhere(check):
    result = check("--no-data", "data.extra={images: gone/images, labels: gone/labels}", "baseline={recipe: gone.yaml}")
    assert result.code == 0, result.err
    for told in ("no folder gone/images", "no folder gone/labels", "no gone.yaml"):
        assert told in result.out
    assert "still needs what the 3 lines above name" in result.out
    result = check("--no-data", "data.dataset=voc", "data.args={}")
    assert result.code == 0 and "data      data.root is missing; say where voc lies (" in result.out


def test_sizes_without_data_are_those_with_it(check):
    outputs = [check(*words).out.splitlines() for words in ((), ("--no-data",))]
    with_data, without = ([line for line in lines if line.startswith("network")] for lines in outputs)
    assert with_data == without and len(without) == 1
    assert outputs[1][-1] == "verdict   the parts of this recipe fit together, and nothing it names is missing"


def test_check_without_data_finds_what_does_not_fit(check):
    losses = "losses=[{loss: cross_entropy}, {loss: fitnet, args: {feature: stage9}}]"
    result = check("--no-data", TEACHER, losses)
    assert result.code == 2 and "networks.student has no feature 'stage9'" in result.err


def test_check_looks_at_the_images_that_are_scored(check):
    result = check("data.train_split=val")
    assert result.code == 2 and "the images to score are those to train on (val)" in result.err
    allowed = check("data.train_split=val", "data.allow_overlap=true", "--all-images", "data.cache=disk")
    assert allowed.code == 0 and "this recipe will run" in allowed.out


def test_check_says_loudly_which_classes_are_never_seen(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    draw = np.random.default_rng(0)
    for split, ids in (("train", (0, 1)), ("val", (0, 1, 2))):
        for name in "abc":
            for kind, pixels in (("images", draw.integers(0, 256, (4, 6, 3))), ("labels", draw.choice(ids, (4, 6)))):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / kind / f"{name}.png")
    Image.new("L", (6, 4)).save(folder / "val/labels/left over.png")
    args = "data={dataset: folder, root: ., args: {class_names: [sky, road, car, bus]}, crop_size: [4, 6]}"
    check_data(read("tiny.yaml", [args]), 2)
    out = capsys.readouterr().out
    assert "warning   NEVER SEEN IN 2 OF THE 3 LABELS TO TRAIN ON: car, bus\n" in out
    assert "warning   NEVER SEEN IN 2 OF THE 3 LABELS TO SCORE: bus\n" in out
    assert "files     labels that belong to no image: 1, such as val/labels/left over.png" in out
