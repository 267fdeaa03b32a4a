"""Views, boxes, label maps and class weights recorded from the original codes of CIRKD, AICSD and TriKD."""

import json
from pathlib import Path

import numpy as np
import pytest
from recorded import data

FOLDER = Path(__file__).parents[1] / "golden" / "datasets"
CASES = json.loads((FOLDER / "cases.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_equals_the_original(case: dict) -> None:
    arrays = dict(np.load(FOLDER / f"{case['case']}.npz"))
    computed = data.RUNNERS[case["loss"]](case, arrays)
    expected = {name.removeprefix("expected:"): value for name, value in arrays.items() if name.startswith("expected:")}
    assert set(computed) == set(expected)
    # where Pillow did the original's work we are exact; OpenCV's fixed-point rounding leaves one grey level
    tolerance = data.TOLERANCE[case["loss"]] if case["loss"] == "data_transform" else 1e-6
    for name, wanted in expected.items():
        assert computed[name].shape == wanted.shape
        if name in ("label", "ignore_mask", "box1", "box2", "mask", "train_ids"):
            np.testing.assert_array_equal(computed[name], wanted, err_msg=name)
        else:
            np.testing.assert_allclose(computed[name], wanted, rtol=0, atol=tolerance, err_msg=name)


def test_every_runner_has_a_case() -> None:
    assert {case["loss"] for case in CASES} == set(data.RUNNERS)
