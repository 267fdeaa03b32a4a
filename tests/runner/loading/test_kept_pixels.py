"""Kept pixels give every view as the files do, also after these have changed; what has no room is not kept."""

import itertools
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.runner.loading import kept_pixels, pixel_file
from segkd.runner.loading.data_sets import build_dataset, build_training_batches, build_training_sets, build_views
from segkd.runner.loading.data_sets import fixed_resize as resize_of
from segkd.runner.loading.kept_pixels import KeptPixels, fill_pixels, kept_sets, require_room
from segkd.runner.loading.pixel_file import KeptImage
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read

RECIPE = """\
name: kept
data:
  dataset: folder
  root: data
  args: {class_names: [a, b, c]}
  crop_size: [120, 160]
  batch_size: 2
  labelled: 1/2
  unlabelled: {strong: {}}
  workers: 0
networks:
  student: {model: pspnet}
losses: [{loss: cross_entropy}]
schedule: {iterations: 9}
"""
SIZES = [(300, 400), (90, 100), (260, 340), (400, 300)]  # below and above 65536 pixels, which are resized in other ways
TRANSFORMS = [
    "{}",
    "{flip: 1, flip_first: true, distort: true, jitter: 1, grey: 0.5, blur: 1}",
    "{scale: short_side, base_size: 200, resample: opencv, max_class_share: 0.5}",
    "{scale: long_side, scale_range: [1, 1]}",
    "{scale: fit, base_size: [300, 400], resample: opencv, scale_step: 0.25}",
    "{scale_range: [1, 1], flip: 0}",
    "{flip_vertical: 0.5, quarter_turns: true, rotation: 20, max_class_share: 0.6}",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images and labels in three splits."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, number in itertools.product(("train", "val", "others"), range(4)):
        height, width = SIZES[number]
        for kind, high, shape in (("images", 256, (3,)), ("labels", 3, ())):
            coarse = draw.integers(0, high, (height // 20, width // 20, *shape), dtype=np.uint8)
            resample = Image.Resampling.BICUBIC if kind == "images" else Image.Resampling.NEAREST
            path = folder / split / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((width, height), resample).save(path, compress_level=1)
    return folder


@pytest.fixture
def folder(images, tmp_path, monkeypatch):
    """kept.yaml and its images; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kept_pixels, "SETTLED", -60.0)  # files just written count as old
    monkeypatch.setattr(kept_pixels, "MEMORY", tmp_path / "memory")
    (tmp_path / "kept.yaml").write_text(RECIPE)
    shutil.copytree(images, tmp_path / "data")
    return tmp_path


def recipe(*assignments):
    return read("kept.yaml", assignments)


def batches(*assignments, count=4):
    """The first training batches, of both streams; both streams have two images, so that each batch is an epoch."""
    here = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    found = recipe(*assignments)
    views = build_views(found)
    return list(
        itertools.islice(build_training_batches(found, *build_training_sets(found), views, here, start=0), count)
    )


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        for name in ("images", "target", "strong", "mixed"):
            values = getattr(one, name)
            assert (values is None) == (getattr(other, name) is None)
            assert values is None or torch.equal(values, getattr(other, name)), name
        if one.unlabelled is not None:
            assert_equal([one.unlabelled], [other.unlabelled])


@pytest.mark.parametrize("words", [
    *([f"data.transform={transform}"] for transform in TRANSFORMS),
    ["data.resize=[150, 200]", "data.mix={probability: 1}"],
    ["data.unlabelled.images=data/others/images", "data.cache=ram"],
    ["networks.teacher={model: pspnet, train: false, weights: random, cache: {views: 3}}",
     "losses=[{loss: cross_entropy}, {loss: kl, on: both}]"],
])  # fmt: skip
def test_every_view_has_the_same_bits(folder, words):
    kept = batches("data.cache=disk", *words)
    assert_equal(kept, batches(*words))
    for one in kept_sets(*build_training_sets(recipe("data.cache=disk", *words))):
        assert len(one.missing()) <= 2  # of images in neither stream


@pytest.mark.parametrize("words", [[], ["evaluate.short_side=99"], ["evaluate.fit=[200, 200]"],
                                   ["evaluate.fit=[200, 200]", "evaluate.fit_corners=true"]])  # fmt: skip
def test_images_that_are_scored_have_the_same_bits(folder, words):
    def scored(*assignments):
        found = recipe(*words, *assignments)
        return list(evaluation_batches(build_dataset(found, "val"), resize=resize_of(found, scoring=True)))

    for _ in range(2):
        assert_equal(scored("data.cache=disk"), scored())


def is_kept(item):
    return all(isinstance(values, KeptImage) for values in item)


def test_changed_files_are_read_anew(folder):
    path, other = (folder / f"data/train/images/{number}.png" for number in (1, 2))
    draw = np.random.default_rng(1)
    old, new = draw.integers(0, 256, (2, 90, 100, 3), dtype=np.uint8)
    Image.fromarray(old).save(path, compress_level=0)
    before = path.stat()

    def image(dataset, index=1):
        return np.asarray(dataset[index][0])

    def listed():
        return build_dataset(recipe("data.cache=disk"), "train")

    first = listed()
    np.testing.assert_array_equal(image(first), old)
    assert is_kept(listed()[1])
    Image.fromarray(new).save(path, compress_level=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
    for _ in range(2):
        np.testing.assert_array_equal(image(listed()), new)
    # who has listed the old file goes on with what was kept of it
    np.testing.assert_array_equal(image(first), old)
    # and keeps nothing of what has changed since
    last = listed()
    os.utime(other)
    assert not is_kept(last[2]) and not is_kept(last[2]) and is_kept(last[1])


def test_other_classes_are_other_labels_of_the_same_images(folder):
    words = "data.cache=disk", "data.args={class_names: [a, b, c], classes: {b: b, '*': a}}"
    first, second = (build_dataset(recipe(*chosen), "train") for chosen in (words[:1], words))
    assert first.images.path == second.images.path and first.labels.path != second.labels.path
    for _ in range(2):
        ids, chosen = (np.asarray(dataset[0][1]) for dataset in (first, second))
        np.testing.assert_array_equal(chosen, np.where(ids == 1, 0, 1))


def test_files_that_are_younger_than_their_clock_can_tell_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr(kept_pixels, "SETTLED", 2.0)
    dataset = build_dataset(recipe("data.cache=disk"), "train")
    dataset[0]
    assert not is_kept(dataset[0]) and len(dataset.missing()) == 4


@pytest.mark.parametrize("dataset", ["synthetic", "folder"])
def test_everything_else_is_the_data_sets_own(folder, dataset):
    words = [] if dataset == "folder" else ["data={dataset: synthetic, args: {size: [32, 48]}, crop_size: [32, 32]}"]
    kept, plain = (build_dataset(recipe(*words, f"data.cache={cache}"), "val") for cache in ("disk", "null"))
    assert len(kept) == len(plain) and kept.name(1) == plain.name(1) and kept.stamp(1) == plain.stamp(1)
    assert kept.class_names == plain.class_names and hasattr(kept, "files") == hasattr(plain, "files")
    assert kept_sets(kept, None, plain, kept) == [kept]
    kept[1]
    for values, others in zip(kept[1], plain[1]):
        np.testing.assert_array_equal(np.asarray(values), np.asarray(others))


def test_pixels_are_made_before_and_what_is_damaged_anew(folder):
    found = recipe("data.cache=disk", "data.workers=1")
    for rank in range(2):
        fill_pixels(build_dataset(found, "train"), found, rank, 2)
    kept = build_dataset(found, "train")
    assert all(is_kept(kept[index]) for index in range(4)) and kept.missing_size() == 0
    assert kept.described().startswith("4 of 4 images, ") and kept.described().endswith("in runs/pixel_cache")
    content = bytearray(kept.images.path.read_bytes())
    content[kept.images.begin] ^= 1
    kept.images.path.write_bytes(content)
    fill_pixels(kept, found, 0, 1)
    np.testing.assert_array_equal(np.asarray(kept[0][0]), np.asarray(build_dataset(recipe(), "train")[0][0]))
    (folder / "data/train/images/3.png").write_bytes(b"no image at all")
    with pytest.raises(ValueError, match="3.png: cannot be decoded"):
        fill_pixels(build_dataset(found, "train"), found, 0, 1)


def test_room_is_looked_for_before_anything_is_kept(folder, monkeypatch):
    monkeypatch.setattr(kept_pixels.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    found = recipe("data.cache=disk")
    # four labels and images have 4 bytes for each of 337 400 pixels in total
    told = (
        "decoded pixels of 4 images still need about .*, and .* has 0.000931 free; make room, give another data.cache_"
    )
    with pytest.raises(ValueError, match=told):
        require_room(found, build_dataset(found, "val"))
    monkeypatch.setattr(kept_pixels, "_available_memory", lambda: 10)
    with pytest.raises(ValueError, match="and memory has 9.31e-09 free; take disk or do without \\(data.cache=null\\)"):
        found = recipe("data.cache=ram")
        require_room(found, build_dataset(found, "val"))
    require_room(found, None, build_dataset(recipe(), "val"))


@pytest.mark.parametrize("place, told", [("full", "No space left on device"), ("file", "File exists")])
def test_a_disk_that_takes_nothing_is_told_once_and_images_are_read_as_without(
    folder, monkeypatch, caplog, place, told
):
    def full(*_):
        raise OSError(28, "No space left on device")

    if place == "full":
        monkeypatch.setattr(pixel_file.os, "fdatasync", full)
    (folder / "file").write_text("no folder")
    dataset = build_dataset(recipe("data.cache=disk", f"data.cache_folder={place}"), "train")
    for index in (0, 1, 0):
        assert not is_kept(dataset[index])
    assert caplog.text.count(f"pixels are not kept from now on: {told}") == 1 and len(dataset.missing()) == 4
    with pytest.raises(OSError, match="pixels are not kept"):
        fill_pixels(dataset, recipe(), 0, 1)


def test_a_folder_is_of_the_disk(folder):
    with pytest.raises(RecipeError, match="data.cache_folder: .*cache: disk"):
        recipe("data.cache=ram", "data.cache_folder=here")
    assert isinstance(build_dataset(recipe("data.cache=disk", "data.cache_folder=here"), "val"), KeptPixels)
