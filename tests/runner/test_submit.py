"""The files of the test servers, byte by byte: ids, colours, names, archives, and what is checked before packing."""

import io
import json
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.datasets.ade20k import ADE20K
from segkd.datasets.cityscapes import Cityscapes
from segkd.datasets.voc import VOC
from segkd.runner import submit
from segkd.runner.building.delivered import Delivered, write_folder
from segkd.runner.recipe import parts
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.pretrained import description, from_pretrained

DATASETS = {"cityscapes": Cityscapes, "voc": VOC, "ade20k": ADE20K}
ARGUMENTS = {"backbone": "mobilenetv2_035", "output_stride": 16, "width": 8}
RECIPE = """
name: {dataset}-plain
data: {{dataset: {dataset}, root: data, crop_size: [32, 32], workers: 0}}
networks: {{student: {{model: pspnet, args: {{backbone: mobilenetv2_035, output_stride: 16, width: 8}}}}}}
losses: [{{loss: cross_entropy}}]
schedule: {{iterations: 4}}
"""

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
def run_of(tmp_path):
    """run_of("voc") is a finished run folder on that data set, its network as it was drawn."""

    def make(dataset, seed=0):
        torch.manual_seed(seed)
        args = parts.completed_arguments("models", "pspnet", ARGUMENTS)
        network = parts.build("models", "pspnet", args, DATASETS[dataset].num_classes).eval()
        about = {"class_names": list(DATASETS[dataset].class_names), "ignore_index": 255}
        folder = tmp_path / "runs" / dataset
        (folder / "student").mkdir(parents=True, exist_ok=True)
        write_folder(
            Delivered(network, description(network, "segkd", "pspnet", args) | about, None), folder / "student"
        )
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(dataset=dataset))
        (folder / "recipe.yaml").write_text(read(tmp_path / "recipe.yaml").dump())
        return folder

    return make


@pytest.fixture
def command(monkeypatch, tmp_path):
    """command("voc", run) makes the files in the folder it returns."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["submit.py", *map(str, words), "--to", "out"])
        submit.main()
        return tmp_path / "out"

    return call


def draw(file, size, seed):
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(file, quality=100)


@pytest.fixture
def cityscapes(tmp_path):
    for seed, frame in enumerate(("berlin_000000_000019", "berlin_000001_000019", "bonn_000000_000019")):
        draw(tmp_path / f"data/leftImg8bit/test/{frame.split('_')[0]}/{frame}_leftImg8bit.png", (64, 32), seed)
    return tmp_path / "data"


@pytest.fixture
def voc(tmp_path):
    for seed, (name, size) in enumerate({"2008_000006": (50, 40), "2008_000011": (30, 44)}.items()):
        draw(tmp_path / f"data/VOCdevkit/VOC2012/JPEGImages/{name}.jpg", size, seed)
    names = tmp_path / "data/VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt"
    names.parent.mkdir(parents=True)
    names.write_text("2008_000011\n2008_000006\n")
    return tmp_path / "data"


@pytest.fixture
def ade20k(tmp_path):
    for seed, (name, size) in enumerate({"ADE_test_00000001": (50, 40), "ADE_test_00000002": (30, 44)}.items()):
        draw(tmp_path / f"data/release_test/testing/{name}.jpg", size, seed)
    return tmp_path / "data"


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


def header_of(content):
    """(width, height, bit depth, colour type) by the PNG specification."""
    return struct.unpack(">IIBB", content[16:26])


def test_cityscapes(run_of, command, cityscapes, capsys):
    run = run_of("cityscapes")
    out, wanted = command("cityscapes", run), predicted(run, Cityscapes(str(cityscapes), "test"))
    assert len(LABEL_ID) == 19 and len({value for classes in wanted.values() for value in classes.flat}) > 2
    with zipfile.ZipFile(out / "cityscapes.zip") as archive:
        assert archive.namelist() == [f"{name}_pred_labelIds.png" for name in sorted(wanted)]
        for name, classes in wanted.items():
            content = archive.read(f"{name}_pred_labelIds.png")
            assert header_of(content) == (64, 32, 8, 0)
            image = Image.open(io.BytesIO(content))
            assert image.mode == "L" and same(np.array(image), np.vectorize(LABEL_ID.get)(classes))
    told = capsys.readouterr().out
    assert "3 label files, each checked" in told and "whole images" in told
    assert "the test split has 1525 images and 3 are here" in told and "not all images are 1024x2048" in told


def test_voc(run_of, command, voc):
    run = run_of("voc")
    out, wanted = command("voc", run), predicted(run, VOC(str(voc), "test"))
    with tarfile.open(out / "voc.tar.gz") as archive:
        folder = "results/VOC2012/Segmentation/comp6_test_cls"
        assert archive.getnames() == [f"{folder}/2008_000006.png", f"{folder}/2008_000011.png"]
        for name, classes in wanted.items():
            content = archive.extractfile(f"{folder}/{name}.png").read()
            assert header_of(content) == (*classes.shape[::-1], 8, 3)
            image = Image.open(io.BytesIO(content))
            assert image.mode == "P" and same(np.array(image), classes)
            colors = image.getpalette()
            assert colors[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] and colors[60:63] == [0, 64, 128]
            assert len(colors) == 768 and colors[-3:] == [224, 224, 192]


def test_voc_of_the_other_competition(run_of, command, voc):
    out = command("voc", run_of("voc"), "--competition", "comp5")
    with tarfile.open(out / "voc.tar.gz") as archive:
        assert all("/comp5_test_cls/" in name for name in archive.getnames())


def test_ade20k(run_of, command, ade20k):
    run = run_of("ade20k")
    out, wanted = command("ade20k", run), predicted(run, ADE20K(str(ade20k), "test"))
    with zipfile.ZipFile(out / "ade20k.zip") as archive:
        assert archive.namelist() == ["ADE_test_00000001.png", "ADE_test_00000002.png"]
        for name, classes in wanted.items():
            image = Image.open(io.BytesIO(archive.read(f"{name}.png")))
            assert image.mode == "L" and same(np.array(image), classes + 1)


class Bare:
    """A data set of which nothing but what every data set has can be used."""

    def __init__(self, dataset):
        kept = ("num_classes", "class_names", "palette", "ignore_index", "name")
        vars(self).update({name: getattr(dataset, name) for name in kept})
        self._dataset = dataset

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        return self._dataset[index]


def test_any_data_set_will_do(run_of, command, ade20k, monkeypatch):
    out = command("ade20k", run_of("ade20k"))
    archive = (out / "ade20k.zip").read_bytes()
    build = parts.build
    monkeypatch.setattr(
        parts, "build", lambda room, *words: Bare(build(room, *words)) if room == "datasets" else build(room, *words)
    )
    command("ade20k", run_of("ade20k"), "--overwrite")
    assert (out / "ade20k.zip").read_bytes() == archive


def test_labels_have_the_images_size_however_they_are_scored(run_of, command, ade20k):
    out = command("ade20k", run_of("ade20k"), "evaluate.short_side=24", "evaluate.flip=true", "data.workers=1")
    assert [Image.open(file).size for file in sorted(out.glob("labels/*.png"))] == [(50, 40), (30, 44)]


def test_what_is_done_is_not_done_again(run_of, command, cityscapes, capsys, monkeypatch):
    run = run_of("cityscapes")
    out = command("cityscapes", run)
    archive = (out / "cityscapes.zip").read_bytes()
    first = sorted(out.glob("labels/*.png"))[0]
    first.unlink()
    capsys.readouterr()
    command("cityscapes", run)
    assert "2 of 3 label files are there already" in capsys.readouterr().out
    assert (out / "cityscapes.zip").read_bytes() == archive
    monkeypatch.setattr(submit, "from_pretrained", None)  # complete: no network is needed
    command("cityscapes", run)


def test_labels_of_another_network_or_scoring_are_not_mixed(run_of, command, cityscapes):
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


@pytest.mark.parametrize("damage", ["cut", "size", "ids", "stranger"])
def test_a_failing_check_leaves_no_archive(run_of, command, cityscapes, damage):
    run = run_of("cityscapes")
    out = command("cityscapes", run)
    file = sorted(out.glob("labels/*.png"))[1]
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:60])
    elif damage == "stranger":
        file.with_name("berlin_000009_000019.png").write_bytes(file.read_bytes())
    else:
        size, ids = ((64, 33), 7) if damage == "size" else ((64, 32), 9)  # 9 is parking, which is no class
        Image.new("L", size, ids).save(file)
    told = {"cut": "cannot be read back", "size": "is 33x64 but its image is 32x64", "ids": r"the ids \[9\]",
            "stranger": "belongs to no image of the split"}  # fmt: skip
    with pytest.raises(ValueError, match=told[damage]):
        command("cityscapes", run)
    assert not list(out.glob("*.zip*")) and not list(out.glob(".*"))


def test_bad_input_is_one_sentence(server, run_of, cityscapes, tmp_path):
    run = run_of("cityscapes")
    (tmp_path / "alone").mkdir()
    write_folder(
        Delivered(from_pretrained(run), json.loads((run / "student/config.json").read_text()), None), tmp_path / "alone"
    )
    for arguments, words in (
        (("cityscapes", "alone"), "there is no alone/recipe.yaml; submit.py needs a run folder"),
        (("cityscapes", "runs/cityscapes", "optimizer.lr=1"), "scores depend on evaluate."),
        (("cityscapes", "runs/cityscapes", "evaluate.mode=slid"), "evaluate.mode: "),
        (("cityscapes", "runs/cityscapes", "--root", "nowhere"), "nowhere/leftImg8bit/test: no such folder"),
        (("cityscapes", "runs/cityscapes", "--split", "best"), "no split called 'best'"),
        (("voc", "runs/cityscapes"), "was trained on cityscapes; say where voc lies with --root"),
        (("camvid", "runs/cityscapes"), "invalid choice: 'camvid'"),
    ):
        result = server(tmp_path, "submit", *arguments, "--to", "out")
        assert result.code == 2 and words in result.err and "Traceback" not in result.err, result.err
        assert not (tmp_path / "out").exists()


def test_other_classes_are_refused(run_of, command, voc):
    with pytest.raises(ValueError, match="has other classes than voc, or in another order: road, sidewalk"):
        command("voc", run_of("cityscapes"), "--root", voc)
