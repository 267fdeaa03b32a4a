"""Street-like scenes drawn on the fly: no download, the same picture for the same (seed, split, index) everywhere.

Made so that a network has to look at shape, place and texture: road, pavement, walls and cars share their greys, some
trees stand before walls of their colour, poles are one or two pixels wide, and light, noise and blur change from
picture to picture.
"""

import math
from typing import Annotated

import numpy as np
from annotated_types import Interval
from PIL import Image, ImageDraw, ImageFilter

from ._files import IGNORE_INDEX, require_split
from ._palettes import Color
from ._photometric import check_rising

SPLITS = {"train": 512, "val": 128, "test": 128}
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, POLE = range(8)

# texture of each class: grey levels of the coarse and of the fine pattern; sky and cars are smooth, leaves are not
COARSE = (4.0, 9.0, 5.0, 10.0, 20.0, 3.0, 8.0, 4.0, 6.0)
FINE = (1.0, 5.0, 7.0, 3.0, 16.0, 2.0, 5.0, 3.0, 6.0)

Side = Annotated[int, Interval(ge=32, le=8192)]  # in pixels
Share = Annotated[float, Interval(ge=0, le=1)]


class Synthetic:
    """Procedural street scenes with 8 classes.

    Args:
        root: not used; every dataset takes it.
        split: train, val or test: other scenes of the same kind.
        size: (height, width) in pixels.
        length: number of scenes; None: 512 for train, 128 for val.
        near: between where cars, people and poles stand, 0 at the horizon and 1 before the camera: near ones are large.
        seed: another seed is another dataset.

    Items: (image, target): RGB image and mode L target with train ids 0..7, 255 on patches and some object borders.
    """

    num_classes = 8
    ignore_index = IGNORE_INDEX
    class_names = ("sky", "building", "road", "pavement", "tree", "car", "person", "pole")
    palette = (
        (70, 130, 180), (70, 70, 70), (128, 64, 128), (244, 35, 232),
        (107, 142, 35), (0, 0, 142), (220, 20, 60), (220, 220, 0),
    )  # fmt: skip

    def __init__(
        self,
        root: str = "",
        split: str = "train",
        *,
        size: tuple[Side, Side] = (96, 128),
        length: Annotated[int, Interval(ge=1, le=10**6)] | None = None,
        near: tuple[Share, Share] = (0.02, 0.75),
        seed: Annotated[int, Interval(ge=0, le=10**18)] = 0,
    ):
        self.split_number = list(SPLITS).index(require_split(split, SPLITS))
        self.split, self.size, self.seed = split, (int(size[0]), int(size[1])), seed
        self.length = SPLITS[split] if length is None else length
        check_rising("near", near)
        self.near = tuple(near)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        if not -self.length <= index < self.length:
            raise IndexError(f"index {index} of {self.length} scenes")
        scene = _Scene(np.random.default_rng((self.seed, self.split_number, index % self.length)), self.size, self.near)
        return scene.photograph(), scene.labels

    def name(self, index: int) -> str:
        """<split>_<number>, e.g. train_00007."""
        return f"{self.split}_{index % self.length:05d}"

    def stamp(self, index: int) -> tuple[str | int, ...]:
        """What tells a scene from others, of other data sets too: all that it is drawn from."""
        return self.name(index), self.seed, *self.size, *self.near


class _Scene:
    """One street, painted from far to near into a picture of colours and a picture of ids."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], near: tuple[float, float]):
        self.rng = rng
        self.height, self.width = size
        self.unit = self.height / 96
        self.horizon = self.height * rng.uniform(0.34, 0.52)
        self.colors = Image.new("RGB", (self.width, self.height), self._color((150, 170, 200), 45))
        self.labels = Image.new("L", (self.width, self.height), SKY)
        self.paint, self.mark = ImageDraw.Draw(self.colors), ImageDraw.Draw(self.labels)
        self._buildings()
        self._ground()
        for _ in range(rng.integers(1, 5)):
            self._tree()
        # far things first, so that near ones cover them
        things = [(rng.uniform(*near) ** 1.5, kind) for kind in rng.integers(0, 5, size=rng.integers(4, 10))]
        for near, kind in sorted(things):
            (self._car, self._car, self._person, self._person, self._pole)[kind](near)
        for _ in range(rng.integers(0, 3)):
            self._void_patch()

    def photograph(self) -> Image.Image:
        """Colours with texture, shadow, light, blur and sensor noise."""
        rng = self.rng
        pixels = np.asarray(self.colors, dtype=np.float32)
        ids = np.minimum(np.asarray(self.labels), len(COARSE) - 1)
        coarse = rng.standard_normal((self.height // 4 + 1, self.width // 4 + 1), dtype=np.float32)
        coarse = coarse.repeat(4, axis=0).repeat(4, axis=1)[: self.height, : self.width]
        fine = rng.standard_normal((self.height, self.width), dtype=np.float32)
        texture = np.take(np.float32(COARSE), ids) * coarse + np.take(np.float32(FINE), ids) * fine  # (H, W)
        across = np.linspace(-1, 1, self.width, dtype=np.float32)
        light = rng.uniform(0.6, 1.25) * (1 + rng.uniform(-0.25, 0.25) * across)
        # a slanting shadow over part of the street
        edge = rng.uniform(-1.5, 1.5) + rng.uniform(-1, 1) * np.linspace(-1, 1, self.height, dtype=np.float32)
        shade = np.where(across[None, :] > edge[:, None], np.float32(rng.uniform(0.5, 1.0)), np.float32(1))
        tint = np.float32(rng.uniform(0.88, 1.12, size=3))
        pixels = (pixels + texture[:, :, None]) * (light * shade)[:, :, None] * tint
        pixels += rng.uniform(2, 9) * rng.standard_normal(pixels.shape, dtype=np.float32)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        if rng.random() < 0.4:
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9)) * self.unit))
        return image

    def _color(self, base: Color, spread: int) -> Color:
        """`base` made lighter or darker by up to `spread`, each channel by up to a third of it on top."""
        shift = self.rng.integers(-spread, spread + 1) + self.rng.integers(-spread // 3, spread // 3 + 1, size=3)
        red, green, blue = (int(min(max(level + step, 0), 255)) for level, step in zip(base, shift))
        return red, green, blue

    def _row(self, near: float) -> float:
        """Where something stands on the ground: 0 at the horizon, 1 at the bottom of the picture."""
        return self.horizon + near * (self.height - self.horizon)

    def _buildings(self) -> None:
        rng, left = self.rng, -float(self.rng.uniform(0, 20)) * self.unit
        while left < self.width:
            right = left + float(rng.uniform(12, 42)) * self.unit
            top = self.horizon * float(rng.uniform(0.05, 0.95))
            if rng.random() < 0.85:
                wall = self._color(((130, 122, 112), (150, 95, 75), (95, 115, 90))[rng.integers(3)], 40)
                self.paint.rectangle((left, top, right, self.horizon + 2), fill=wall)
                self.mark.rectangle((left, top, right, self.horizon + 2), fill=BUILDING)
                self._windows(left, top, right)
            left = right + float(rng.uniform(-4, 4)) * self.unit

    def _windows(self, left: float, top: float, right: float) -> None:
        """Panes often have the colour of the sky."""
        pane = self._color(((60, 65, 75), (150, 170, 200))[self.rng.integers(2)], 30)
        across, down = float(self.rng.uniform(3.5, 7)) * self.unit, float(self.rng.uniform(4.5, 8)) * self.unit
        for row in np.arange(top + 0.3 * down, self.horizon - 0.6 * down, down).tolist():
            for column in np.arange(left + 0.3 * across, right - 0.6 * across, across).tolist():
                self.paint.rectangle((column, row, column + 0.45 * across, row + 0.5 * down), fill=pane)

    def _ground(self) -> None:
        rng, base, far = self.rng, float(self.height), self.horizon
        vanishing = self.width * float(rng.uniform(0.25, 0.75))
        grey = int(rng.integers(70, 130))
        box = (0, far, self.width, base)
        # pavement and road differ by a few grey levels only
        self.paint.rectangle(box, fill=self._color((grey + 15, grey + 12, grey + 8), 18))
        self.mark.rectangle(box, fill=PAVEMENT)
        left, right = self.width * float(rng.uniform(-0.5, 0.12)), self.width * float(rng.uniform(0.88, 1.5))
        spread = float(rng.uniform(2, 9)) * self.unit
        road = [(vanishing - spread, far), (vanishing + spread, far), (right, base), (left, base)]
        self.paint.polygon(road, fill=self._color((grey, grey, grey), 12))
        self.mark.polygon(road, fill=ROAD)
        middle = (left + right) / 2
        dash, paint = float(rng.uniform(0.06, 0.14)), self._color((205, 205, 195), 30)
        for start in np.arange(float(rng.uniform(0, dash)), 1, 2 * dash).tolist():
            ends = [(near, vanishing + near * (middle - vanishing)) for near in (start, min(start + dash, 1))]
            width = max(1, round(3 * start * self.unit))
            self.paint.line([(column, self._row(near)) for near, column in ends], fill=paint, width=width)

    def _tree(self) -> None:
        rng, near = self.rng, float(self.rng.uniform(0.0, 0.3))
        column, foot = float(rng.uniform(0, self.width)), self._row(near)
        radius = (5 + 22 * near) * self.unit * float(rng.uniform(0.8, 1.6))
        crown = foot - radius * float(rng.uniform(1.8, 2.6))
        half = max(0.12 * radius, 0.5)
        for draw, leaves, trunk in (
            (self.paint, self._color((85, 105, 70), 28), self._color((90, 75, 60), 20)),
            (self.mark, TREE, TREE),
        ):
            draw.rectangle((column - half, crown, column + half, foot), fill=trunk)
            draw.ellipse((column - radius, crown - radius, column + radius, crown + radius), fill=leaves)
        for angle in rng.uniform(0, 2 * math.pi, size=4).tolist():
            x, y, r = column + radius * math.cos(angle), crown + 0.7 * radius * math.sin(angle), 0.55 * radius
            self.paint.ellipse((x - r, y - r, x + r, y + r), fill=self._color((85, 105, 70), 28))
            self.mark.ellipse((x - r, y - r, x + r, y + r), fill=TREE)

    def _car(self, near: float) -> None:
        rng, length = self.rng, (7 + 48 * near) * self.unit * float(self.rng.uniform(0.8, 1.2))
        left, foot = float(rng.uniform(-0.3 * length, self.width - 0.6 * length)), self._row(0.08 + near)
        high, body = 0.38 * length, self._color(((110, 110, 115), (170, 60, 55), (60, 80, 120))[rng.integers(3)], 55)
        hull = (left, foot - 0.62 * high, left + length, foot - 0.12 * high)
        ups = ((0.15, 0.6), (0.3, 1), (0.7, 1), (0.9, 0.6))
        roof = [(left + share * length, foot - up * high) for share, up in ups]
        border = IGNORE_INDEX if rng.random() < 0.25 else CAR
        self.paint.polygon(roof, fill=self._color((70, 80, 95), 30), outline=body)
        self.mark.polygon(roof, fill=CAR, outline=border)
        self.paint.rectangle(hull, fill=body)
        self.mark.rectangle(hull, fill=CAR, outline=border)
        for share in (0.22, 0.78):
            x, r = left + share * length, 0.17 * high
            wheel = (x - r, foot - 2 * r, x + r, foot)
            self.paint.ellipse(wheel, fill=(28, 28, 30))
            self.mark.ellipse(wheel, fill=CAR)

    def _person(self, near: float) -> None:
        rng, tall = self.rng, (6 + 40 * near) * self.unit * float(self.rng.uniform(0.8, 1.2))
        column, foot = float(rng.uniform(0, self.width)), self._row(0.06 + near)
        coat, legs = self._color((105, 95, 95), 60), self._color((65, 65, 80), 35)
        wide, head = 0.13 * tall, 0.09 * tall
        parts = (
            (self.paint.rectangle, self.mark.rectangle, (-0.6 * wide, -0.48, 0.6 * wide, 0.0), legs),
            (self.paint.rectangle, self.mark.rectangle, (-wide, -0.83, wide, -0.44), coat),
            (self.paint.ellipse, self.mark.ellipse, (-head, -1.0, head, -0.82), self._color((175, 135, 115), 40)),
        )
        for paint, mark, (x0, up, x1, down), color in parts:
            box = (column + x0, foot + up * tall, column + x1, foot + down * tall)
            paint(box, fill=color)
            mark(box, fill=PERSON)

    def _pole(self, near: float) -> None:
        rng, foot = self.rng, self._row(0.03 + 0.7 * near)
        column, top = float(rng.uniform(0, self.width)), foot - (18 + 60 * near) * self.unit
        width, color = max(1, round((0.6 + 2.4 * near) * self.unit)), self._color((120, 120, 118), 40)
        self.paint.line((column, top, column, foot), fill=color, width=width)
        self.mark.line((column, top, column, foot), fill=POLE, width=width)
        if rng.random() < 0.6:
            side = (2 + 6 * near) * self.unit
            sign = (column - side, top, column + side, top + 1.6 * side)
            shield = ((190, 60, 50), (60, 90, 150), (150, 150, 140))[rng.integers(3)]
            self.paint.rectangle(sign, fill=self._color(shield, 30))
            self.mark.rectangle(sign, fill=POLE)

    def _void_patch(self) -> None:
        """Something nobody labelled: a box of any colour."""
        rng = self.rng
        left, top = float(rng.uniform(0, self.width)), float(rng.uniform(0, self.height))
        box = (left, top, left + float(rng.uniform(3, 16)) * self.unit, top + float(rng.uniform(3, 10)) * self.unit)
        self.paint.rectangle(box, fill=self._color((120, 110, 110), 70))
        self.mark.rectangle(box, fill=IGNORE_INDEX)
