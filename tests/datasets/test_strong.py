import numpy as np
import pytest

from segkd.datasets._strong import StrongView, box_mask, cutmix_box, partners

WEAK = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_box_has_the_area_and_ratio_asked_for() -> None:
    assert cutmix_box((100, 100), 0.16, 1.0, 10, 20) == (10, 20, 40, 40)
    assert cutmix_box((100, 200), 0.09, 0.5, 0, 0) == (0, 0, 30, 60)
    assert cutmix_box((100, 100), 0.16, 1.0, 61, 20) is None
    assert cutmix_box((100, 100), 0.16, 1.0, 60, 60) == (60, 60, 40, 40)


def test_mask_covers_the_box_only() -> None:
    mask = box_mask((6, 8), (1, 2, 3, 4))
    assert mask.sum() == 12 and mask[1:4, 2:6].all()
    assert not box_mask((6, 8), None).any()


def test_half_of_the_views_have_a_box_of_allowed_area() -> None:
    strong = StrongView()
    boxes = [strong.draw(np.random.default_rng(seed), (64, 96))[1] for seed in range(300)]
    drawn = [box for box in boxes if box is not None]
    assert 110 < len(drawn) < 190
    shares = [height * width / (64 * 96) for _, _, height, width in drawn]
    assert 0.01 < min(shares) and max(shares) <= 0.4


def test_view_is_its_draw_and_leaves_the_weak_one_alone() -> None:
    weak = WEAK.copy()
    strong = StrongView(jitter=1.0, cutmix=1.0)
    for seed in range(20):
        (pixels, mask), (again, _) = (strong(weak, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(pixels, again)
        top, left, height, width = strong.draw(np.random.default_rng(seed), weak.shape[:2])[1]
        assert mask.dtype == bool and mask.sum() == height * width
        assert mask[top : top + height, left : left + width].all() and (pixels != weak).any()
    np.testing.assert_array_equal(weak, WEAK)


@pytest.mark.parametrize("options", [
    {"cutmix_area": (0.4, 0.1)}, {"cutmix_ratio": (2, 1)}, {"cutmix_ratio": (3.0, 4.0)}, {"cutmix_ratio": (0.1, 0.2)},
])  # fmt: skip
def test_options_that_no_box_can_meet_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="|".join(options)):
        StrongView(**options)


@pytest.mark.parametrize(
    "count, wanted", [(0, []), (1, [0]), (2, [1, 0]), (3, [1, 0, 2]), (8, [1, 0, 3, 2, 5, 4, 7, 6])]
)
def test_partners_are_neighbours(count: int, wanted: list[int]) -> None:
    assert partners(count) == wanted
    for share in (2, 4) if count % 4 == 0 else ():  # even shares pair up as the whole batch does
        assert [first + other for first in range(0, count, share) for other in partners(share)] == wanted


def test_nothing_asked_for_changes_nothing() -> None:
    plain = StrongView(jitter=0.0, grey=0.0, blur=0.0, cutmix=0.0)
    for seed in range(5):
        strong, box = plain(WEAK, np.random.default_rng(seed))
        np.testing.assert_array_equal(strong, WEAK)
        assert box.shape == (24, 32) and not box.any()


def first_that_fits(strong: StrongView, rng: np.random.Generator, size: tuple[int, int]) -> tuple | None:
    """UniMatch's draw of a box, which goes on until one fits."""
    strong.recolor.draw(rng)
    if rng.random() >= strong.cutmix:
        return None
    area = rng.uniform(*strong.cutmix_area)
    while True:
        ratio = rng.uniform(*strong.cutmix_ratio)
        box = cutmix_box(size, area, ratio, int(rng.integers(size[0])), int(rng.integers(size[1])))
        if box is not None:
            return box


@pytest.mark.parametrize("size", [(64, 96), (321, 321), (512, 1024), (1024, 2048), (64, 192), (1, 1), (7, 5)])
def test_draws_are_those_of_a_bare_loop_wherever_that_ends(size) -> None:
    strong = StrongView(cutmix=1.0)
    for seed in range(60):
        wanted = first_that_fits(strong, np.random.default_rng(seed), size)
        assert strong.draw(np.random.default_rng(seed), size)[1] == wanted


@pytest.mark.parametrize("size, largest", [((32, 512), (32, 106)), ((512, 32), (106, 32)), ((2, 4096), (2, 6))])
def test_on_long_crops_the_largest_box_that_fits_is_taken(size, largest) -> None:
    strong = StrongView(cutmix=1.0, cutmix_area=(0.39, 0.4))  # 32 x 106 is 0.21 of 32 x 512
    boxes = [strong.draw(np.random.default_rng(seed), size)[1] for seed in range(50)]
    assert {(height, width) for _, _, height, width in boxes} == {largest}
    assert all(top + height <= size[0] and left + width <= size[1] for top, left, height, width in boxes)
    assert len({(top, left) for top, left, _, _ in boxes}) > 30, "anywhere in the crop"
    assert box_mask(size, boxes[0]).sum() == largest[0] * largest[1]
