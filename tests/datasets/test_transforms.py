from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segkd.datasets._photometric import Distortion, Recolor
from segkd.datasets._transforms import Draw, Transform, factor_size, fit_size, side_size


def pair(height: int, width: int, seed: int = 0) -> tuple[Image.Image, Image.Image]:
    """Image and target hold the same numbers, so that they must move together."""
    ids = np.random.default_rng(seed).integers(0, 200, (height, width), dtype=np.uint8)
    return Image.fromarray(np.repeat(ids[:, :, None], 3, axis=2)), Image.fromarray(ids)


def test_image_and_target_move_together() -> None:
    image, target = pair(20, 30)
    transform = Transform((12, 16), scale_range=(1, 1), flip=0.5)
    for seed in range(20):
        pixels, labels = transform(image, target, np.random.default_rng(seed))
        np.testing.assert_array_equal(pixels[:, :, 0], labels)


def test_same_generator_same_view_and_other_seed_another() -> None:
    image, target = pair(40, 60)
    transform = Transform((24, 32), distort=True, jitter=0.5, grey=0.5, blur=0.5)
    first, again, other = (transform(image, target, np.random.default_rng((7, 0, seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_padding_lies_at_the_bottom_and_right_and_is_mirrored_unless_the_flip_comes_first() -> None:
    image, target = pair(6, 8)
    for first, kept in ((False, slice(4, 12)), (True, slice(0, 8))):
        transform = Transform((10, 12), flip_first=first, pad_image=(1, 2, 3), pad_label=254)
        pixels, labels = transform.apply(image, target, Draw((6, 8), flip=True))
        np.testing.assert_array_equal(labels[:6, kept], np.asarray(target)[:, ::-1])
        outside = np.ones((10, 12), dtype=bool)
        outside[:6, kept] = False
        assert (labels[outside] == 254).all() and (pixels[outside] == (1, 2, 3)).all()


def test_turns_are_exact_and_reach_all_eight_orientations() -> None:
    image, target = pair(10, 14)
    ids = np.asarray(target)
    every = [np.rot90(one, quarters) for one in (ids, ids[:, ::-1]) for quarters in range(4)]
    transform = Transform(None, scale_range=(1, 1), flip=0, flip_vertical=0.5, quarter_turns=True)
    found = set()
    for seed in range(60):
        pixels, labels = transform(image, target, np.random.default_rng(seed))
        np.testing.assert_array_equal(pixels[:, :, 0], labels)
        found |= {number for number, one in enumerate(every) if np.array_equal(one, labels)}
    assert found == set(range(8))


def test_turns_do_not_shift_the_other_draws() -> None:
    plain, turning = Transform((8, 8), jitter=1.0), Transform((8, 8), jitter=1.0, flip_vertical=0.5, rotation=30)
    for seed in range(5):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        first, second = (transform.draw(rng, (20, 30)) for transform, rng in zip((plain, turning), rngs))
        assert second.angle and first == replace(second, upside_down=False, angle=0.0)
        assert rngs[0].random() == rngs[1].random()  # nor those of a strong view, which come after
    quarters = Transform((8, 8), scale="short_side", base_size=10, quarter_turns=True)
    draws = [quarters.draw(np.random.default_rng(seed), (20, 40)) for seed in range(30)]
    assert {draw.quarters for draw in draws} == {0, 1, 2, 3}
    assert all((draw.size[0] < draw.size[1]) == (draw.quarters % 2 == 0) for draw in draws)


@pytest.mark.parametrize("corner", [(0, 0), (30, 50), (60, 80)])
@pytest.mark.parametrize("angle", [20.0, -7.5])
def test_a_rotated_crop_shows_the_rotated_image_and_padding_beyond_it(corner: tuple[int, int], angle: float) -> None:
    height, width, crop = 100, 120, (40, 40)
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = Image.fromarray(np.stack([rows, columns, np.zeros_like(rows)], axis=2))
    target = Image.fromarray(rows // 50 * 2 + columns // 60)  # four quarters
    transform = Transform(crop, pad_image=(9, 9, 200), pad_label=255)
    pixels, labels = transform.apply(image, target, Draw((height, width), corner, angle=angle))
    # where each pixel's middle comes from: back by the angle, about the middle of the crop
    y, x = np.mgrid[: crop[0], : crop[1]] + 0.5 - 20
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    row, column = corner[0] + 20 + x * sin + y * cos - 0.5, corner[1] + 20 + x * cos - y * sin - 0.5
    inside = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    outside = (row < -1) | (row > height) | (column < -1) | (column > width)
    assert inside.mean() > 0.7 and outside.any() == (corner != (30, 50))
    assert np.abs(pixels[..., 0] - row)[inside].max() <= 1 and np.abs(pixels[..., 1] - column)[inside].max() <= 1
    assert (pixels[outside] == (9, 9, 200)).all() and (labels[outside] == 255).all()
    sure = inside & (np.abs(row - 49.5) > 1) & (np.abs(column - 59.5) > 1)
    np.testing.assert_array_equal(labels[sure], ((row > 49.5) * 2 + (column > 59.5))[sure])
    mirrored = transform.apply(image, target, Draw((height, width), corner, flip=True, angle=angle))
    for one, other in zip(mirrored, (pixels, labels)):
        np.testing.assert_array_equal(one, other[:, ::-1])


def test_small_images_are_rotated_with_their_padding() -> None:
    image, target = pair(6, 8)
    pixels, labels = Transform((30, 20)).apply(image, target, Draw((6, 8), angle=45.0))
    assert pixels.shape == (30, 20, 3) and labels.shape == (30, 20)
    padded = Image.new("L", (20, 30), 255)
    padded.paste(target)
    np.testing.assert_array_equal(labels, np.asarray(padded.rotate(45, fillcolor=255)))
    assert Transform(None, rotation=45)(image, target, np.random.default_rng(0))[0].ndim == 3


def test_output_is_writable_and_contiguous() -> None:
    image, target = pair(20, 30)
    for crop_size in ((12, 16), None):
        for array in Transform(crop_size, flip=1.0)(image, target, np.random.default_rng(0)):
            assert array.flags.writeable and array.flags.c_contiguous and array.dtype == np.uint8


def test_crops_reach_every_corner_and_stay_inside() -> None:
    transform = Transform((4, 5), scale_range=(1, 1))
    corners = {transform.draw(np.random.default_rng(seed), (6, 8)).corner for seed in range(300)}
    assert corners == {(top, left) for top in range(3) for left in range(4)}


def test_scale_step_takes_the_sixteen_values_of_cirkd() -> None:
    transform = Transform((4, 4), scale_step=0.1)
    factors = {transform.draw(np.random.default_rng(seed), (10, 10)).factor for seed in range(500)}
    assert factors == {0.5 + step / 10 for step in range(16)}


@pytest.mark.parametrize("scale,base_size,low,high", [("short_side", 20, 10, 40), ("long_side", None, 30, 120)])
def test_integer_sides_cover_their_range(scale: str, base_size: int | None, low: int, high: int) -> None:
    transform = Transform((4, 4), scale=scale, base_size=base_size)
    sizes = [transform.draw(np.random.default_rng(seed), (30, 60)).size for seed in range(3000)]
    sides = [min(size) if scale == "short_side" else max(size) for size in sizes]
    assert (min(sides), max(sides)) == (low, high)


def test_sizes_round_as_the_original_codes_do() -> None:
    assert factor_size((45, 15), 1.5) == (68, 22)  # 67.5 and 22.5: halves to even
    assert side_size((36, 52), 61, "long_side") == (42, 61)
    assert side_size((44, 28), 36, "long_side") == (36, 23)
    # mmseg: 512 * 0.7 = 358 bounds the short side, 2048 * 0.7 = 1433 the long one
    assert fit_size((375, 500), (512, 2048), 0.7) == (358, 477)
    assert fit_size((500, 375), (512, 2048), 0.7) == (477, 358)
    assert fit_size((1024, 2048), (1024, 2048), 0.5) == (512, 1024)


@pytest.mark.parametrize("flip_first", [False, True])
def test_max_class_share_redraws_until_the_crop_is_mixed(flip_first: bool) -> None:
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[:, 12:] = 1
    target = Image.fromarray(labels)
    image = Image.new("RGB", (40, 40))
    plain = Transform((8, 8), scale_range=(1, 1), flip_first=flip_first)
    picky = Transform((8, 8), scale_range=(1, 1), flip_first=flip_first, max_class_share=0.9)

    def single(transform: Transform) -> int:
        views = [transform(image, target, np.random.default_rng(seed))[1] for seed in range(100)]
        return sum(len(np.unique(view)) == 1 for view in views)

    assert single(plain) > 50 and single(picky) < 20
    ignored = Image.new("L", (40, 40), 255)
    assert (picky(image, ignored, np.random.default_rng(0))[1] == 255).all()


def test_options_do_not_shift_the_geometry() -> None:
    plain, colourful = Transform((8, 8)), Transform((8, 8), jitter=1.0, grey=1.0, blur=1.0)
    first, second = (transform.draw(np.random.default_rng(3), (20, 30)) for transform in (plain, colourful))
    assert replace(first, recolor=Recolor()) == replace(second, recolor=Recolor())


def test_distortion_leaves_padding_alone() -> None:
    image, target = pair(6, 8)
    draw = Draw((6, 8), distortion=Distortion(brightness=30, contrast=1.5, saturation=0.5, hue=10))
    pixels, labels = Transform((8, 8)).apply(image, target, draw)
    assert (pixels[6:] == (124, 116, 104)).all() and (labels[6:] == 255).all()  # the default padding does not count
    assert (pixels[:6] != np.asarray(image)).any()


@pytest.mark.parametrize("options, word", [
    ({"scale_range": (2.0, 0.5)}, "scale_range"), ({"blur_radius": (2.0, 1.0)}, "blur_radius"),
    ({"scale": "fit"}, "base_size"), ({"scale": "factor", "base_size": 513}, "base_size"),
    ({"scale": "short_side", "base_size": (3, 4)}, "base_size"),
    ({"scale": "long_side", "scale_step": 0.1}, "scale_step"),
])  # fmt: skip
def test_options_that_do_not_go_together_are_named(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Transform((8, 8), **options)
