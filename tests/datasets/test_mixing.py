import numpy as np
import pytest

from segkd.datasets._mixing import Mix, MixDraw, class_paste, half_area_box
from segkd.datasets._strong import box_mask

ZERO = np.zeros((5, 7), np.uint8)


def labelled(seed: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).integers(0, 256, (*labels.shape, 3), dtype=np.uint8), labels


def some_labels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 3, 255], np.uint8), (5, 7))


@pytest.mark.parametrize("size, area, exponent, position, box", [
    ((40, 60), 0.25, 0.5, (0.0, 1.0), (0, 30, 20, 30)),
    ((40, 60), 0.5, 0.0, (0.7, 0.5), (0, 15, 40, 30)),  # full height, half the width
    ((40, 60), 0.5, 1.0, (1.0, 0.2), (20, 0, 20, 60)),
    ((3, 5), 1.0, 0.3, (0.4, 0.9), (0, 0, 3, 5)),
    # halves are rounded to even: height 2.5, top 1.5; height 1.5, top 0.5
    ((5, 7), 0.5, 1.0, (0.5, 0.0), (2, 0, 2, 7)),
    ((6, 7), 0.25, 1.0, (0.125, 0.0), (0, 0, 2, 7)),
])  # fmt: skip
def test_box_at_the_ends_of_its_range(size, area, exponent, position, box) -> None:
    assert half_area_box(size, area, exponent, position) == box


def test_every_box_lies_inside_and_has_its_area() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(rng.integers(30, 200, 2).tolist())
        area = rng.uniform(0.1, 1)
        box = half_area_box(size, area, rng.random(), (rng.random(), rng.random()))
        pixels = box_mask(size, box).sum()
        assert pixels == box[2] * box[3]  # nothing is cut off
        assert abs(pixels - area * size[0] * size[1]) <= 0.5 * (size[0] + size[1]) + 0.25


@pytest.mark.parametrize("classes", [(1, 3), [0, 2], {255}, (), (9,)])
def test_paste_is_its_loop(classes) -> None:
    base, donor = labelled(0, some_labels(1)), labelled(2, some_labels(3))
    kept = [array.copy() for array in (*base, *donor)]
    image, labels = class_paste(base, donor, classes)
    for y in range(5):
        for x in range(7):
            source = donor if donor[1][y, x] in classes else base
            assert labels[y, x] == source[1][y, x]
            np.testing.assert_array_equal(image[y, x], source[0][y, x])
    assert image.dtype == np.uint8 and labels.dtype == np.uint8
    for array, before in zip((*base, *donor), kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_a_rectangle_of_the_donor_by_hand() -> None:
    base, donor = labelled(0, np.full((4, 6), 1, np.uint8)), labelled(1, np.full((4, 6), 2, np.uint8))
    image, labels = Mix(kind="half_cutmix").apply(base, donor, MixDraw(box=(1, 2, 2, 3)))
    np.testing.assert_array_equal(
        labels, [[1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 2, 1], [1, 1, 2, 2, 2, 1], [1, 1, 1, 1, 1, 1]]
    )
    np.testing.assert_array_equal(image[1:3, 2:5], donor[0][1:3, 2:5])
    np.testing.assert_array_equal(image[labels == 1], base[0][labels == 1])
    assert (base[1] == 1).all() and image.dtype == labels.dtype == np.uint8


@pytest.mark.parametrize("present, half", [((3,), 1), ((3, 5), 1), ((3, 5, 7), 2), ((0, 3, 5, 7), 2), ((3, 255), 1)])
def test_half_of_the_donors_classes_rounded_up(present, half) -> None:
    labels = np.resize(np.array(present, np.uint8), (4, 6))
    base, donor = labelled(0, np.full((4, 6), 9, np.uint8)), labelled(1, labels)
    pasted_over_seeds = set()
    for seed in range(30):
        image, mixed = Mix(kind="class_paste").apply(base, donor, MixDraw(seed=seed))
        pasted = set(np.unique(mixed).tolist()) - {9}
        assert len(pasted) == half and pasted <= set(present) - {255}
        from_donor = np.isin(labels, list(pasted))
        np.testing.assert_array_equal(image, np.where(from_donor[..., None], donor[0], base[0]))
        np.testing.assert_array_equal(mixed, np.where(from_donor, labels, 9))
        pasted_over_seeds |= pasted
    assert pasted_over_seeds == set(present) - {255}, "which half is drawn"


def test_a_donor_of_class_0_or_of_padding_alone_gives_nothing() -> None:
    base, nothing, padding = (labelled(seed, labels) for seed, labels in enumerate((some_labels(1), ZERO, ZERO + 255)))
    for mixed in (class_paste(base, nothing, (0,)), Mix(kind="class_paste").apply(base, padding, MixDraw(seed=3))):
        np.testing.assert_array_equal(mixed[0], base[0])
        np.testing.assert_array_equal(mixed[1], base[1])


@pytest.mark.parametrize("kind", ["half_cutmix", "class_paste"])
def test_draws_are_repeatable_and_as_probable_as_asked(kind) -> None:
    mix = Mix(kind=kind, probability=0.3, area=0.25)
    draws = [mix.draw(np.random.default_rng(seed), (40, 60)) for seed in range(300)]
    assert draws == [mix.draw(np.random.default_rng(seed), (40, 60)) for seed in range(300)]
    some = [draw for draw in draws if draw is not None]
    assert 60 < len(some) < 120
    if kind == "half_cutmix":
        shares = [draw.box[2] * draw.box[3] / 2400 for draw in some]
        assert 0.23 < min(shares) and max(shares) < 0.27 and len({draw.box for draw in some}) > 50
    else:
        assert len({draw.seed for draw in some}) == len(some)


@pytest.mark.parametrize("probability", [0, 1])
def test_never_and_always(probability) -> None:
    draws = [Mix(probability=probability).draw(np.random.default_rng(seed), (8, 8)) for seed in range(20)]
    assert [draw is not None for draw in draws] == [bool(probability)] * 20
