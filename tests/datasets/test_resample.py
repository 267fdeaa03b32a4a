import numpy as np
import pytest
from PIL import Image

from segkd.datasets import _resample
from segkd.datasets._resample import (
    fitted_pair,
    fitted_pair_corners,
    resample_image,
    resample_label,
    resize_image,
    resize_pair,
    short_side_pair,
    short_side_size,
)


def random_pair(rng: np.random.Generator, height: int, width: int) -> tuple[Image.Image, Image.Image]:
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return image, Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8))


def random_window(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int, int, int]:
    height, width = (int(rng.integers(1, length + 1)) for length in size)
    return int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1)), height, width


def cut(values: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    top, left, height, width = window
    return values[top : top + height, left : left + width].astype(int)


def interpolate(pixels: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """The values at positions between pixels along one axis of (H, W, 3), those beyond the edges being the edges'."""
    low = np.floor(positions + 1e-9).astype(int)
    share = (positions - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    lower, upper = (np.take(pixels, np.clip(low + step, 0, pixels.shape[axis] - 1), axis) for step in (0, 1))
    return lower * (1 - share) + upper * share


@pytest.mark.parametrize("seed", range(30))
def test_pillow_equals_resize_then_crop(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(20, 60)), int(rng.integers(40, 90))
    image, target = random_pair(rng, height, width)
    factor = rng.uniform(0.4, 2.2)
    size = round(height * factor), round(width * factor)
    window = random_window(rng, size)
    naive = cut(np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)), window)
    np.testing.assert_array_equal(resample_image(image, size, window, "pillow"), naive)
    naive_label = cut(np.asarray(target.resize(size[::-1], Image.Resampling.NEAREST)), window)
    np.testing.assert_array_equal(resample_label(target, size, window, "pillow"), naive_label)
    # the way large images take: only the window is computed
    monkeypatch.setattr(_resample, "SMALL", 0)
    difference = np.abs(resample_image(image, size, window, "pillow") - naive)
    assert difference.max() <= 2 and (difference > 0).mean() < 0.3


def test_large_crop_is_within_one_grey_level_of_resize_then_crop() -> None:
    rng = np.random.default_rng(0)
    image, _ = random_pair(rng, 300, 421)
    for size in ((251, 352), (487, 683)):
        window = random_window(rng, size)
        naive = cut(np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)), window)
        difference = np.abs(resample_image(image, size, window, "pillow") - naive)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("factor", [0.5, 0.6, 0.7, 0.9, 1.0, 1.1, 1.5, 1.9, 2.0])
def test_opencv_equals_its_formula(factor: float) -> None:
    """Half-pixel centres stepped by exactly 1 / factor, clamped at the edges, no antialias; floor for labels."""
    rng = np.random.default_rng(int(factor * 10))
    height, width = 41, 45
    image, target = random_pair(rng, height, width)
    size = round(height * factor), round(width * factor)
    window = random_window(rng, size)
    pixels = np.asarray(image).astype(float)
    for axis, length in enumerate(size):
        pixels = interpolate(pixels, (np.arange(length) + 0.5) / factor - 0.5, axis)
    top, left, rows, columns = window
    computed = resample_image(image, size, window, "opencv", factor)
    assert np.abs(computed - pixels[top : top + rows, left : left + columns]).max() <= 1 + 1e-6
    row_index = np.minimum(np.floor(np.arange(size[0]) * (1 / factor)).astype(int), height - 1)
    column_index = np.minimum(np.floor(np.arange(size[1]) * (1 / factor)).astype(int), width - 1)
    naive_label = cut(np.asarray(target)[row_index][:, column_index], window)
    np.testing.assert_array_equal(resample_label(target, size, window, "opencv", factor), naive_label)


def test_shrinking_averages_with_pillow_only() -> None:
    stripes = np.zeros((8, 64, 3), dtype=np.uint8)
    stripes[:, ::4] = 255
    image = Image.fromarray(stripes)
    assert resample_image(image, (2, 16), (0, 0, 2, 16), "pillow").std() < 5
    assert set(np.unique(resample_image(image, (2, 16), (0, 0, 2, 16), "opencv"))) == {0}


def test_resize_pair_has_the_size_asked_for() -> None:
    image, target = random_pair(np.random.default_rng(0), 30, 44)
    for resample in ("pillow", "opencv"):
        pixels, labels = resize_pair(image, target, (17, 61), resample)
        assert pixels.shape == (17, 61, 3) and labels.shape == (17, 61)
        assert pixels.dtype == labels.dtype == np.uint8


def test_short_side_keeps_the_aspect_and_rounds_down() -> None:
    assert short_side_size((40, 56), 33) == (33, 46)
    assert short_side_size((61, 24), 33) == (83, 33)
    assert short_side_size((30, 30), 33) == (33, 33)
    assert short_side_pair(*random_pair(np.random.default_rng(0), 61, 24), 33)[0].shape == (83, 33, 3)


def test_a_fitted_image_keeps_its_aspect_and_its_label() -> None:
    image, target = random_pair(np.random.default_rng(0), 60, 45)
    pixels, labels = fitted_pair(image, target, (32, 64))
    assert pixels.shape == (43, 32, 3)  # upright: the long side lies along the long one
    np.testing.assert_array_equal(labels, np.asarray(target))
    np.testing.assert_array_equal(pixels, resize_image(image, (43, 32), "opencv"))


@pytest.mark.parametrize("height, width, fitted", [(24, 48, (30, 60)), (73, 120, (36, 60)), (60, 33, (60, 33))])
def test_corners_stay_where_they_are_and_nothing_is_rounded(height: int, width: int, fitted: tuple[int, int]) -> None:
    """Pixel i of n lies at i (m - 1) / (n - 1) of m; a side that ends in a half is rounded to even, 36.5 to 36."""
    image, target = random_pair(np.random.default_rng(0), height, width)
    computed, labels = fitted_pair_corners(image, target, (60, 60))
    assert computed.dtype == np.float32 and computed.shape == (*fitted, 3)
    np.testing.assert_array_equal(labels, np.asarray(target))
    pixels = np.asarray(image).astype(float)
    for axis, (length, source) in enumerate(zip(fitted, (height, width))):
        pixels = interpolate(pixels, np.arange(length) * (source - 1) / (length - 1), axis)
    np.testing.assert_allclose(computed, pixels, atol=5e-3)
