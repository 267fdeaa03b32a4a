import colorsys

import numpy as np
import pytest
from PIL import Image

from segkd.datasets._photometric import Distortion, Recolor, distort, draw_distortion, recolor

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def test_brightness_and_contrast_clip_and_keep_their_order() -> None:
    values = PIXELS.astype(float)
    brighter = np.clip(values + 20, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(distort(PIXELS, Distortion(brightness=20)), brighter)
    for first in (True, False):
        both = Distortion(brightness=20, contrast=1.4, contrast_first=first)
        wanted = np.clip(brighter * 1.4, 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(distort(PIXELS, both), wanted)


def test_hue_and_saturation_turn_the_colour_circle() -> None:
    drawn = Distortion(saturation=0.6, hue=15)
    computed = distort(PIXELS, drawn).astype(float)
    wanted = np.empty_like(computed)
    for place in np.ndindex(PIXELS.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(PIXELS[place] / 255))
        wanted[place] = np.array(colorsys.hsv_to_rgb((hue + 15 / 180) % 1, saturation * 0.6, value)) * 255
    # hue and saturation are rounded down to 255 steps on the way
    assert np.abs(computed - wanted).max() <= 8 and np.abs(computed - wanted).mean() < 1.5


def test_nothing_drawn_changes_nothing() -> None:
    np.testing.assert_array_equal(distort(PIXELS, Distortion()), PIXELS)
    np.testing.assert_array_equal(recolor(PIXELS, Recolor()), PIXELS)


def test_half_of_the_distortions_use_each_part() -> None:
    draws = [draw_distortion(np.random.default_rng(seed)) for seed in range(400)]
    for name in ("brightness", "contrast", "saturation", "hue"):
        values = [getattr(draw, name) for draw in draws]
        assert 150 < sum(value is not None for value in values) < 250
    hues = {draw.hue for draw in draws} - {None}
    assert min(hues) == -18 and max(hues) == 17


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_jitter_equals_torchvision(order: tuple[int, ...]) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    amounts = (1.3, 0.7, 1.4, -0.2)
    steps = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    image = Image.fromarray(PIXELS)
    for step in order:
        image = steps[step](image, amounts[step])
    np.testing.assert_array_equal(recolor(PIXELS, Recolor(jitter=amounts, order=order)), np.asarray(image))


def test_grey_has_equal_channels_and_blur_smooths() -> None:
    grey = recolor(PIXELS, Recolor(grey=True))
    assert (grey[:, :, 0] == grey[:, :, 1]).all() and (grey[:, :, 1] == grey[:, :, 2]).all()
    assert recolor(PIXELS, Recolor(blur=2.0)).std() < 0.5 * PIXELS.std()
