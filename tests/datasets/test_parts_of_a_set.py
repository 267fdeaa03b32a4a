import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.datasets._files import published_split
from segkd.datasets._parts_of_a_set import (
    Chosen,
    ImagesBelow,
    LabelsFrom,
    WithExtra,
    WithoutLabels,
    labelled_indices,
)
from segkd.datasets.images import Images
from segkd.datasets.synthetic import Synthetic


class Named:
    """Item i is an image and a label of the grey level i, called by the i-th name."""

    num_classes, ignore_index, class_names, palette = 3, 255, ["a", "b", "c"], [(0, 0, 0)] * 3

    def __init__(self, names):
        self.names = list(names)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return Image.new("RGB", (4, 3), (index,) * 3), Image.new("L", (4, 3), index)

    def name(self, index):
        return self.names[index]


def numbered(length):
    return Named(f"frame_{index:03d}" for index in range(length))


@pytest.mark.parametrize("which, length, count", [
    ("1/8", 2975, 372), ("1/2", 7, 4), ("1/2", 5, 2), ("1/30", 10, 1), ("1/1000", 5, 1), ("3/4", 8, 6), ("1/1", 5, 5),
    ("7/7", 3, 3),
])  # fmt: skip
def test_a_fraction_of_the_images(which, length, count):
    chosen = labelled_indices(numbered(length), which, "camvid", seed=0)
    assert len(chosen) == len(set(chosen)) == count
    assert chosen == sorted(chosen) and 0 <= chosen[0] <= chosen[-1] < length


def test_the_draw_is_the_seeds():
    first, again, other = (labelled_indices(numbered(100), "1/4", "camvid", seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first == sorted(np.random.default_rng(1).permutation(100)[:25].tolist())
    # a smaller fraction of the same seed is a part of the larger one: more labels, never others
    assert set(labelled_indices(numbered(100), "1/10", "camvid", 1)) < set(first)


@pytest.mark.parametrize("which", ["0/8", "9/8", "1/0"])
def test_fractions_that_are_none(which):
    with pytest.raises(ValueError, match=f"data.labelled: {which} is no fraction above 0 and at most 1"):
        labelled_indices(numbered(8), which, "camvid", 0)


def test_a_published_list_by_its_name():
    listed = published_split("cityscapes", "1_30")
    whole = Named(sorted({*listed, *published_split("cityscapes", "1_16")}))
    chosen = labelled_indices(whole, "1_30", "cityscapes", seed=0)
    assert {whole.name(index) for index in chosen} == set(listed) and chosen == sorted(chosen)
    with pytest.raises(ValueError, match=r"1_30 names 'aachen_\d+_000019' \(98 such names\).*like 'aachen_"):
        labelled_indices(Named(listed[:2]), "1_30", "cityscapes", 0)


def test_a_file_of_names(tmp_path):
    file, whole = tmp_path / "mine.txt", Named(["a", "b", "c 1", "d"])
    file.write_text("d\n\n  c 1\nb \nd\n")
    assert labelled_indices(whole, str(file), "cityscapes", 0) == [1, 2, 3]
    for wrong, told in {
        "a\nlindau": r"mine.txt names 'lindau' \(1 such names\), which is not among .* like 'a'$",
        "a b": "mine.txt names 'a b' .*; a line is one name, blanks and all, without quotes",
        "": "mine.txt: the list is empty",
    }.items():
        file.write_text(f"{wrong}\n")
        with pytest.raises(ValueError, match=told):
            labelled_indices(whole, str(file), "cityscapes", 0)


def test_a_file_that_is_no_list_of_names_stays_untold(tmp_path):
    file, whole = tmp_path / "secret.txt", Named(["a" * 5000, "b"])
    file.write_text("root:$6$" + "x" * 5000 + "\x1b[2J\n" + "\n".join(f"user{index}" for index in range(10_000)))
    with pytest.raises(ValueError, match=r"\.\.\. \(10001 such names\), which is not among") as caught:
        labelled_indices(whole, str(file), "cityscapes", 0)
    assert len(str(caught.value)) < 600 and "\x1b" not in str(caught.value)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="fifo: is a FIFO and no file"):
        labelled_indices(whole, str(tmp_path / "fifo"), "cityscapes", 0)


def test_the_files_of_a_set_and_of_its_parts(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        Image.new("L", (2, 2)).save(tmp_path / name)
    whole = Named(["a", "b", "c"])
    whole.files = [(name, "label") for name in whole.names]
    assert WithoutLabels(Chosen(whole, [2, 0])).files == [("c", None), ("a", None)]
    assert WithoutLabels(ImagesBelow(str(tmp_path))).files[1] == (str(tmp_path / "b.png"), None)
    assert not hasattr(Chosen(numbered(3), [1]), "files")


@pytest.mark.parametrize("folder, lists", [
    ("cityscapes", "1_16, 1_2, 1_30, 1_4, 1_8"), ("camvid", "0006R0, 1_8"), ("ade20k", "none")
])  # fmt: skip
def test_an_unknown_list(folder, lists):
    told = f"data.labelled: '1_7' is no fraction such as 1/8 and no file of image names; {folder}: .*there are: {lists}"
    with pytest.raises(ValueError, match=told):
        labelled_indices(numbered(8), "1_7", folder, 0)


def test_some_images_of_a_set_keep_its_names_and_classes():
    whole = Synthetic("", "val", size=(32, 40), length=6)
    some = Chosen(whole, [4, 1])
    assert len(some) == 2 and [some.name(index) for index in range(2)] == [whole.name(4), whole.name(1)]
    for ours, theirs in zip(some[0], whole[4], strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    for name in ("num_classes", "ignore_index", "class_names", "palette"):
        assert getattr(some, name) == getattr(whole, name)


def test_no_label_gets_through():
    bare = WithoutLabels(Chosen(numbered(9), [7, 2]))
    assert len(bare) == 2
    for position, level in enumerate((7, 2)):
        image, target = bare[position]
        assert image.getpixel((0, 0)) == (level,) * 3
        assert target.mode == "L" and target.size == image.size and not np.asarray(target).any()


def test_images_at_any_depth_below_a_folder(tmp_path):
    (tmp_path / "b/deep").mkdir(parents=True)
    for level, name in enumerate(("b/deep/z.png", "a.png", "b/c.JPG")):
        Image.new("RGB", (5, 3 + level), (10 * level,) * 3).save(tmp_path / name)
    Image.new("L", (2, 2), 77).save(tmp_path / "grey.png")
    (tmp_path / "notes.txt").write_text("no image")
    images = ImagesBelow(str(tmp_path))
    assert [Path(file).name for file, _ in images.files] == ["a.png", "c.JPG", "z.png", "grey.png"]
    for position, size in enumerate([(5, 4), (5, 5), (5, 3), (2, 2)]):
        image, target = WithoutLabels(images)[position]
        assert image.mode == "RGB" and image.size == target.size == size and not np.asarray(target).any()
    assert images[3][0].getpixel((0, 0)) == (77, 77, 77) and len(images) == 4


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="data.unlabelled.images: there is no folder .*/nowhere"):
        ImagesBelow(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="data.unlabelled.images: no images below"):
        ImagesBelow(str(tmp_path))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="broken.png: cannot be decoded"):
        ImagesBelow(str(tmp_path))[0]


def test_images_without_labels_are_named_by_their_path_and_may_have_classes(tmp_path):
    for name in ("0.png", "far/1.png", "far/2.png", "far/3.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / "pictures" / name)
    images = Images(str(tmp_path), "any", images="pictures", class_names=("a", "b"))
    assert images.names == ["0", "far/1", "far/2", "far/3"] and images.num_classes == len(images.palette) == 2
    assert images[0][1].getextrema() == (255, 255)
    train, val = (Images(str(tmp_path / "pictures"), split, val=0.5).names for split in ("train", "val"))
    assert sorted(train + val) == images.names and train and val


def test_labels_from_elsewhere(tmp_path):
    labelled, others = (Synthetic(size=(32, 40), length=3, seed=seed) for seed in (0, 1))
    for index in range(3):
        Image.new("L", (40, 32), (7, 255, 8)[index]).save(tmp_path / f"{others.name(index)}.png")
    both = WithExtra(labelled, LabelsFrom(others, tmp_path, 8, "data.extra.labels"))
    assert len(both) == 6 and [both.is_extra(index) for index in (2, 3)] == [False, True]
    assert both[3][0].tobytes() == others[0][0].tobytes() and both[3][1].getextrema() == (7, 7)
    assert both[0][1].tobytes() == labelled[0][1].tobytes() and both[4][1].getextrema() == (255, 255)
    with pytest.raises(ValueError, match="label ids 8 are not allowed; the data set's train ids are 0..7"):
        both[5]
    (tmp_path / f"{others.name(1)}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"data.extra.labels: there is no .* \(1 such labels of 3\)"):
        LabelsFrom(others, tmp_path, 8, "data.extra.labels")


def test_labels_from_elsewhere_may_be_as_large_as_images(tmp_path):
    Image.new("L", (4, 3), 1).save(tmp_path / "frame_000.png")
    assert LabelsFrom(numbered(1), tmp_path, 3, "data.extra.labels", max_pixels=12)[0][1].size == (4, 3)
    with pytest.raises(ValueError, match="up to 11 are read"):
        LabelsFrom(numbered(1), tmp_path, 3, "data.extra.labels", max_pixels=11)[0]
