"""Changes of colour and sharpness: what is drawn, how it is drawn, and its application to uint8 RGB pixels."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval
from PIL import Image, ImageEnhance, ImageFilter

Probability = Annotated[float, Interval(ge=0, le=1)]
Positive = Annotated[float, Interval(ge=0.01, le=16)]
NonNegative = Annotated[float, Interval(ge=0, le=100)]
Hue = Annotated[float, Interval(ge=0, le=0.5)]


@dataclass(frozen=True)
class Distortion:
    """mmseg's photometric distortion; None leaves a part out.

    Attributes:
        brightness: grey levels added. contrast, saturation: factors. hue: degrees of a circle of 180.
        contrast_first: contrast directly after brightness, else at the very end.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_first: bool = False


@dataclass(frozen=True)
class Recolor:
    """Colour jitter, then grey, then blur.

    Attributes:
        jitter: brightness, contrast and saturation factors and hue shift (in turns of the circle); None: no jitter.
        order: the order of the four, 0 brightness, 1 contrast, 2 saturation, 3 hue.
        grey: drop the colour. blur: radius of the Gaussian in pixels, None: no blur.
    """

    jitter: tuple[float, float, float, float] | None = None
    order: tuple[int, ...] = (0, 1, 2, 3)
    grey: bool = False
    blur: float | None = None


@dataclass(frozen=True)
class RecolorRanges:
    """Probabilities and ranges from which `draw` makes a `Recolor`.

    Attributes:
        jitter, grey, blur: probabilities.
        strength: brightness, contrast, saturation: factors from [1 - strength, 1 + strength]; hue: turns from
            [-strength, strength], at most 0.5.
        radius: range of the blur radius in pixels.
    """

    jitter: float
    strength: tuple[float, float, float, float]
    grey: float
    blur: float
    radius: tuple[float, float]

    def __post_init__(self) -> None:
        check_rising("blur_radius", self.radius)

    def draw(self, rng: np.random.Generator) -> Recolor:
        """One draw; every number is drawn whether it is used or not, so that options do not shift later draws."""
        gates = rng.random(3)
        low = [max(0.0, 1 - strength) for strength in self.strength[:3]] + [-self.strength[3]]
        high = [1 + strength for strength in self.strength[:3]] + [self.strength[3]]
        factors = rng.uniform(low, high)
        order = rng.permutation(4)
        radius = rng.uniform(*self.radius)
        return Recolor(
            jitter=(factors[0], factors[1], factors[2], factors[3]) if gates[0] < self.jitter else None,
            order=tuple(int(step) for step in order),
            grey=bool(gates[1] < self.grey),
            blur=float(radius) if gates[2] < self.blur else None,
        )


def check_rising(name: str, low_high: tuple[float, float]) -> None:
    """ValueError that names the argument unless low <= high."""
    if low_high[0] > low_high[1]:
        raise ValueError(f"{name}: low and high with low <= high, got {low_high}")


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """mmseg's ranges, each part with probability 1/2: brightness +-32, contrast, saturation 0.5..1.5, hue -18..17."""
    use = rng.random(4) < 0.5
    contrast_first = bool(rng.random() < 0.5)
    brightness, contrast, saturation = rng.uniform((-32, 0.5, 0.5), (32, 1.5, 1.5)).tolist()
    hue = int(rng.integers(-18, 18))
    return Distortion(
        brightness if use[0] else None,
        contrast if use[1] else None,
        saturation if use[2] else None,
        hue if use[3] else None,
        contrast_first,
    )


def distort(pixels: np.ndarray, distortion: Distortion) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W, 3) uint8, clipped to 0..255 after each part as in mmseg.

    Saturation and hue share one round trip through Pillow's HSV (hue in 255 steps; OpenCV's has 180 and mmseg makes
    two trips), so results differ from mmseg's by a few grey levels.
    """
    levels = np.arange(256, dtype=np.float64)
    if distortion.brightness is not None:
        levels = np.clip(levels + distortion.brightness, 0, 255).astype(np.uint8)
    contrast = np.arange(256, dtype=np.float64)
    if distortion.contrast is not None:
        contrast = np.clip(contrast * distortion.contrast, 0, 255).astype(np.uint8)
        if distortion.contrast_first:
            levels = contrast[levels.astype(np.uint8)]
    image = Image.fromarray(pixels).point(levels.astype(np.uint8).tolist() * 3)
    if distortion.saturation is not None or distortion.hue is not None:
        shift = round((distortion.hue or 0) * 255 / 180)
        factor = 1.0 if distortion.saturation is None else distortion.saturation
        hues = [(level + shift) % 255 for level in range(256)]
        saturations = [min(int(level * factor), 255) for level in range(256)]
        image = image.convert("HSV").point(hues + saturations + list(range(256))).convert("RGB")
    if distortion.contrast is not None and not distortion.contrast_first:
        image = image.point(contrast.tolist() * 3)
    return np.array(image)


def recolor(pixels: np.ndarray, drawn: Recolor) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W, 3) uint8; the jitter's four steps are torchvision's, grey level for grey level."""
    if drawn.jitter is None and not drawn.grey and drawn.blur is None:
        return pixels
    image = Image.fromarray(pixels)
    if drawn.jitter is not None:
        for step in drawn.order:
            image = _jitter_step(image, step, drawn.jitter[step])
    if drawn.grey:
        image = image.convert("L").convert("RGB")
    if drawn.blur is not None:
        image = image.filter(ImageFilter.GaussianBlur(drawn.blur))
    return np.array(image)


def _jitter_step(image: Image.Image, step: int, amount: float) -> Image.Image:
    if step == 3:
        # truncated towards zero, then wrapped: 255 and 0 are both red
        shift = int(amount * 255)
        hues = [(level + shift) % 256 for level in range(256)]
        return image.convert("HSV").point(hues + 2 * list(range(256))).convert("RGB")
    enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
    return enhancer(image).enhance(amount)
