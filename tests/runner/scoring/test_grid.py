"""A confusion matrix in a report: which cells are drawn."""

import numpy as np

from segkd.runner.scoring.grid import MOST_CELLS, Cell, Grid


def test_cells_are_shares_of_the_labels_pixels():
    matrix = np.array([[90, 10, 0], [30, 60, 10], [0, 0, 0]])  # the last class is never labelled
    grid = Grid(matrix, ["sky", "road", "a very long name of a class indeed"])
    assert sorted((cell.label, cell.predicted, cell.share) for cell in grid.cells) == [
        (0, 0, 0.9), (0, 1, 0.1), (1, 0, 0.3), (1, 1, 0.6), (1, 2, 0.1),
    ]  # fmt: skip
    assert grid.mistakes == [Cell(1, 0, 0.3), Cell(0, 1, 0.1), Cell(1, 2, 0.1)]
    assert grid.short_names[:2] == ["sky", "road"] and len(grid.short_names[2]) == 24


def test_of_many_classes_the_largest_cells_are_drawn():
    matrix = np.random.default_rng(0).integers(1, 9, (150, 150)) + 500 * np.eye(150, dtype=int)
    grid = Grid(matrix, [str(index) for index in range(150)])
    assert len(grid.cells) <= MOST_CELLS and not grid.is_small
    assert {(cell.label, cell.predicted) for cell in grid.cells} >= {(index, index) for index in range(150)}
