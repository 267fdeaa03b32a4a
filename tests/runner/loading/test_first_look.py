"""Data that would train or score as if it were right: one class alone, images that are both trained on and scored."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from segkd.runner.loading import first_look
from segkd.runner.loading.data_sets import build_dataset, build_training_sets
from segkd.runner.loading.first_look import look_at_data
from segkd.runner.recipe.read import read

SPLIT = "data={dataset: folder, root: data, args: {class_names: [a, b]}, crop_size: [8, 8]}"
ONE_FOLDER = SPLIT.replace("[a, b]", "[a, b], images: train/images, labels: train/labels")


@pytest.fixture
def look(folder, monkeypatch):
    """look(SPLIT, "seed=1", ...) looks at the data of tiny.yaml with these changes."""
    monkeypatch.chdir(folder)
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(4):
            for kind, pixels in (("images", draw.integers(0, 256, (8, 9, 3))), ("labels", draw.integers(0, 2, (8, 9)))):
                (folder / "data" / split / kind).mkdir(parents=True, exist_ok=True)
                file = folder / "data" / split / kind / f"{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(file, compress_level=0)  # all of one size

    def at(*assignments, **settings):
        recipe = read("tiny.yaml", assignments)
        sets = (*build_training_sets(recipe), build_dataset(recipe, recipe.data.val_split))
        look_at_data(recipe, *sets, **settings)

    return at


def fill(folder, split, ids, names="0123"):
    """Makes the labels of some images hold these ids, in turn."""
    for name in names:
        label = np.resize(np.array(ids, np.uint8), (8, 9))
        Image.fromarray(label).save(folder / f"data/{split}/labels/{name}.png")


def test_what_is_right_is_looked_at_without_a_word(look, caplog):
    caplog.set_level(logging.INFO)
    for words in ([], [SPLIT], [SPLIT, "data.labelled=1/2", "data.unlabelled={}"]):
        for whole in (False, True):
            look(*words, whole=whole)
    assert caplog.text == ""


@pytest.mark.parametrize("ids, told", [
    ([0], "in the labels of 4 training images every pixel that counts is 'a' \\(0% are ignored\\)"),
    ([1, 255, 255], "every pixel that counts is 'b' \\(67% are ignored\\)"),
    ([255], "every pixel is ignored"),
])  # fmt: skip
def test_labels_of_one_class_are_refused(look, folder, ids, told):
    fill(folder, "train", ids)
    with pytest.raises(ValueError, match=f"data: .*{told}; check .* lookup: {{0: 0, 255: 1}}"):
        look(SPLIT)
    fill(folder, "train", [0, 1], names="3")  # all labels are read while they are of one class
    look(SPLIT)


def test_a_sample_of_one_class_is_told_in_capitals(look, folder, caplog, monkeypatch):
    monkeypatch.setattr(first_look, "LABELS", 3)  # numbers 0, 2 and 3
    fill(folder, "train", [0, 255], names="023")
    look(SPLIT)
    assert "WARNING: IN THE LABELS OF 3 TRAINING IMAGES EVERY PIXEL THAT COUNTS IS 'A' (50% ARE IGNORED)" in caplog.text
    caplog.clear()
    look(SPLIT, whole=True)
    assert caplog.text == "", "check.py reads more of them"


def test_a_single_class_is_refused(look, folder):
    fill(folder, "train", [0])
    with pytest.raises(ValueError, match=r"'a' is the only class.*class_names: \[background, a\]"):
        look(SPLIT.replace("[a, b]", "[a]"))


def test_files_of_other_classes_to_score_are_refused(look, folder):
    recipe = read("tiny.yaml", [SPLIT])
    train_set, val_set = (build_dataset(recipe, split) for split in ("train", "val"))
    val_set.class_names = ("b", "a")
    with pytest.raises(
        ValueError, match=r"name other classes to train on than to score, .*train: a, b; val: b, a\); say"
    ):
        look_at_data(recipe, train_set, None, val_set)


def test_images_that_are_trained_on_are_not_scored(look, folder):
    told = r"data: 4 of the 4 images to score \(val\) are also trained on, such as data/train/images/0\.png, so .*"
    with pytest.raises(ValueError, match=rf"{told} or say data\.allow_overlap=true"):
        look(ONE_FOLDER)
    look(ONE_FOLDER, "data.allow_overlap=true")
    (folder / "mine.txt").write_text("3\n1\n")
    with pytest.raises(ValueError, match=r"2 of the 4 images to score .* such as data/train/images/1\.png"):
        look(ONE_FOLDER, "data.labelled=mine.txt")
    with pytest.raises(ValueError, match="4 of the 4 images to score"):  # its stream without labels has the others
        look(ONE_FOLDER, "data.labelled=mine.txt", "data.unlabelled={}")
    with pytest.raises(ValueError, match="4 of the 4 images to score"):
        look(SPLIT, "data.unlabelled={images: data/../data/val/images}")
    with pytest.raises(ValueError, match=r"the images to score are those to train on \(val\)"):
        look("data.train_split=val")
    (folder / "data/test").symlink_to("train")
    with pytest.raises(ValueError, match=r"4 of the 4 images to score \(test\) are also trained on"):
        look(SPLIT, "data.test_split=test")
    look(SPLIT, "data.test_split=test", "data.tuning_part=0.25")  # settings are being chosen: nobody looks at it


@pytest.mark.parametrize("same", [shutil.copyfile, lambda image, copy: copy.hardlink_to(image),
                                  lambda image, copy: copy.symlink_to(image)], ids=["copy", "link", "symlink"])  # fmt: skip
def test_images_of_the_same_content_are_found(look, folder, same, monkeypatch):
    copy = folder / "data/val/images/2.png"
    copy.unlink()
    same((folder / "data/train/images/1.png").resolve(), copy)
    told = r"1 of the 4 images to score .* such as data/val/images/2\.png, which is a copy of data/train/images/1\.png"
    with pytest.raises(ValueError, match=told):
        look(SPLIT)
    look(SPLIT, "data.allow_overlap=true")
    monkeypatch.setattr(first_look, "COMPARED", 7)
    look(SPLIT)  # of so many images, a start compares the paths alone
    with pytest.raises(ValueError, match=told):
        look(SPLIT, whole=True)


def test_few_copies_in_a_published_data_set_are_told(look, folder, monkeypatch, caplog):
    for split in ("train", "val"):
        (folder / f"data/{split}/images").rename(folder / f"data/{split}x")
        (folder / f"data/{split}/labels").rename(folder / f"data/{split}annot")
        (folder / f"data/{split}").rmdir()
        (folder / f"data/{split}x").rename(folder / f"data/{split}")
    camvid = "data={dataset: camvid, root: data, crop_size: [8, 8]}"
    look(camvid)
    shutil.copyfile(folder / "data/train/1.png", folder / "data/val/2.png")
    with pytest.raises(ValueError, match="1 of the 4 images to score .* which is a copy of"):
        look(camvid)
    monkeypatch.setattr(first_look, "FEW", 0.25)
    look(camvid)
    assert "WARNING: 1 of the 4 images to score (val) are also trained on" in caplog.text


def test_few_copies_in_ones_own_data_are_refused_whatever_its_format(look, folder, monkeypatch):
    (folder / "data/data.yaml").write_text("train: train/images\nval: val/images\nnames: [thing]\n")
    for split in ("train", "val"):
        (folder / f"data/{split}/labels/0.txt").write_text("0 0 0 1 0 1 0.5\n")
    yolo = "data={dataset: yolo, root: data, crop_size: [8, 8]}"
    look(yolo)
    shutil.copyfile(folder / "data/train/images/1.png", folder / "data/val/images/2.png")
    monkeypatch.setattr(first_look, "FEW", 0.25)
    with pytest.raises(ValueError, match="1 of the 4 images to score .* which is a copy of"):
        look(yolo)


def test_images_whose_turn_their_labels_may_lack_are_told(look, folder, caplog):
    exif, image = Image.Exif(), folder / "data/train/images/2.png"
    exif[0x0112] = 3
    Image.open(image).save(image, exif=exif)
    look(SPLIT, whole=True)
    assert "train/images/2.png is turned upright by its EXIF orientation and its label has none" in caplog.text
    caplog.clear()
    label = folder / "data/train/labels/2.png"
    Image.open(label).save(label, exif=exif)
    look(SPLIT, whole=True)
    assert caplog.text == ""


def test_the_recipe_says_how_large_images_may_be(look, folder):
    Image.new("RGB", (20, 5)).save(folder / "other.png")
    others = "data.unlabelled={images: .}"
    for most, words in ((71, []), (99, [others])):
        with pytest.raises(ValueError, match=f"is too large: .* and up to {most} are read"):
            recipe = read("tiny.yaml", [SPLIT, f"data.max_pixels={most}", *words])
            labelled, unlabelled = build_training_sets(recipe)
            assert labelled[0] and unlabelled[[path for path, _ in unlabelled.files].index("./other.png")]
    look(SPLIT, "data.max_pixels=72")


def test_a_step_whose_images_alone_are_larger_than_the_memory_is_refused(look, monkeypatch):
    monkeypatch.setattr(first_look.os, "sysconf", {"SC_PHYS_PAGES": 4096, "SC_PAGE_SIZE": 2**20}.get)  # 4 GiB
    crops = ["data.crop_size=[16384, 8192]", "data.batch_size=4"]  # 1.5 GiB each
    with pytest.raises(
        ValueError, match=r"4 images of 16384 x 8192 in 1 part\(s\) are 6 GiB a part, .* 4 GiB of memory"
    ):
        look(*crops)
    look(*crops, "loop.accumulate=2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    look(*crops)
    with pytest.raises(ValueError, match=r"8 images of 16384 x 8192 in 2 part\(s\)"):
        look(*crops, "data.labelled=1/2", "data.unlabelled={}")


@pytest.mark.parametrize("split, key", [("val", "val_split"), ("test", "test_split")])
def test_labels_that_are_kept_by_their_publishers_are_no_labels_to_score_by(look, folder, split, key):
    shutil.copytree(folder / "data/val", folder / "data/test", dirs_exist_ok=True)
    for number in "0123":
        Image.effect_noise((9, 8), 60 + int(number)).convert("RGB").save(folder / f"data/test/images/{number}.png")
    look(SPLIT, "data.test_split=test")
    fill(folder, split, [255])
    with pytest.raises(ValueError, match=f"no pixel of the 4 images of {split} has a label that counts"):
        look(SPLIT, "data.test_split=test")
    fill(folder, split, [255] * 71 + [1], "3")
    look(SPLIT, "data.test_split=test")


def test_what_chooses_the_student_is_no_test(look, folder):
    shutil.copytree(folder / "data/val", folder / "data/test")
    with pytest.raises(ValueError, match=r"4 of the 4 images to score \(test\) are what chooses the student, such as"):
        look(SPLIT, "data.test_split=test")
    look(SPLIT, "data.test_split=test", "data.allow_overlap=true")


def test_images_of_several_sizes_that_would_be_scored_in_one_batch(look, folder):
    for kind in ("images", "labels"):
        file = folder / f"data/val/{kind}/2.png"
        Image.open(file).resize((9, 12), Image.Resampling.NEAREST).save(file)
    look(SPLIT, "evaluate.batch_size=1")
    look(SPLIT, "evaluate.batch_size=4", "data.resize=[8, 8]")
    with pytest.raises(ValueError, match="images of val have several sizes .*8x9 and .*2.png has 12x9 pixels.*4 at a"):
        look(SPLIT, "evaluate.batch_size=4")
    (folder / "data/val/images/3.png").rename(folder / "data/val/images/1b.png")
    (folder / "data/val/labels/3.png").rename(folder / "data/val/labels/1b.png")
    with pytest.raises(ValueError, match="2 at a time"):
        look(SPLIT, "evaluate.batch_size=2")
