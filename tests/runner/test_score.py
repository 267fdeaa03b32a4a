"""The score command on what a run has delivered."""

import json


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


def test_score_without_weights_or_with_an_unknown_network_is_one_sentence(server, folder):
    for arguments, words in (
        (("tiny.yaml",), "there are no weights at runs/tiny"),
        (("tiny.yaml", "--network", "teacher"), "--network teacher: the recipe has student"),
    ):
        result = server(folder, "score", *arguments)
        assert result.code == 2 and words in result.err and "Traceback" not in result.err
