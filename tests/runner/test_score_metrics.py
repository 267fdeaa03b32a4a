"""Metrics from the recipe to the last table: in training, score.py, the report and comparisons alike."""

import csv
import json

import pytest

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read

# a metric that is in no folder of the project, and the commands as they are with it in the room
METRIC = '''
"""The share of pixels that are called the first class."""

from segkd.runner.scoring.metrics._metric import Metric


class FirstClass(Metric):
    headline = {"first_class_pixels": "called the first class (px)"}

    def __init__(self, split, *, times: int = 1):
        super().__init__(split)
        self.times = times

    def count(self, scores, prediction, target):
        return {"pixels": (prediction == 0).sum()}

    def values(self, counts):
        return {"first_class_pixels": float(self.times * counts["pixels"])}

    def text(self, values):
        return f"{values['first_class_pixels']:g} pixels are called {self.split.class_names[0]}"
'''
COMMAND = """
import importlib

room = importlib.import_module("segkd.runner.scoring.metrics")
room.__path__ = [*room.__path__, "more"]

from segkd.runner import {name}
from segkd.runner.command import run_command

run_command({name}.main)
"""


@pytest.fixture
def commands(server, folder):
    """commands("score", ...) runs a command with one more file in the room of metrics."""
    (folder / "more").mkdir()
    (folder / "more/first_class.py").write_text(METRIC)

    def run(name, *arguments, **settings):
        (folder / f"more_{name}.py").write_text(COMMAND.format(name=name))
        result = server(folder, f"more_{name}.py", *arguments, **settings)
        assert result.code == 0, result.err
        return result.out

    return run


def test_a_metric_is_one_file(commands, server, folder, run_at):
    asked = "evaluate.metrics={first_class: {times: 2}}"
    printed = commands("distill", "tiny.yaml", "name=none-s0", asked, "evaluate.also=[student]")
    commands("distill", "tiny.yaml", "name=none-s1", "seed=1", asked, processes=2)
    run = folder / "runs/none-s0"
    rows = run_at(run).rows()
    best = json.loads((run / "student/config.json").read_text())["iteration"]
    pixels = rows[best - 1]["first_class_pixels"]
    assert [("first_class_pixels" in row) for row in rows] == [False, True, False, True]
    assert rows[best - 1]["first_class_pixels/student"] == pixels
    assert f"| called the first class (px) {pixels:.4g} |" in printed
    assert f"{pixels:g} pixels are called sky" in (run / "report.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["first_class_pixels"] == pixels and summary["metrics"] == {"first_class": {"times": 2}}

    for processes in (1, 2):
        printed = commands(
            "score", "runs/none-s0", "--output", "scores.json", "--overwrite", "--metrics", "first_class",
            processes=processes,
        )  # fmt: skip
        assert f"{pixels / 2:g} pixels are called sky" in printed, "--metrics asks for the metric's own defaults"
        assert json.loads((folder / "scores.json").read_text())["first_class_pixels"] == pixels / 2
    commands("score", "runs/none-s0", "--output", "scores.json", "--overwrite")
    assert json.loads((folder / "scores.json").read_text())["first_class_pixels"] == pixels

    assert "| called the first class (px) |" in commands("compare", "runs")
    (row,) = csv.DictReader((folder / "runs/comparison/table.csv").open())
    both = [
        json.loads((folder / f"runs/none-s{seed}/summary.json").read_text())["first_class_pixels"] for seed in (0, 1)
    ]
    assert float(row["first_class_pixels"]) == pytest.approx(sum(both) / 2)
    assert float(row["first_class_pixels_std"]) == pytest.approx(abs(both[0] - both[1]) / 2**0.5)

    refused = server(folder, "score", "runs/none-s0")  # without the file
    assert refused.code == 2 and "recipe.yaml:" in refused.err
    assert "no runner/scoring/metrics/first_class.py" in refused.err


def test_further_metrics_change_nothing_else(trained, trained_once):
    plain, more = (
        trained_once("plain"),
        trained("more", "evaluate.metrics=[boundary, calibration, trimap, worst_images]"),
    )
    for row, other in zip(plain.rows(), more.rows(), strict=True):
        assert {key: other[key] for key in row} == row
    assert "boundary_miou" in more.rows()[-1] and "boundary_miou" not in plain.rows()[-1]
    assert plain.ends() == more.ends()


def test_a_recipe_names_metrics_in_a_list_or_with_arguments(folder):
    file = folder / "asked.yaml"

    def metrics(words, *assignments):
        file.write_text(f"extends: tiny.yaml\nevaluate:\n  metrics: {words}\n")
        return read(file, assignments).evaluate.metrics

    everything = {"boundary": {"width": None}, "calibration": {"bins": 15}}
    assert metrics("[boundary, calibration]") == metrics("{boundary: {}, calibration: {bins: 15}}") == everything
    assert metrics("[confusion]") == metrics("[]") == {}, "the confusion matrix is counted anyway"
    assert metrics("[boundary]", "evaluate.metrics.boundary.width=3") == {"boundary": {"width": 3}}
    assert metrics("[boundary]", "evaluate.metrics=[trimap]") == {"trimap": {"width": 5}}
    (folder / "resolved.yaml").write_text(read(file).dump())
    assert read(folder / "resolved.yaml").evaluate == read(file).evaluate
    for words, told in (
        ("[boundry]", "evaluate.metrics.boundry: no runner/scoring/metrics/boundry.py, did you mean 'boundary'?"),
        ("[_metric]", "evaluate.metrics._metric: no runner/scoring/metrics/_metric.py"),
        ("{boundary: {width: 0}}", "evaluate.metrics.boundary.width: must be greater than or equal to 1; got 0"),
        (
            "{worst_images: {share: 1.5}}",
            "evaluate.metrics.worst_images.share: must be less than or equal to 1; got 1.5",
        ),
        ("{trimap: {widht: 3}}", "evaluate.metrics.trimap.widht: unknown key, did you mean 'width'?"),
        ("7", "evaluate.metrics: must be a mapping; got 7"),
    ):
        with pytest.raises(RecipeError) as caught:
            metrics(words)
        assert len(caught.value.mistakes) == 1 and f"asked.yaml:3: {told}" in caught.value.mistakes[0]


def test_what_is_scored_beside_the_student_has_the_student_that_is_delivered(trained):
    """Its moving average, where there is one."""
    rows = [row for row in trained("tiny", "loop.ema=0.9", "evaluate.also=[student]").rows() if "miou" in row]
    assert rows and all(row["miou/student"] == row["miou"] for row in rows)
