"""What masks mean: ids and colours as files hold them, and names as other files tell them."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from segkd.runner.drafting.masks import Names, Seen, find_names, look_at_masks, meaning_of


def of_ids(*ids, names=None, is_whole=True):
    return meaning_of(Seen(ids=Counter(dict.fromkeys(ids, 9))), names, is_whole).args


@pytest.mark.parametrize("ids, args", [
    ((0, 1), {"class_names": ["background", "foreground"]}),
    ((0, 255), {"class_names": ["background", "foreground"], "lookup": {0: 0, 255: 1}}),
    ((0, 128), {"class_names": ["background", "foreground"], "lookup": {0: 0, 128: 1}}),
    ((0, 1, 2, 255), {"class_names": ["class 0", "class 1", "class 2"]}),
    ((1, 2, 3), {"class_names": ["class 1", "class 2", "class 3"], "lookup": {1: 0, 2: 1, 3: 2}}),
    ((0, 85, 170, 255), {"class_names": ["class 0", "class 85", "class 170", "class 255"],
                         "lookup": {0: 0, 85: 1, 170: 2, 255: 3}}),
    ((0, 85, 255), {"class_names": ["background", "foreground"], "lookup": {0: 0, 85: 1}}),
    ((0, 50, 200), {"class_names": ["class 0", "class 50", "class 200"], "lookup": {0: 0, 50: 1, 200: 2}}),
])  # fmt: skip
def test_ids(ids, args):
    assert of_ids(*ids) == args


@pytest.mark.parametrize("void", [{}, {255: 9}])
def test_many_classes_may_be_small(void):
    """As in aerial images, most of which is background."""
    ids = Counter({0: 9000} | dict.fromkeys(range(1, 21), 9) | void)
    assert meaning_of(Seen(ids=ids), None, True).args == {"class_names": [f"class {number}" for number in range(21)]}


def test_ids_between_those_of_a_sample_may_occur():
    assert of_ids(0, 1, 3, is_whole=False) == {"class_names": [f"class {number}" for number in range(4)]}


def save(file, pixels, mode=None, palette=None):
    image = Image.fromarray(np.array(pixels, np.uint8), mode)
    if palette is not None:
        image.putpalette(palette)
    image.save(file)
    return str(file)


def test_files_of_every_kind(tmp_path):
    grey = save(tmp_path / "grey.png", [[0, 3], [3, 3]])
    painted = save(tmp_path / "painted.png", [[[0, 0, 0], [9, 8, 7]]])
    assert look_at_masks([grey]).ids == {0: 1, 3: 3}
    both = look_at_masks([grey, painted])
    assert both.ids is None and both.colors == {(0, 0, 0): 2, (3, 3, 3): 3, (9, 8, 7): 1}
    indexed = [save(tmp_path / f"{number}.png", [[0, 1]], palette=[0, 0, 0, 9, 8, level])
               for number, level in enumerate((7, 7, 6))]  # fmt: skip
    assert look_at_masks(indexed[:2]).ids == {0: 2, 1: 2}
    # the palette of another file has another colour at this id: what was meant are the colours
    seen = look_at_masks(indexed)
    assert seen.ids is None and seen.colors == {(0, 0, 0): 3, (9, 8, 7): 2, (9, 8, 6): 1}


def test_colours_are_named_by_their_numbers_and_borders_are_void():
    colors = Counter({(1, 2, 3): 5, (0, 0, 0): 4, (224, 224, 192): 1})
    args = meaning_of(Seen(None, colors), None, True).args
    assert args["colors"] == {"background": [0, 0, 0], "foreground": [1, 2, 3]}
    assert args["void_colors"] == [[224, 224, 192]]
    colors[255, 255, 255] = 9
    named = meaning_of(Seen(None, colors), None, True).args["colors"]
    assert list(named) == ["background", "color 255 255 255", "color 1 2 3"]


@pytest.mark.parametrize("file, text, ids, colors", [
    ("classes.txt", "road sign\nsky\n", {0: "road sign", 1: "sky"}, {}),
    ("_classes.csv", "Pixel Value, Class\n0, background\n2, car\n", {0: "background", 2: "car"}, {}),
    ("class_dict.csv", "name,r,g,b\nroad,128,64,128\nÄcker,0,0,1\n", {}, {(128, 64, 128): "road", (0, 0, 1): "Äcker"}),
    ("classes.csv", "name,r,g,b,id\nroad,128,64,128,0\nsky,1,2,3,5\n", {0: "road", 5: "sky"},
     {(128, 64, 128): "road", (1, 2, 3): "sky"}),
    ("classes.csv", "Class ID;Name;B;G;R\n4;road;128;64;9\n", {4: "road"}, {(9, 64, 128): "road"}),
    ("classes.txt", "road 128 64 128 1\nsky 1 2 3 2\n", {1: "road", 2: "sky"},
     {(128, 64, 128): "road", (1, 2, 3): "sky"}),
    ("classes.txt", "0 road 128 64 128\n1 sky 1 2 3\n", {0: "road", 1: "sky"},
     {(128, 64, 128): "road", (1, 2, 3): "sky"}),
    ("label_colors.txt", "64 128 64\tAnimal\n192 0 128\tArch way\n", {},
     {(64, 128, 64): "Animal", (192, 0, 128): "Arch way"}),
    ("labels.json", json.dumps({"0": "sky", "7": "road"}), {0: "sky", 7: "road"}, {}),
    ("labels.json", json.dumps([{"name": "sky", "color": "#0102ff"}]), {}, {(1, 2, 255): "sky"}),
    ("colors.json", json.dumps({"sky": [1, 2, 3]}), {}, {(1, 2, 3): "sky"}),
])  # fmt: skip
def test_files_that_name_classes(tmp_path, file, text, ids, colors):
    (tmp_path / "readme.txt").write_text("0 no\n")
    (tmp_path / "class_images.json").write_text("{")
    (tmp_path / "class_depth.json").write_text("[" * 100_000)
    assert find_names(str(tmp_path)) is None
    (tmp_path / file).write_text(text, encoding="utf-8")
    names = find_names(str(tmp_path))
    assert (names.file, names.ids, names.colors) == (file, ids, colors)


def test_names_of_a_file_are_used(tmp_path):
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    names = find_names(str(tmp_path))
    assert of_ids(0, 1, 255, names=names) == {"class_names": ["road", "sky"]}
    assert of_ids(0, 1, 2, names=names) == {"class_names": ["background", "road", "sky"]}, "0 is what has no name"
    (tmp_path / "classes.txt").write_text("road 1 2 3\nsky 4 5 6\n")
    seen = Seen(None, Counter({(1, 2, 3): 5, (0, 0, 0): 1}))
    meaning = meaning_of(seen, find_names(str(tmp_path)), True)
    assert meaning.args == {"colors": {"road": [1, 2, 3], "sky": [4, 5, 6], "background": [0, 0, 0]}}
    assert meaning.said == "are painted in 2 colours, named in classes.txt but for 1"


@pytest.mark.parametrize("name, how, told", [
    ("a.jpg", {}, "a JPEG"),
    ("a.webp", {"quality": 80}, "a lossy WebP"),
    ("a.webp", {"quality": 80, "exif": Image.Exif()}, "a lossy WebP"),
    ("a.tif", {"compression": "jpeg"}, "a TIFF with JPEG inside"),
])  # fmt: skip
@pytest.mark.parametrize("levels", [(0, 1, 2), (0, 255)])
def test_masks_that_were_altered_when_they_were_saved_are_refused(tmp_path, name, how, told, levels):
    pixels = np.kron(np.resize(np.array(levels, np.uint8), (8, 8)), np.ones((6, 6), np.uint8))
    Image.fromarray(pixels).save(tmp_path / name, **how)
    with pytest.raises(ValueError, match=f"cannot be read as a mask: is {told}, which alters ids.*save that as PNG"):
        look_at_masks([str(tmp_path / name)])


def test_masks_of_webp_without_loss_are_read(tmp_path):
    Image.fromarray(np.uint8([[0, 1], [2, 2]])).convert("RGB").save(tmp_path / "a.webp", lossless=True)
    assert look_at_masks([str(tmp_path / "a.webp")]).colors == {(0, 0, 0): 1, (1, 1, 1): 1, (2, 2, 2): 2}


def test_masks_of_16_bits_are_told_what_to_do(tmp_path):
    Image.fromarray(np.uint16([[0, 1000]])).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="reach from 0 to 1000; they must lie in 0..255; save masks as PNG of 8 bits"):
        look_at_masks([str(tmp_path / "a.png")])


def test_what_255_and_four_numbers_are_taken_for_is_told(tmp_path):
    (tmp_path / "classes.txt").write_text("road 128 64 128 1\nsky 1 2 3 2\n")
    seen = Seen(Counter({0: 9, 85: 9, 170: 9, 255: 9}))
    assert "in equal steps, so 255 is taken for a class" in meaning_of(seen, None, True).said
    meaning = meaning_of(Seen(None, Counter({(128, 64, 128): 9, (1, 2, 3): 9})), find_names(str(tmp_path)), True)
    assert meaning.args == {"colors": {"road": [128, 64, 128], "sky": [1, 2, 3]}}
    assert "classes.txt (whose lines are read as a colour and an id)" in meaning.said


def test_masks_that_cannot_be_meant_are_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3))
    with pytest.raises(ValueError, match=r"a\.png: is taken for a mask and has more than 255 colours"):
        look_at_masks([save(tmp_path / "a.png", noise)])
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.png: cannot be read as a mask"):
        look_at_masks([str(tmp_path / "b.png")])
    smooth = Counter({0: 5000, 255: 5000} | dict.fromkeys(range(20, 254, 6), 2))
    with pytest.raises(ValueError, match="0, 255 and 39 levels between them, so their edges are smoothed or they are"):
        meaning_of(Seen(smooth), None, True)
    few = Counter({0: 5000, 255: 5000} | dict.fromkeys((1, 3, 252, 254), 99))  # as JPEG leaves of a straight edge
    for seen in (Seen(few), Seen(None, Counter({(level,) * 3: count for level, count in few.items()}))):
        with pytest.raises(
            ValueError, match="0, 255 and 4 levels between them, so their edges are smoothed or they are"
        ):
            meaning_of(seen, None, True)
    with pytest.raises(ValueError, match="all masks hold the id 7 and nothing else"):
        of_ids(7)


@pytest.mark.parametrize("names", [{0: "background", 1: "cat"}, {0: "cat"}, {1: "cat"}])
def test_two_names_of_black_and_white_masks(names):
    found = meaning_of(Seen(ids=Counter({0: 5, 255: 4})), Names("classes.txt", ids=names), True).args
    assert found == {"class_names": ["background", "cat"], "lookup": {0: 0, 255: 1}}


@pytest.mark.parametrize("file, text, ids", [
    ("classes.txt", "background\ndefect 2\nscratch\n", {0: "background", 1: "defect 2", 2: "scratch"}),
    ("classes.txt", "grade 1\ngrade 2\n", {0: "grade 1", 1: "grade 2"}),
    ("classes.txt", "void 0\nvoid 1\nroad 2\n", {0: "void", 1: "void", 2: "road"}),
    ("class_names.json", '{"classes": ["background", "cat"]}', {0: "background", 1: "cat"}),
    ("labels.json", '{"labels": [{"id": 4, "name": "cat"}]}', {4: "cat"}),
])  # fmt: skip
def test_names_with_numbers_and_lists_under_a_word(tmp_path, file, text, ids):
    (tmp_path / file).write_text(text)
    assert find_names(str(tmp_path)).ids == ids


def test_lists_of_images_name_no_classes(tmp_path):
    (tmp_path / "image_names.txt").write_text("im0.jpg\nim1.jpg\n")
    (tmp_path / "train_labels.csv").write_text("image\nim0.jpg\n")
    assert find_names(str(tmp_path)) is None


@pytest.mark.parametrize("ids, args", [
    ((1, 2, 3), {"class_names": ["road", "car", "person"], "lookup": {1: 0, 2: 1, 3: 2}}),
    ((1, 3, 255), {"class_names": ["road", "car", "person"], "lookup": {1: 0, 2: 1, 3: 2}}),
    ((0, 3), {"class_names": ["background", "road", "car", "person"]}),
    ((1, 2), {"class_names": ["road", "car", "person"]}),
])  # fmt: skip
def test_names_without_ids_may_be_counted_from_1(tmp_path, ids, args):
    (tmp_path / "classes.txt").write_text("road\ncar\nperson\n")
    meaning = meaning_of(Seen(ids=Counter(dict.fromkeys(ids, 9))), find_names(str(tmp_path)), True)
    assert meaning.args == args and ("named in classes.txt from 1 on" in meaning.said) == (3 in ids)


def test_ids_that_a_file_names_are_not_counted_anew(tmp_path):
    (tmp_path / "classes.csv").write_text("id,name\n0,road\n1,car\n")
    assert of_ids(0, 1, 2, names=find_names(str(tmp_path))) == {"class_names": ["road", "car", "class 2"]}
