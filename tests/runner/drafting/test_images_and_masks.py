"""Photographs and masks told apart by what people call them, where they put them, and what they look like."""

import numpy as np
import pytest
from PIL import Image

from segkd.runner.drafting.images_and_masks import find_pairs, split_words

NOISE = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
IDS = np.zeros((20, 20), np.uint8)


def lay(root, photographs, masks):
    for names, pixels in ((photographs, NOISE), (masks, IDS)):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name)


@pytest.mark.parametrize("photographs, masks, images, labels", [
    (["images/a b.jpg", "images/ü.PNG"], ["masks/a b.png", "masks/ü.png"], "images/{name}.*", "masks/{name}.*"),
    (["a.JPG", "b.jpg"], ["a_mask.png", "b_mask.png"], "{name}.*", "{name}_mask.*"),
    (["x/a.jpg", "y/a.jpg"], ["x/a-label.png", "y/a-label.png"], "{name}.*", "{name}-label.*"),
    (["img_1.jpg", "img_2.jpg"], ["mask_1.png", "mask_2.png"], "img_{name}.*", "mask_{name}.*"),
    (["in/image 1.jpg", "in/dog.jpg"], ["out/image 1.png", "out/dog.png"], "in/{name}.*", "out/{name}.*"),
    (["in/image 1.jpg", "in/dog.jpg"], ["gt/image 1_gt.png", "gt/dog_gt.png"], "in/{name}.*", "gt/{name}_gt.*"),
    (["0001.png", "0002.png"], ["labels/0001_L.png", "labels/0002_L.png"], "{name}.*", "labels/{name}_L.*"),
    (["a.jpg", "b.jpg"], ["a.png", "b.png"], "{name}.jpg", "{name}.png"),
    (["images/p/1.jpg", "images/q/1.jpg"], ["masks/p/1.png", "masks/q/1.png"], "images/{name}.*", "masks/{name}.*"),
    (["a/1_sat.jpg", "a/2_sat.jpg"], ["a/1_mask.png", "a/2_mask.png"], "{name}_sat.*", "{name}_mask.*"),
    (["in/1_2_left.png", "in/3_2_left.png"], ["gt/1_2_fine_ids.png", "gt/3_2_fine_ids.png"],
     "in/{name}_left.*", "gt/{name}_fine_ids.*"),
    (["in/top 1.jpg", "in/top 2.jpg"], ["out/ids+1.png", "out/ids+2.png"], "in/top {name}.*", "out/ids+{name}.*"),
    (["some/1.jpg", "some/2.jpg"], ["other/1.png", "other/2.png"], "some/{name}.*", "other/{name}.*"),
])  # fmt: skip
def test_pairs_without_splits(tmp_path, photographs, masks, images, labels):
    lay(tmp_path, photographs, masks)
    lay(tmp_path, [".hidden/images/a.jpg", "__MACOSX/images/b.jpg"], [])
    pairs = find_pairs(str(tmp_path))
    assert (pairs.images, pairs.labels, pairs.without_mask) == (images, labels, 0)
    wanted = [(str(tmp_path / image), str(tmp_path / mask)) for image, mask in zip(photographs, masks)]
    assert sorted(pairs.files) == sorted(wanted) and set(pairs.of_split) == {""}


@pytest.mark.parametrize("image, mask, images, labels", [
    ("{}/images/a.jpg", "{}/masks/a.png", "{split}/images/{name}.*", "{split}/masks/{name}.*"),
    ("images/{}/a.jpg", "labels/{}/a.png", "images/{split}/{name}.*", "labels/{split}/{name}.*"),
    ("{}_images/a.jpg", "{}_masks/a.png", "{split}_images/{name}.*", "{split}_masks/{name}.*"),
    ("{}/a.jpg", "{}/a_seg.png", "{split}/{name}.*", "{split}/{name}_seg.*"),
    ("images/{}/{}-1.jpg", "masks/{}-1.png", "images/{split}/{name}.*", "masks/{name}.*"),
    ("dev-kit/{}/in/a.jpg", "dev-kit/{}/gt/a.png", "dev-kit/{split}/in/{name}.*", "dev-kit/{split}/gt/{name}.*"),
    ("Train_site/{}/a.jpg", "Train_site/{}/a_gt.png", "Train_site/{split}/{name}.*", "Train_site/{split}/{name}_gt.*"),
    ("test/Train_val/x_{}/a.jpg", "gt/x_{}/a.png", "test/Train_val/x_{split}/{name}.*", "gt/x_{split}/{name}.*"),
    ("img_test/{}/a.jpg", "gt_test/{}/a.png", "img_test/{split}/{name}.*", "gt_test/{split}/{name}.*"),
    ("{}/{}_img/a.jpg", "{0}/{0}_gt/a.png", "{split}/{split}_img/{name}.*", "{split}/{split}_gt/{name}.*"),
    ("img/{}/c.jpg", "gt/{0}/{0}_c.png", "img/{split}/{name}.*", "gt/{split}/{split}_{name}.*"),
])  # fmt: skip
def test_pairs_in_splits(tmp_path, image, mask, images, labels):
    for word in ("Train", "valid"):
        lay(tmp_path, [image.format(word, word)], [mask.format(word)])
    pairs = find_pairs(str(tmp_path))
    assert (pairs.images, pairs.labels) == (images, labels)
    assert {word: len(files) for word, files in pairs.of_split.items()} == {"Train": 1, "valid": 1}


def test_a_folder_of_one_split_keeps_its_word(tmp_path):
    lay(tmp_path, ["dev-kit/train/images/a.jpg"], ["dev-kit/train/masks/a.png"])
    assert set(find_pairs(str(tmp_path)).of_split) == {"train"}


def test_images_without_masks_are_counted(tmp_path):
    lay(tmp_path, ["images/a.jpg", "images/b.jpg", "images/c.jpg", "preview/x.jpg"], ["masks/b.png"])
    assert find_pairs(str(tmp_path)).without_mask == 2
    lay(tmp_path / "alone", ["a.jpg", "b.jpg"], [])
    assert find_pairs(str(tmp_path / "alone")) is None


def test_further_masks_of_the_same_images_are_told(tmp_path):
    lay(tmp_path, ["images/a.jpg", "images/b.jpg"], ["cat_masks/a.png", "cat_masks/b.png", "dog_masks/a.png"])
    pairs = find_pairs(str(tmp_path))
    assert (pairs.labels, pairs.others) == ("cat_masks/{name}.*", ("dog_masks/{name}.*",))


def test_grey_photographs_are_none_of_masks(tmp_path):
    lay(tmp_path, [], ["b/1.png", "b/2.png"])
    for name in ("1", "2"):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(NOISE[..., 0]).save(tmp_path / f"a/{name}.png")
    assert (find_pairs(str(tmp_path)).images, find_pairs(str(tmp_path)).labels) == ("a/{name}.*", "b/{name}.*")


def test_words_for_splits():
    assert split_words(["test", "Training", "dev"]) == ("Training", "dev")
    assert split_words(["testing", "train"]) == ("train", "testing")
    assert split_words(["", "val"]) == (None, "val")


def test_frames_of_a_video_keep_to_the_masks_of_that_video(tmp_path):
    frames, few = [f"{number}.jpg" for number in range(6)], [f"{number}.png" for number in (0, 2, 4)]
    lay(tmp_path, [f"clip_a/frames/{name}" for name in frames], [f"clip_a/masks/{name}" for name in few])
    lay(tmp_path, [f"clip_b/frames/{name}" for name in frames[:2]], [f"clip_b/masks/{name[0]}.png" for name in frames])
    pairs = find_pairs(str(tmp_path))
    assert (pairs.images, pairs.labels, len(pairs.files)) == ("clip_a/frames/{name}.*", "clip_a/masks/{name}.*", 3)
    assert pairs.others == () and pairs.elsewhere == {"clip_b/frames/{name}.*": 2}


@pytest.mark.parametrize("other, photographs", [("annotated", "images"), ("depth", "rgb"), ("overlay", "photos")])
def test_what_is_called_photographs_is_taken_for_them(tmp_path, other, photographs):
    names = ["1.png", "2.png"]
    lay(
        tmp_path,
        [f"{folder}/{name}" for folder in (other, photographs) for name in names],
        [f"masks/{n}" for n in names],
    )
    pairs = find_pairs(str(tmp_path))
    assert pairs.images == f"{photographs}/{{name}}.*" and pairs.elsewhere == {f"{other}/{{name}}.*": 2}


@pytest.mark.parametrize("painted", ["semantic_rgb", "img_overlay"])
@pytest.mark.parametrize("photographs", ["scans", "image_2"])
def test_masks_in_colour_are_never_the_photographs(tmp_path, photographs, painted):
    names = ["1.png", "2.png", "3.png"]
    lay(
        tmp_path,
        [f"{photographs}/{name}" for name in names],
        [f"{folder}/{name}" for folder in (painted, "semantic") for name in names],
    )
    pairs = find_pairs(str(tmp_path))
    assert (pairs.images, pairs.labels) == (f"{photographs}/{{name}}.*", "semantic/{name}.*")
    assert pairs.others == (f"{painted}/{{name}}.*",) and not pairs.elsewhere


def test_drawn_images_may_have_few_colours(tmp_path):
    lay(tmp_path, [], ["images/1.png", "images/2.png", "photos/1.png", "masks/1.png", "masks/2.png"])
    pairs = find_pairs(str(tmp_path))
    assert (pairs.images, pairs.elsewhere) == ("images/{name}.*", {"photos/{name}.*": 1})


@pytest.mark.parametrize("image, mask", [
    ("images/{}.jpg", "masks/{}_{}.png"), ("{}.jpg", "{}-{}.PNG"), ("images/{}.jpg", "masks/{1}_{0}_mask.png"),
    ("img/{}.jpg", "gt/{}_mask_{}.png"),
])  # fmt: skip
def test_masks_of_one_class_each_are_told(tmp_path, image, mask):
    names, kinds = [str(number) for number in range(12)], ["car", "dog", "tree"]
    lay(tmp_path, [image.format(name) for name in names], [mask.format(name, kind) for name in names for kind in kinds])
    pairs = find_pairs(str(tmp_path))
    assert len(pairs.files) == 12 and sorted((pairs.labels, *pairs.others)) == sorted(
        mask.format("{name}", kind).replace("png", "*").replace("PNG", "png") for kind in kinds
    )


def test_masks_without_images_are_no_further_masks(tmp_path):
    lay(tmp_path, [f"images/{name}.jpg" for name in (1, 10, 11)], [f"masks/{name}_L.png" for name in range(1, 120)])
    pairs = find_pairs(str(tmp_path))
    assert (pairs.labels, pairs.others, len(pairs.files)) == ("masks/{name}_L.*", (), 3)
    lay(tmp_path / "b", [f"images/{name}.jpg" for name in (1, 2)], [f"masks/{name}mask.png" for name in range(1, 4)])
    assert find_pairs(str(tmp_path / "b")).labels == "masks/{name}mask.*"
