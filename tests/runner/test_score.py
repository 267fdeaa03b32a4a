"""The score command on what a run has delivered."""

import json
import shutil

import pytest

from segkd.runner.recipe import parts


def test_score_of_a_run_equals_the_score_it_logged(distill, server, folder):
    assert distill("tiny.yaml").code == 0
    result = server(folder, "score", "runs/tiny/recipe.yaml", "--output", "scores.json")
    assert result.code == 0, result.err
    logged = [json.loads(line) for line in (folder / "runs/tiny/metrics.jsonl").read_text().splitlines()]
    best = max((row for row in logged if "miou" in row), key=lambda row: row["miou"])
    scores = json.loads((folder / "scores.json").read_text())
    for key in ("miou", "pixel_accuracy", "fwiou", "iou_per_class", "dice_per_class"):
        assert scores[key] == best[key]
    assert "pole" in result.out and "whole images at native size" in result.out and "15 images of val" in result.out
    assert scores["protocol"].startswith("whole images")


def test_score_takes_other_weights_and_another_protocol(distill, server, folder):
    assert distill("tiny.yaml").code == 0
    result = server(
        folder,
        "score",
        "tiny.yaml",
        "evaluate.flip=true",
        "evaluate.mode=slide",
        "--weights",
        "runs/tiny/checkpoints/step-00000002",
    )
    assert result.code == 0, result.err
    assert "windows of 32 x 32" in result.out and "mirrored too" in result.out


def test_two_processes_count_what_one_does(distill, server, folder):
    assert distill("tiny.yaml").code == 0
    asked = (
        "--confusion",
        "confusion.png",
        "--output",
        "scores.json",
        "--overwrite",
        "--metrics",
        *parts.names(parts.METRICS),
    )
    found = []
    for processes in (1, 2):
        # one image: the second process has none
        for images in ("data.args.length=15", "data.args.length=1"):
            result = server(folder, "score", "runs/tiny", images, *asked, processes=processes)
            assert result.code == 0, result.err
            found.append(json.loads((folder / "scores.json").read_text()))
            assert "boundary mIoU" in result.out and "in bands of 1 pixels, 2 % of the image's diagonal" in result.out
            assert "expected calibration error" in result.out and (folder / "confusion.png").stat().st_size > 1000
    for one, two in zip(found[:2], found[2:]):
        assert {key: one[key] for key in one if "calibration" not in key} == {
            key: two[key] for key in two if "calibration" not in key
        }
        assert two["calibration_error"] == pytest.approx(one["calibration_error"], rel=1e-6)
    assert sum(pixels for pixels, _, _ in found[0]["calibration_bins"]) <= 15 * 32 * 48


def test_arguments_of_metrics_are_set_like_any_value(distill, server, folder):
    assert distill("tiny.yaml").code == 0
    widths = []
    for words in (
        ("evaluate.metrics.boundary.width=2",),
        ("evaluate.metrics.boundary.width=9", "--metrics", "boundary"),
    ):
        result = server(folder, "score", "runs/tiny", *words, "--output", "scores.json", "--overwrite")
        assert result.code == 0, result.err
        widths.append(json.loads((folder / "scores.json").read_text())["boundary_width"])
    assert widths == [2, 9]


def test_what_cannot_be_scored_is_one_sentence(distill, server, folder):
    assert distill("tiny.yaml").code == 0
    shutil.copytree(folder / "runs/tiny/student", folder / "lone")
    (folder / "there.json").write_text("kept")
    for arguments, words in (
        (("lone",), "lone holds no recipe.yaml, so nothing says on which data to score"),
        (("runs/tiny", "--output", "there.json"), "there.json is there already"),
        (("runs/tiny", "--confusion", "no/such.png"), "there is no folder no"),
        (("runs/tiny", "--layout", "mmseg"), "name the file with --weights"),
        (("runs/tiny", "--metrics", "boundry"), "no runner/scoring/metrics/boundry.py, did you mean 'boundary'?"),
        (("runs/tiny", "evaluate.metrics.boundary.width=0"), "evaluate.metrics.boundary.width: must be greater than 0"),
        (("runs/tiny", "evaluate.protocol=cirkd", "evaluate.mode=slide"), "the protocol cirkd has whole on synthetic"),
    ):
        result = server(folder, "score", *arguments)
        assert result.code == 2 and words in result.err and "Traceback" not in result.err, result.err
    assert (folder / "there.json").read_text() == "kept"


def test_score_without_weights_or_with_an_unknown_network_is_one_sentence(server, folder):
    for arguments, words in (
        (("tiny.yaml",), "there are no weights at runs/tiny"),
        (("tiny.yaml", "--network", "teacher"), "--network teacher: the recipe has student"),
    ):
        result = server(folder, "score", *arguments)
        assert result.code == 2 and words in result.err and "Traceback" not in result.err
