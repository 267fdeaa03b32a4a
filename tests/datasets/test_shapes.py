"""Polygons and run lengths against COCO's own C code: where pycocotools is not there, against what it once gave."""

import numpy as np
import pytest

from segkd.datasets._shapes import NOTHING, Region, circle, draw, polygon, run_lengths, stacked, union

SIZE = (16, 12)  # width, height
# polygon in an image of 16x12 -> its run lengths as maskApi.c of cocoapi writes them
RECORDED = [
    ([[2.3, 1.7], [13.6, 4.2], [5.5, 12.4], [9.1, -2.0], [17.0, 9.9], [1.2, 8.8]], "c025500000011NJ0OO161LNN30N20M23ML4601O2NH"),
    ([[0.5, 0.5], [15.5, 0.5], [15.5, 11.5], [0.5, 11.5]], "=;1000000000000000000000000000"),
    ([[8, 1], [3, 11], [15, 5], [1, 4], [13, 10]], "l01;0J001M0443LL0N0216N31J20MK040g0"),
    ([[4, 4], [4, 4], [12, 4], [12, 9], [12, 9], [4, 9]], "d1570000000000000\\1"),
    ([[-3.3, -4.7], [19.2, 5.1], [7.7, 15.9]], "02:2N2N2N2NV1OkN001O0O2O0O2NM"),
    ([[3.1, 3.1], [3.2, 9.9], [3.3, 3.1]], "P6"),
    ([[0.1, 6], [8, 0.1], [15.9, 6], [8, 11.9]], "a0292N101N2N2N>0B2N2N101N2N8"),
]  # fmt: skip


def whole(region: Region, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size[::-1], bool)
    mask[region.top : region.top + region.mask.shape[0], region.left : region.left + region.mask.shape[1]] = region.mask
    return mask


@pytest.mark.parametrize("points, text", RECORDED)
def test_polygons_and_run_lengths_are_cocos(points, text):
    assert (whole(polygon(np.array(points), SIZE)) == whole(run_lengths(text, SIZE))).all()


@pytest.mark.filterwarnings("ignore:__array__")
def test_a_thousand_polygons_are_pycocotools_own():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for number in range(1000):
        width, height = map(int, rng.integers(1, 40, 2))
        points = rng.uniform(-0.5, 1.5, (int(rng.integers(3, 9)), 2)) * (width, height)
        points = np.round(points * 2) / 2 if number % 2 else points
        (encoded,) = mask.frPyObjects([points.reshape(-1).tolist()], height, width)
        theirs = mask.decode(encoded).astype(bool)
        assert (whole(polygon(points, (width, height)), (width, height)) == theirs).all()
        text = encoded["counts"].decode()
        assert (run_lengths(text, (width, height)).mask == theirs).all()


def test_whole_pixels():
    square = np.array([[2, 3], [5, 3], [5, 7], [2, 7]])
    wanted = np.zeros((12, 16), bool)
    wanted[3:7, 2:5] = True
    assert (whole(polygon(square, SIZE)) == wanted).all()
    assert (whole(polygon(square[::-1], SIZE)) == wanted).all()
    # what lies outside is cut off, and a polygon around the image covers it
    assert (
        whole(polygon(square - [3, 4], SIZE)).sum()
        == whole(polygon(np.array([[0, 0], [2, 0], [2, 3], [0, 3]]), SIZE)).sum()
        == 6
    )
    assert polygon(square + 100, SIZE).area == polygon(square - 100, SIZE).area == 0
    assert polygon(np.array([[-9, -9], [99, -9], [99, 99], [-9, 99]]), SIZE).area == 12 * 16


def test_a_bridge_to_an_inner_ring_makes_a_hole():
    ring = [[1, 1], [11, 1], [11, 11], [1, 11], [1, 1], [4, 4], [4, 8], [8, 8], [8, 4], [4, 4]]
    wanted = np.zeros((12, 16), bool)
    wanted[1:11, 1:11] = True
    wanted[4:8, 4:8] = False
    assert (whole(polygon(np.array(ring), SIZE)) == wanted).all()


def test_run_lengths_go_down_each_column():
    wanted = np.array([[0, 1, 0], [1, 1, 0]], bool)
    assert (run_lengths([1, 3, 2], (3, 2)).mask == wanted).all()
    assert run_lengths([0, 6], (3, 2)).area == 6 and run_lengths([6], (3, 2)).area == 0


@pytest.mark.parametrize("call, told", [
    (lambda: run_lengths([1, 3], (3, 2)), r"of an image of 2x3 \(height x width\) add up to 6, these to 4"),
    (lambda: run_lengths([7, -1], (3, 2)), "whole numbers from 0 on"),
    (lambda: run_lengths([3.0, 3.0], (3, 2)), "whole numbers from 0 on"),
    (lambda: run_lengths([], (3, 2)), "whole numbers from 0 on"),
    (lambda: run_lengths("", (3, 2)), "cut off or not COCO's"),
    (lambda: run_lengths("15 ", (3, 2)), "cut off or not COCO's"),
    (lambda: run_lengths("1é", (3, 2)), "cut off or not COCO's"),
    (lambda: run_lengths("1o", (3, 2)), "cut off or not COCO's"),
    (lambda: run_lengths("o" * 12 + "0", (3, 2)), "a number that no image has"),
    (lambda: polygon(np.zeros((2, 2)), SIZE), "at least three points"),
    (lambda: polygon(np.zeros(6), SIZE), "at least three points"),
    (lambda: polygon(np.array([[0, 0], [1, np.nan], [1, 1]]), SIZE), "at most 100000 pixels away"),
    (lambda: polygon(np.array([[0, 0], [1e12, 0], [1, 1]]), SIZE), "at most 100000 pixels away"),
    (lambda: polygon(np.array([[99_999, 0], [0, 99_999]] * 500), SIZE), "the way around a polygon has at most"),
])  # fmt: skip
def test_what_is_no_shape(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_smaller_shapes_lie_on_larger_ones_or_later_on_earlier():
    large, small = Region(0, 0, np.ones((2, 3), bool)), Region(0, 1, np.ones((1, 2), bool))
    shapes = [(1, small), (2, large)]
    drawn = {overlap: draw(stacked(shapes, overlap), (4, 2), 9) for overlap in ("area", "order")}
    assert np.asarray(drawn["area"]).tolist() == [[2, 1, 1, 9], [2, 2, 2, 9]] and drawn["area"].mode == "L"
    assert np.asarray(drawn["order"]).tolist() == [[2, 2, 2, 9], [2, 2, 2, 9]]
    equal = stacked([(1, small), (2, small), (3, NOTHING)], "area")
    assert np.asarray(draw(equal, (4, 1), 0)).tolist() == [[0, 2, 2, 0]]


def test_parts_make_one_shape():
    corner, dot = Region(0, 0, np.array([[1, 1], [1, 0]], bool)), Region(2, 3, np.ones((1, 1), bool))
    both = union([corner, NOTHING, dot])
    assert whole(both, (4, 3)).astype(int).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert union([]).area == union([NOTHING]).area == 0 and union([dot]) is dot


def test_a_circle_is_the_pixels_whose_middle_it_holds():
    assert circle(1.5, 1.5, 1, (4, 3)).mask.astype(int).tolist() == [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]
