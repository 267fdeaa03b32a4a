"""The score command on what a run has delivered."""

import json
import shutil

import pytest

from segkd.runner.console import percent
from segkd.runner.recipe import parts


@pytest.fixture
def score(server, folder):
    """score("runs/tiny", ...) gives the scores in the file the command has written, and what it has printed."""

    def run(*arguments, **settings):
        result = server(folder, "score", *arguments, "--output", "scores.json", "--overwrite", **settings)
        assert result.code == 0, result.err
        return json.loads((folder / "scores.json").read_text()), result.out

    return run


def test_score_of_a_run_equals_the_score_it_logged(trained_once, score):
    best = max((row for row in trained_once("tiny").rows() if "miou" in row), key=lambda row: row["miou"])
    scores, printed = score("runs/tiny/recipe.yaml")
    for key in ("miou", "pixel_accuracy", "fwiou", "iou_per_class", "dice_per_class"):
        assert scores[key] == best[key]
    assert "pole" in printed and "whole images at native size" in printed and "15 images of val" in printed
    assert scores["protocol"].startswith("whole images")


def test_score_takes_other_weights_and_another_protocol(trained_once, score):
    weights = trained_once("tiny").path / "checkpoints/step-00000002"
    _, printed = score("tiny.yaml", "evaluate.flip=true", "evaluate.mode=slide", "--weights", str(weights))
    assert "windows of 32 x 32" in printed and "mirrored too" in printed


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_ends_with_the_score_of_its_chosen_student_on_a_further_split(trained, score, folder, processes):
    run = trained("tiny", "data.test_split=test", processes=processes)
    tested = json.loads((run.path / "summary.json").read_text())["test"]
    scores, _ = score("runs/tiny", "data.val_split=test", "data.test_split=null")
    assert tested == {"split": "test", "images": 15, **{key: scores[key] for key in tested.keys() - {"split", "images"}}}
    told = f"{100 * scores['miou']:.2f} % mIoU on the 15 images of test, which chose nothing"
    assert f"tiny: {told}" in run.out and f"It has {told}." in (run.path / "report.md").read_text()
    assert "15 images, which chose nothing" in (run.path / "report.html").read_text()
    again = trained("tiny", "data.test_split=test", "name=again", "baseline={recipe: tiny.yaml}", processes=processes)
    assert f"; on test +0.00 ({percent(scores['miou'])} -> {percent(scores['miou'])})" in again.out


def test_two_processes_count_what_one_does(trained_once, score, folder):
    trained_once("tiny")
    asked = "--confusion", "confusion.png", "--metrics", *parts.names(parts.METRICS)
    found = []
    for processes in (1, 2):
        # of 15 images one process gets 8, the other 7; of one image the second gets none
        for images in ("data.args.length=15", "data.args.length=1"):
            scores, printed = score("runs/tiny", images, *asked, processes=processes)
            found.append(scores)
            assert printed.count("frequency-weighted") == 1, "one process prints"
            assert "boundary mIoU" in printed and "in bands of 1 pixels, 2 % of the image's diagonal" in printed
            assert "expected calibration error" in printed and (folder / "confusion.png").stat().st_size > 1000
    for one, two in zip(found[:2], found[2:]):
        assert two["calibration_error"] == pytest.approx(one["calibration_error"], rel=1e-6)
        assert one.keys() == two.keys()
        assert all(two[key] == value for key, value in one.items() if "calibration" not in key)
    assert sum(pixels for pixels, _, _ in found[0]["calibration_bins"]) <= 15 * 32 * 48


def test_arguments_of_metrics_are_set_like_any_value(trained_once, score):
    trained_once("tiny")
    for words, width in (
        (["evaluate.metrics.boundary.width=2"], 2),
        (["evaluate.metrics.boundary.width=9", "--metrics", "boundary"], 9),
    ):
        assert score("runs/tiny", *words)[0]["boundary_width"] == width


def test_what_cannot_be_scored_is_one_sentence(trained_once, server, folder, assert_refused):
    shutil.copytree(trained_once("tiny").path / "student", folder / "lone")
    (folder / "there.json").write_text("kept")
    for arguments, words in (
        (("tiny.yaml", "name=untrained"), "there are no weights at runs/untrained"),
        (("tiny.yaml", "--network", "teacher"), "--network teacher: the recipe has student"),
        (("lone",), "lone holds no recipe.yaml, so nothing says on which data to score"),
        (("runs/tiny", "--output", "there.json"), "there.json is there already"),
        (("runs/tiny", "--confusion", "no/such.png"), "there is no folder no"),
        (("runs/tiny", "--layout", "mmseg"), "name the file with --weights"),
        (("runs/tiny", "--metrics", "boundry"), "no runner/scoring/metrics/boundry.py, did you mean 'boundary'?"),
        (
            ("runs/tiny", "evaluate.metrics.boundary.width=0"),
            "evaluate.metrics.boundary.width: must be greater than or equal to 1",
        ),
        (("runs/tiny", "evaluate.protocol=cirkd", "evaluate.mode=slide"), "the protocol cirkd has whole on synthetic"),
    ):
        assert_refused(server(folder, "score", *arguments), words)
    assert (folder / "there.json").read_text() == "kept"
