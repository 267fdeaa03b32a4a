"""The pictures of a comparison: what is drawn where."""

import numpy as np
import pytest
from PIL import Image

from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import find_runs
from segkd.runner.comparing.pictures import NAME, draw_curves, draw_examples, draw_table


@pytest.fixture
def comparison(fabricate):
    """A baseline, and a method that is better on some images and worse on others."""
    counts = np.array([[[5, 10, 5]], [[9, 10, 9]], [[2, 10, 2]]])
    fabricate("none", counts, curve=((2, 0.2), (4, 0.3), (6, 0.5)), seconds=30.0)
    fabricate("kl-s0", counts + [[[3, 0, 3]], [[-1, 0, -1]], [[2, 0, 2]]], taught=True, curve=((2, 0.1), (4, 0.4)))
    fabricate("kl-s1", counts, "seed=1", taught=True, curve=((2, 0.3), (4, 0.2), (6, 0.5)))
    return compare(find_runs(["runs"]))


def test_the_table_widens_with_its_words_and_grows_with_its_lines(comparison, tmp_path):
    short = Image.open(draw_table(comparison, ("a", "b"), [["1", "2"], ["3", "4"]], tmp_path / "short.png"))
    long = Image.open(draw_table(comparison, ("a", "b"), [["1", "2" * 40], ["3", "4"]], tmp_path / "long.png"))
    assert long.width > short.width + 200 and long.height == short.height
    blue = (np.asarray(short.convert("RGB")).astype(int) @ [-1, 0, 1] > 80).any(1).nonzero()[0]
    # the gain is drawn in the last line of the words only: LINE is 0.3 inches of 110 dots, the margin 0.1 inches
    assert 11 + 2 * 33 <= blue.min() and blue.max() <= 11 + 3 * 33


def ends(comparison, file, over):
    """Where the blue and the orange curve end, in pixels from the left."""
    picture = np.asarray(Image.open(draw_curves(comparison, file, over)).convert("RGB")).astype(int)
    plot = picture[:, :750]  # left of the legend
    lines = (np.abs(plot - color).sum(-1) < 30 for color in ((31, 119, 180), (255, 127, 14)))
    return [line.any(0).nonzero()[0].max() for line in lines]


def test_curves_are_drawn_where_all_seeds_were_scored(comparison, tmp_path):
    blue, orange = ends(comparison, tmp_path / "curves.png", "iteration")
    assert blue > orange + 100


def test_curves_over_the_time_show_who_took_longer(comparison, tmp_path):
    # the plain run took 30 s for its six iterations, kl 90 s for four and for six
    blue, orange = ends(comparison, tmp_path / "curves.png", "training time")
    assert orange > blue + 100


def test_examples_are_the_panels_of_the_best_checkpoints(comparison, tmp_path):
    file = tmp_path / "examples.png"
    assert draw_examples(comparison, file) is None and not file.exists()
    for row, color in zip(comparison.rows, ("red", "blue")):
        panels = row.runs[0].folder / "panels"
        for step, shade in ((2, "white"), (row.runs[0].summary["iteration"], color)):
            (panels / f"step-{step:08d}").mkdir(parents=True)
            for name in ("b.png", f"{color}.png"):
                Image.new("RGB", (60, 20), shade).save(panels / f"step-{step:08d}" / name)
    picture = Image.open(draw_examples(comparison, file))
    assert picture.size == (NAME + 60, 40)
    assert picture.getpixel((NAME + 5, 5)) == (255, 0, 0) and picture.getpixel((NAME + 5, 25)) == (0, 0, 255)
