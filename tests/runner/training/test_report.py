"""What report.md says of a run's time."""

from segkd.runner.recipe.read import read
from segkd.runner.training.report import time_paragraphs


def test_the_report_says_where_a_steps_time_went(folder):
    recipe = read(folder / "tiny.yaml")  # 4 iterations of 4 images
    history = [{"iteration": 2, "images_per_second": 16.0, "seconds/student": 0.1, "seconds/optimizer": 0.05}]
    history += [{"iteration": 4, "images_per_second": 16.0, "seconds/student": 0.2, "seconds/scoring": 1.5}]
    table, told = time_paragraphs(history, recipe)
    assert table.splitlines()[0] == "| where a step's time goes | ms | % |"
    assert table.splitlines()[2:] == [
        "| student | 150.0 | 60.0 |",
        "| optimizer | 25.0 | 10.0 |",
        "| step | 250.0 | 100 |",
    ]
    assert told == "4 iterations took 0:01, and each evaluation 1.50 s more."
    assert time_paragraphs([{"iteration": 4, "images_per_second": 16.0}], recipe) == []
