import math

import numpy as np
import pytest

from segkd.datasets._class_weights import class_histogram, class_weights


def test_rule_by_hand() -> None:
    weights = class_weights(np.array([75, 25, 0]))
    assert weights.tolist() == pytest.approx([1 / math.log(1.77), 1 / math.log(1.27), 1 / math.log(1.02)])


def test_ignored_pixels_are_left_out() -> None:
    assert class_histogram(np.array([[0, 1, 1], [2, 255, 9]]), 3).tolist() == [1, 2, 1]


def test_no_counted_pixel_is_finite() -> None:
    assert np.isfinite(class_weights(np.zeros(4))).all()


def test_constant_must_exceed_one() -> None:
    with pytest.raises(ValueError, match="constant"):
        class_weights(np.ones(3), constant=1.0)
