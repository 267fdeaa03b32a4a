"""The images of a report: their order, their steps, and how much of them there is room for."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from segkd.datasets._palettes import bit_palette
from segkd.runner.run_folder.folder import tile_file
from segkd.runner.scoring import gallery
from segkd.runner.scoring.gallery import build_gallery, files_of_run, image_mious, spread
from segkd.runner.scoring.pictures import colored, save_tiles

TITLES = ("image", "label", "student", "error")


def labels(label):
    return colored(np.full((8, 12), label), bit_palette(8))


@pytest.fixture
def folders(tmp_path):
    """Three images at two iterations, at which the student alone has changed; `late` was drawn at the second only."""
    found = {}
    for name, steps in {"bad": (2, 4), "good": (2, 4), "late": (4,)}.items():
        for step in steps:
            tiles = {"image": Image.new("RGB", (12, 8), (200, 10, 10))}
            tiles |= {title: labels(1) for title in ("label", "error")} | {"student": labels(step)}
            save_tiles(tiles, tmp_path / str(step) / name)
            found.setdefault(name, {})[step] = tmp_path / str(step) / name
    return found


def pixels(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_the_worst_come_first_and_what_does_not_change_is_there_once(folders):
    mious = {"good": 0.9, "late": math.nan, "bad": 0.1}
    found = build_gallery(files_of_run(folders, TITLES, [2, 4]), mious, [2, 4], 2)
    assert [card.name for card in found.cards] == ["bad", "good", "late"] and not found.thumbnails
    tiles = found.cards[0].tiles
    assert list(tiles) == list(TITLES) and [len(tiles[title]) for title in TITLES] == [1, 1, 2, 1]
    assert [(tile.step, tile.is_shown, pixels(tile.address).max()) for tile in tiles["student"]] == [
        (2, True, 2), (4, False, 4),
    ]  # fmt: skip
    (only,) = found.cards[2].tiles["student"]
    assert only.is_shown and only.size == (12, 8)


def test_of_many_images_the_rest_are_thumbnails_within_the_limit(folders, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_CARDS", 1)
    files, mious = files_of_run(folders, TITLES, [2, 4]), {"bad": 0.1, "good": 0.9, "late": 0.5}
    found = build_gallery(files, mious, [2, 4], 4)
    assert [card.name for card in found.cards] == ["bad"]
    assert [name for name, _, _ in found.thumbnails] == ["late", "good"] and found.missing == 0
    assert pixels(found.thumbnails[0][2]).shape == (8, 4 * 12, 3)
    held = sum(len(tile.address) * 3 // 4 for tiles in found.cards[0].tiles.values() for tile in tiles)
    monkeypatch.setattr(gallery, "MOST_BYTES", held + len(found.thumbnails[0][2]))
    found = build_gallery(files, mious, [2, 4], 4)
    assert (len(found.cards), len(found.thumbnails), found.missing) == (1, 1, 1)


def test_a_tile_that_is_missing_is_left_out(folders):
    tile_file(folders["bad"][2], "student").unlink()
    tile_file(folders["bad"][4], "label").unlink()
    files = files_of_run(folders, TITLES, [2, 4])["bad"]
    assert list(files["student"]) == [4] and list(files["label"]) == [2]
    assert files_of_run(folders, ["teacher"], [2, 4]) == {}


@pytest.mark.parametrize("best", [10, 370, 1000])
def test_steps_are_spread_with_the_best_and_the_last(best):
    steps = spread(range(10, 1001, 10), best)
    assert len(steps) == gallery.MOST_STEPS and best in steps and steps[-1] == 1000
    assert max(np.diff(steps)) < 300 and spread([4, 2], best) == [2, 4]


def test_the_miou_of_an_image_is_over_its_own_classes():
    counts = np.array([[[5, 10, 5], [0, 0, 0]], [[2, 4, 2], [1, 1, 4]], [[0, 0, 0], [0, 0, 0]]])  # (3, 2, 3)
    assert image_mious(counts)[:2].tolist() == [5 / 10, (2 / 4 + 1 / 4) / 2] and np.isnan(image_mious(counts)[2])
