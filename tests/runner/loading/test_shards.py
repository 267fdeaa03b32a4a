"""Images in tar files: their order against WebDataset's own reading and a bare loop, over processes and resumes."""

import io
import itertools
import json
import logging
import os
import shutil
import tarfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset import TarWriter, WebDataset

from segkd.runner.loading import shards as shards_file
from segkd.runner.loading.data_sets import build_training_batches, build_training_sets, build_views
from segkd.runner.loading.shards import Shards, shard_paths
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read

COUNTS = 5, 1, 8, 3
LONG = "a-name-that-takes-headers-of-its-own/" * 9

RECIPE = """
name: many
data:
  dataset: synthetic
  args: {size: [32, 40], length: 3}
  crop_size: [8, 8]
  batch_size: 2
  unlabelled: {shards: "shards/{00..03}.tar", shuffle: 6, batch_size: 4, strong: {}}
  workers: 0
networks: {student: {model: pspnet}}
losses: [{loss: cross_entropy}]
schedule: {iterations: 9}
"""


def png(level):
    content = io.BytesIO()
    Image.new("RGB", (6, 4), (level, level // 2, 7)).save(content, "PNG")
    return content.getvalue()


def write_shard(path, levels, name="{:04d}"):
    """A tar file of samples as WebDataset's own writer makes it: an image, its label and a table each."""
    with TarWriter(str(path)) as shard:
        for level in levels:
            key = name.format(level)
            shard.write({"__key__": key, "png": png(level), "seg.png": png(0), "json": {"level": level}})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """many.yaml, and its four shards of 17 images, whose grey levels are 0 to 16; the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "many.yaml").write_text(RECIPE)
    (tmp_path / "shards").mkdir()
    ends = [0, *itertools.accumulate(COUNTS)]
    for number, (begin, end) in enumerate(itertools.pairwise(ends)):
        write_shard(tmp_path / f"shards/{number:02d}.tar", range(begin, end), LONG + "{:04d}" if number == 2 else "{}")
    return tmp_path


def of(pattern="shards/*.tar", shuffle=6, **options):
    return Shards(pattern, Path("notes"), shuffle, **options)


def levels(dataset, samples):
    return [dataset[index][0].getpixel((0, 0))[0] for _, index in samples]


def batches(count, *assignments, start=0, rank=0, world=1):
    recipe = read("many.yaml", assignments)
    here = SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))
    sets = build_training_sets(recipe)
    found = build_training_batches(recipe, *sets, build_views(recipe), here, start=start)
    return [batch.unlabelled for batch in itertools.islice(found, count)]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.indices == other.indices
        assert torch.equal(one.images, other.images) and torch.equal(one.strong, other.strong)


def test_images_are_those_that_webdataset_reads(folder):
    dataset = of(shuffle=1)
    theirs = WebDataset(dataset.paths, shardshuffle=False).decode("pil")
    wanted = {sample["__key__"]: np.asarray(sample["png"].convert("RGB")) for sample in theirs}
    samples = dataset.samples(range(17), 0)
    found = {dataset.name(index).split(", ")[1].removesuffix(".png"): dataset[index] for _, index in samples}
    assert found.keys() == wanted.keys() and len(found) == 17
    for key, (image, target) in found.items():
        assert image.mode == "RGB" and (np.asarray(image) == wanted[key]).all()
        assert target.mode == "L" and target.size == image.size and not np.asarray(target).any()


@pytest.mark.parametrize("shuffle", [1, 4, 6, 100])
def test_an_epoch_is_shards_in_turn_whose_neighbours_are_shuffled(folder, shuffle):
    dataset, ends = of(shuffle=shuffle), [0, *itertools.accumulate(COUNTS)]
    seen = levels(dataset, dataset.samples(range(3 * 17), 5))
    assert [epoch for epoch, _ in dataset.samples(range(3 * 17), 5)] == [0] * 17 + [1] * 17 + [2] * 17
    orders = []
    for epoch in range(3):
        shown = seen[17 * epoch : 17 * epoch + 17]
        assert sorted(shown) == list(range(17))
        # without the shuffling inside of each window, whole shards stand one behind the other
        possible = [
            order for order in itertools.permutations(range(4))
            if all(
                sorted(shown[first : first + shuffle]) == sorted(flat[first : first + shuffle])
                for flat in [[level for shard in order for level in range(ends[shard], ends[shard + 1])]]
                for first in range(0, 17, shuffle)
            )
        ]  # fmt: skip
        assert possible
        orders.append(shown)
    assert len({tuple(order) for order in orders}) == 3
    assert levels(dataset, dataset.samples(range(17), 6)) != orders[0]


def test_any_place_of_the_order_is_found_from_nothing(folder):
    whole = of().samples(range(60), 3)
    for first in (0, 5, 16, 17, 33, 34, 51):  # in any epoch, by who has no notes
        shutil.rmtree("notes", ignore_errors=True)
        assert of().samples(range(first, 60), 3) == whole[first:]
    noted = of()
    assert (noted.counts >= 0).all()
    assert [noted.samples(range(at, at + 1), 3)[0] for at in (40, 3, 59, 0)] == [whole[at] for at in (40, 3, 59, 0)]


def test_a_million_images_are_neither_listed_nor_remembered(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(shards_file, "places_of_images", lambda path: opened.append(path) or (np.arange(1000) * 3, ""))
    for number in range(1000):
        (folder / f"{number:03d}.tar").touch()
    tracemalloc.start()
    dataset = of("{000..999}.tar", shuffle=4096)
    assert len(set(dataset.samples(range(4096), 1))) == 4096 and len(opened) == 5
    dataset.samples(range(800_000, 800_001), 1)  # the headers of those before, once
    assert 800 <= len(set(opened)) <= 805 and len(dataset.scanned) == shards_file.SCANNED
    assert tracemalloc.get_traced_memory()[1] < 3e6  # a list of their numbers would be 8 MB
    tracemalloc.stop()
    opened.clear()
    of("{000..999}.tar", shuffle=4096).samples(range(800_000, 800_001), 1)  # by the notes, those that it lies in
    assert len(opened) <= 6


def test_processes_workers_and_resumes_see_what_one_sees(folder):
    whole = batches(10)
    assert len({index for batch in whole[:5] for index in batch.indices}) == 17
    first, second = (batches(10, rank=rank, world=2) for rank in range(2))
    for batch, left, right in zip(whole, first, second, strict=True):
        assert batch.indices == left.indices + right.indices
        assert torch.equal(batch.images, torch.cat([left.images, right.images]))
    assert_same(batches(10, "data.workers=2"), whole)
    for start in (3, 7):
        assert_same(batches(10 - start, start=start), whole[start:])
        shutil.rmtree("runs/shards")
        assert_same(batches(10 - start, start=start), whole[start:])


def damage(path, place, content):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(content)


def places(path):
    with tarfile.open(path) as shard:
        return {member.name: (member.offset, member.offset_data) for member in shard}


def test_damaged_images_are_told_of_once_and_the_next_one_stands_in_for_them(folder, caplog):
    for path, name in (
        ("shards/02.tar", f"{LONG}0008.png"),
        ("shards/02.tar", f"{LONG}0013.png"),
        ("shards/01.tar", "5.png"),
    ):  # in the middle of a shard, its last one, the only one
        damage(path, places(path)[name][1], b"no image")
    caplog.set_level(logging.WARNING)
    dataset = of()
    for epoch in range(2):
        seen = levels(dataset, dataset.samples(range(17 * epoch, 17 * epoch + 17), 0))
        replaced = {8: 9, 13: 14, 5: 6}
        assert sorted(seen) == sorted(replaced.get(level, level) for level in range(17))
    told = [record.message for record in caplog.records]
    assert len(told) == 3 and all("cannot be decoded" in text for text in told)
    assert [text.split("(number ")[1][0] for text in told] == ["1", "2", "3"]
    noted = dataset.notes.damaged_file.read_text().splitlines()
    assert len(noted) == 3 and any("shards/01.tar, 5.png: " in line for line in noted)
    again = of()  # another process, or the next run
    assert levels(again, again.samples(range(17), 0)) == levels(dataset, dataset.samples(range(17), 0))
    assert len(caplog.records) == 3


def test_damaged_shards_give_what_is_whole(folder, caplog):
    cut = places("shards/00.tar")["3.png"]
    os.truncate("shards/00.tar", cut[1] + 20)  # in the middle of its fourth image
    damage("shards/02.tar", list(places("shards/02.tar").values())[6][0], b"x" * 600)  # a header, after two samples
    Path("shards/03.tar").write_bytes(b"this was never a tar file" * 100)
    dataset = of()
    whole = [0, 1, 2, 5, 6, 7]
    for epoch in range(2):
        seen = levels(dataset, dataset.samples(range(6 * epoch, 6 * epoch + 6), 0))
        assert sorted(seen) == whole
    assert dataset.counts.tolist() == [3, 1, 2, 0]
    told = sorted(record.message for record in caplog.records)
    assert [text.split(":")[1].strip()[:13] for text in told] == ["shards/00.tar", "shards/02.tar", "shards/03.tar"]
    assert all("is no whole tar file" in text for text in told) and "its first 3 images are used" in told[0]


def test_what_cannot_be_read_at_all_is_one_sentence(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no file shards/04.tar"):
        of("shards/{00..09}.tar")
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere/\*.tar"):
        of("nowhere/*.tar")
    with pytest.raises(ValueError, match="data.unlabelled.shards: Unbalanced braces"):
        of("shards/{00..03.tar")
    with tarfile.open("packed.tar.gz", "w:gz") as packed:
        packed.add("shards")
    with pytest.raises(ValueError, match="packed.tar.gz: is compressed"):
        of("packed.tar.gz").samples(range(1), 0)
    with tarfile.open("none.tar", "w") as none:
        none.add("many.yaml")
        none.add("shards/00.tar", "0.seg.png")
    with pytest.raises(ValueError, match=r"there is no image in none.tar \(1 shards\); .*one of png, jpg"):
        of("none.tar").samples(range(1), 0)
    with TarWriter("pairs.tar") as pairs:
        pairs.write({"__key__": "a", "jpg": png(1), "png": png(2)})
    with pytest.raises(ValueError, match="a.jpg and a.png are two images of one sample"):
        of("pairs.tar").samples(range(1), 0)
    with TarWriter("bad.tar") as bad:
        for number in range(4):
            bad.write({"__key__": f"{number}", "png": b"no image"})
    monkeypatch.setattr(shards_file, "DAMAGED", 3)
    dataset = of("bad.tar")
    with pytest.raises(ValueError, match="3 images one behind the other cannot be read, from bad.tar, "):
        dataset[dataset.samples(range(1), 0)[0][1]]


def test_a_shard_that_changes_under_a_run_stops_it(folder):
    dataset = of()
    (_, index) = dataset.samples(range(1), 0)[0]
    number = index // shards_file.PLACES
    write_shard(f"shards/{number:02d}.tar", range(100, 140), LONG + "{}")
    with pytest.raises(ValueError, match="has changed, or is gone, since"):
        dataset[index]
    assert of().notes.counts_file != dataset.notes.counts_file


def test_notes_that_are_cut_off_or_cannot_be_written_cost_no_run(folder, monkeypatch, caplog):
    whole = of().samples(range(17), 2)
    file = of().notes.counts_file
    assert sorted(json.loads(line)[1] for line in file.read_text().splitlines()) == sorted(COUNTS)
    file.write_text(file.read_text()[:-3] + "[[[\n[9, 1]\n[0, -4]\n[1]\nnull\n")
    assert (of().counts == -1).sum() == 1 and of().samples(range(17), 2) == whole
    shutil.rmtree("notes")
    Path("notes").write_text("no folder")
    assert of().samples(range(17), 2) == whole
    assert len(caplog.records) == 1 and "notes on shards are not kept" in caplog.text


def test_patterns_as_webdataset_writes_them(folder):
    assert shard_paths("shards/{00..03}.tar") == shard_paths("shards/*.tar") == shard_paths("shards/0?.tar")
    assert shard_paths("{shards,./shards}/0{3,1}.tar") == [
        f"{folder}/0{number}.tar" for folder in ("shards", "./shards") for number in (3, 1)
    ]
    Path("odd[1].tar").touch()
    assert shard_paths("odd[1].tar") == ["odd[1].tar"]


def test_the_package_is_asked_for(monkeypatch):
    monkeypatch.setitem(shards_file.importlib.sys.modules, "webdataset.shardlists", None)
    with pytest.raises(ValueError, match=r'needs the package webdataset, .*: pip install -e ".\[shards\]"'):
        shard_paths("a.tar")


@pytest.mark.parametrize("words, told", [
    (["data.unlabelled.images=others"], "data.unlabelled.shards: stands in the place of images, and both are set"),
    (["networks.teacher={model: pspnet, train: false, weights: random, cache: {views: 3}}",
      "losses=[{loss: cross_entropy}, {loss: kl, on: both}]"], "networks.teacher.cache: keeps what a network makes"),
    (["data.unlabelled.shuffle=0"], "data.unlabelled.shuffle: must be greater than or equal to 1"),
])  # fmt: skip
def test_what_shards_do_not_go_with(folder, words, told):
    with pytest.raises(RecipeError) as caught:
        read("many.yaml", words)
    assert any(told in mistake for mistake in caught.value.mistakes), caught.value.mistakes
