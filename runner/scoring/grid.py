"""A confusion matrix in a report: where the pixels of each class go, as cells to draw and as the largest mistakes."""

from dataclasses import dataclass

import numpy as np

SMALLEST = 0.005  # share of a class's pixels that is drawn
MOST_CELLS = 3000  # of many classes the largest ones are drawn
MANY = 30  # classes; with more, cells are small and have no numbers
MISTAKES = 12  # that are told in words
LONGEST = 24  # letters of a name beside the cells


@dataclass(frozen=True)
class Cell:
    """Pixels of class `label` that were called `predicted`: their share of the class's pixels."""

    label: int
    predicted: int
    share: float


class Grid:
    """The cells of a (K, K) matrix of counts, rows = label, columns = prediction."""

    def __init__(self, matrix: np.ndarray, class_names: list[str]):
        pixels = matrix.sum(1, keepdims=True)
        shares = np.divide(matrix, pixels, out=np.zeros(matrix.shape), where=pixels > 0)
        largest = np.argsort(-shares, axis=None, kind="stable")[:MOST_CELLS]
        places = ((int(place // len(matrix)), int(place % len(matrix))) for place in largest)
        self.cells = [Cell(*place, float(shares[place])) for place in places if shares[place] >= SMALLEST]
        self.class_names = class_names
        self.is_small = len(class_names) <= MANY
        self.side = 26 if self.is_small else 11  # of a cell, in pixels
        longest = min(LONGEST, max(map(len, class_names)))
        self.margin = 12 + longest * (7 if self.is_small else 5.5)
        self.size = self.margin + self.side * len(class_names) + 2

    @property
    def short_names(self) -> list[str]:
        """The names, cut where they are long."""
        return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\u2026" for name in self.class_names]

    @property
    def mistakes(self) -> list[Cell]:
        """The largest shares of a class that were taken for another."""
        return [cell for cell in self.cells if cell.label != cell.predicted][:MISTAKES]
