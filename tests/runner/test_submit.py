"""The files of the test servers, byte by byte: ids, colours, names, archives, and what is checked before packing."""

import io
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.datasets._parts_of_a_set import Chosen
from segkd.datasets.ade20k import ADE20K
from segkd.datasets.cityscapes import Cityscapes
from segkd.datasets.voc import VOC
from segkd.runner import submit
from segkd.runner.recipe import parts
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.pretrained import from_pretrained

DATASETS = {"cityscapes": Cityscapes, "voc": VOC, "ade20k": ADE20K}
# file below data/ -> width and height
IMAGES = {
    "cityscapes": {
        "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png": (64, 32),
        "leftImg8bit/test/berlin/berlin_000001_000019_leftImg8bit.png": (64, 32),
        "leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png": (64, 32),
    },
    "voc": {
        "VOCdevkit/VOC2012/JPEGImages/2008_000006.jpg": (50, 40),
        "VOCdevkit/VOC2012/JPEGImages/2008_000011.jpg": (30, 44),
    },
    "ade20k": {
        "release_test/testing/ADE_test_00000001.jpg": (50, 40),
        "release_test/testing/ADE_test_00000002.jpg": (30, 44),
    },
}

# Cityscapes, helpers/labels.py of the release: name, id in the label files, train id
LABELS = """
unlabeled 0 255, ego-vehicle 1 255, rectification-border 2 255, out-of-roi 3 255, static 4 255, dynamic 5 255,
ground 6 255, road 7 0, sidewalk 8 1, parking 9 255, rail-track 10 255, building 11 2, wall 12 3, fence 13 4,
guard-rail 14 255, bridge 15 255, tunnel 16 255, pole 17 5, polegroup 18 255, traffic-light 19 6, traffic-sign 20 7,
vegetation 21 8, terrain 22 9, sky 23 10, person 24 11, rider 25 12, car 26 13, truck 27 14, bus 28 15,
caravan 29 255, trailer 30 255, train 31 16, motorcycle 32 17, bicycle 33 18
"""
LABEL_ID = {int(train_id): int(label) for _, label, train_id in map(str.split, LABELS.split(",")) if train_id != "255"}


@pytest.fixture
def run_of(deliver, folder):
    """run_of("voc") is a finished run folder on that data set, whose test images lie in data/."""

    def make(dataset, seed=0):
        for number, (file, size) in enumerate(IMAGES[dataset].items()):
            noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
            (folder / "data" / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(folder / "data" / file, quality=100)
        if dataset == "voc":
            names = folder / "data/VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt"
            names.parent.mkdir(parents=True, exist_ok=True)
            names.write_text("2008_000011\n2008_000006\n")
        run = folder / "runs" / dataset
        deliver(run / "student", DATASETS[dataset].class_names, seed=seed)
        data = f"data={{dataset: {dataset}, root: data, crop_size: [32, 32], workers: 0}}"
        recipe = read(folder / "tiny.yaml", [f"name={dataset}-plain", data, "evaluate.batch_size=1"])
        (run / "recipe.yaml").write_text(recipe.dump())
        return run

    return make


@pytest.fixture
def command(run_here, monkeypatch, tmp_path):
    """command("voc", run) makes the files in the folder it returns."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        run_here(submit, *words, "--to", "out")
        return tmp_path / "out"

    return call


def predicted(run, dataset):
    """Classes of each image by a bare loop."""
    network, found = from_pretrained(run), {}
    for index in range(len(dataset)):
        image = torch.from_numpy(np.array(dataset[index][0])).permute(2, 0, 1)[None]
        with torch.no_grad():
            found[dataset.name(index)] = network(image).resized(image.shape[-2:])[0].argmax(0).numpy()
    return found


def same(ids, wanted):
    """Equal but for a pixel at most, whose two best scores may be equal to the last digits."""
    return ids.shape == wanted.shape and (ids != wanted).sum() <= 1


def content_of(archive):
    """File in the archive -> its bytes, in their order."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            return {name: packed.read(name) for name in packed.namelist()}
    with tarfile.open(archive) as packed:
        return {name: packed.extractfile(name).read() for name in packed.getnames()}


@pytest.mark.parametrize("server, archive, path, color_type, id_of", [
    ("cityscapes", "cityscapes.zip", "{}_pred_labelIds.png", 0, LABEL_ID.get),
    ("voc", "voc.tar.gz", "results/VOC2012/Segmentation/comp6_test_cls/{}.png", 3, int),
    ("ade20k", "ade20k.zip", "{}.png", 0, lambda index: index + 1),
])  # fmt: skip
def test_files_of_a_server(run_of, command, server, archive, path, color_type, id_of):
    run = run_of(server)
    content, wanted = content_of(command(server, run) / archive), predicted(run, DATASETS[server]("data", "test"))
    assert len(LABEL_ID) == 19 and len({value for classes in wanted.values() for value in classes.flat}) > 2
    assert list(content) == [path.format(name) for name in sorted(wanted)]
    for name, classes in wanted.items():
        file = content[path.format(name)]
        # width, height, bit depth, colour type by the PNG specification
        assert struct.unpack(">IIBB", file[16:26]) == (*classes.shape[::-1], 8, color_type)
        assert same(np.array(Image.open(io.BytesIO(file))), np.vectorize(id_of)(classes))


def test_voc_has_colours_and_a_folder_for_each_competition(run_of, command):
    content = content_of(command("voc", run_of("voc"), "--competition", "comp5") / "voc.tar.gz")
    for name, file in content.items():
        colors = Image.open(io.BytesIO(file)).getpalette()
        assert colors[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] and colors[60:63] == [0, 64, 128]
        assert len(colors) == 768 and colors[-3:] == [224, 224, 192] and "/comp5_test_cls/" in name


def test_any_data_set_will_do(run_of, command, monkeypatch):
    out = command("ade20k", run_of("ade20k"))
    archive, build = (out / "ade20k.zip").read_bytes(), parts.build

    def bare(room, *words):  # `Chosen` has nothing but what every data set has
        part = build(room, *words)
        return Chosen(part, list(range(len(part)))) if room == "datasets" else part

    monkeypatch.setattr(parts, "build", bare)
    command("ade20k", run_of("ade20k"), "--overwrite")
    assert (out / "ade20k.zip").read_bytes() == archive


def test_labels_have_the_images_size_however_they_are_scored(run_of, command):
    out = command("ade20k", run_of("ade20k"), "evaluate.short_side=24", "evaluate.flip=true", "data.workers=1")
    assert [Image.open(file).size for file in sorted(out.glob("labels/*.png"))] == [(50, 40), (30, 44)]


def test_what_is_done_is_not_done_again(run_of, command, capsys, monkeypatch):
    run = run_of("cityscapes")
    out = command("cityscapes", run)
    told = capsys.readouterr().out
    assert "3 label files, each checked" in told and "whole images" in told
    assert "the test split has 1525 images and 3 are here" in told and "not all images are 1024x2048" in told
    archive = (out / "cityscapes.zip").read_bytes()
    first = sorted(out.glob("labels/*.png"))[0]
    first.unlink()
    command("cityscapes", run)
    assert "2 of 3 label files are there already" in capsys.readouterr().out
    assert (out / "cityscapes.zip").read_bytes() == archive
    monkeypatch.setattr(submit, "from_pretrained", None)  # complete: no network is needed
    command("cityscapes", run)


def test_labels_of_another_network_or_scoring_are_not_mixed(run_of, command):
    out = command("cityscapes", run_of("cityscapes"))
    before = (out / "cityscapes.zip").read_bytes()
    for run, word in ((run_of("cityscapes"), "evaluate.flip=true"), (run_of("cityscapes", seed=1), "data.workers=0")):
        with pytest.raises(ValueError, match="labels of another network, split or way of scoring"):
            command("cityscapes", run, word)
    assert (out / "cityscapes.zip").read_bytes() == before
    command("cityscapes", run, "--overwrite")
    assert (out / "cityscapes.zip").read_bytes() != before
    (out / "fingerprint.json").unlink()
    with pytest.raises(ValueError, match="was not written by submit.py"):
        command("cityscapes", run, "--overwrite")


@pytest.mark.parametrize("damage, told", [
    (lambda file: file.write_bytes(file.read_bytes()[:60]), "cannot be read back"),
    (lambda file: Image.new("L", (64, 33), 7).save(file), "is 33x64 but its image is 32x64"),
    (lambda file: Image.new("L", (64, 32), 9).save(file), r"the ids \[9\]"),  # parking, which is no class
    (lambda file: shutil.copy(file, file.with_name("berlin_000009_000019.png")), "belongs to no image of the split"),
])  # fmt: skip
def test_a_failing_check_leaves_no_archive(run_of, command, damage, told):
    run = run_of("cityscapes")
    out = command("cityscapes", run)
    damage(sorted(out.glob("labels/*.png"))[1])
    with pytest.raises(ValueError, match=told):
        command("cityscapes", run)
    assert not list(out.glob("*.zip*")) and not list(out.glob(".*"))


def test_bad_input_is_one_sentence(server, run_of, tmp_path, assert_refused):
    run_of("voc")
    shutil.copytree(run_of("cityscapes") / "student", tmp_path / "alone")
    for arguments, words in (
        (("cityscapes", "alone"), "there is no alone/recipe.yaml; submit.py needs a run folder"),
        (("cityscapes", "runs/cityscapes", "optimizer.lr=1"), "scores depend on evaluate."),
        (("cityscapes", "runs/cityscapes", "evaluate.mode=slid"), "evaluate.mode: "),
        (("cityscapes", "runs/cityscapes", "--root", "nowhere"), "nowhere/leftImg8bit/test: no such folder"),
        (("cityscapes", "runs/cityscapes", "--split", "best"), "no split called 'best'"),
        (("voc", "runs/cityscapes"), "was trained on cityscapes; say where voc lies with --root"),
        (("voc", "runs/cityscapes", "--root", "data"),
         "has other classes than voc, or in another order: road, sidewalk"),
        (("camvid", "runs/cityscapes"), "invalid choice: 'camvid'"),
    ):  # fmt: skip
        assert_refused(server(tmp_path, "submit", *arguments, "--to", "out"), words)
        assert not (tmp_path / "out").exists()
