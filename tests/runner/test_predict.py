"""Predictions of a delivered network on any images: the files, their names, what is refused and what goes on."""

import json
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.datasets._resample import resize_image
from segkd.runner import predict
from segkd.runner.run_folder.pretrained import from_pretrained
from segkd.runner.scoring.inference import predict as scores_of

PALETTE = [[128, 64, 128], [70, 70, 70], [220, 20, 60]]


@pytest.fixture
def student(deliver, tmp_path):
    """A student folder that stands alone, with random weights and no recipe near it."""
    return deliver(tmp_path / "somewhere" / "else", ["road", "building", "person"], palette=PALETTE)


@pytest.fixture
def images(tmp_path):
    """Images of three sizes in folders."""
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (40, 56), "city/b.png": (33, 65), "city/c.png": (40, 56), "d.webp": (1, 7)}.items():
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, lossless=True)
    return tmp_path / "images"


@pytest.fixture
def command(run_here, tmp_path):
    """command(student, images, "--flip") predicts into the folder it returns."""

    def call(*words, to="out"):
        run_here(predict, *words, "--to", tmp_path / to)
        return tmp_path / to

    return call


def agrees(labels, scores):
    """Whether labels are the highest scores, but where two are equal to the last digits (batches differ there)."""
    highest = scores.max(0).values
    return bool((scores.gather(0, torch.from_numpy(labels).long()[None])[0] > highest - 1e-4).all())


def pixels(file):
    return np.array(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_files_equal_a_bare_loop(command, student, images, batch_size, capsys):
    out = command(student, images, "--batch-size", batch_size)
    network, names = from_pretrained(student), ("a", "city/b", "city/c", "d")
    for name in names:
        image = pixels(next(images.glob(f"{name}.*")))
        with torch.no_grad():
            scores = network(torch.from_numpy(image).permute(2, 0, 1)[None]).resized(image.shape[:2])[0]
        file = Image.open(out / f"labels/{name}.png")
        labels = np.array(file)
        assert file.mode == "L" and agrees(labels, scores)
        colored = Image.open(out / f"colored/{name}.png")
        assert colored.mode == "P" and np.array_equal(np.array(colored), labels)
        assert np.array_equal(pixels(out / f"colored/{name}.png"), np.uint8(PALETTE)[labels])
        blended = (image.astype(float) + np.uint8(PALETTE)[labels]) / 2
        assert np.abs(pixels(out / f"overlays/{name}.png") - blended).max() <= 1
        header = [struct.unpack(">BB", (out / f"{kind}/{name}.png").read_bytes()[24:26]) for kind in predict.KINDS]
        assert header == [(8, 0), (8, 3), (8, 2)]  # grey, indexed, RGB
    written = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert written == {f"{kind}/{name}.png" for kind in predict.KINDS for name in names} | {"legend.png"}
    assert "4 images in" in capsys.readouterr().out


def test_windows_scales_and_mirroring_are_those_of_scoring(command, student, images):
    out = command(
        student, images / "a.png", "--mode", "slide", "--window", 24, 32, "--stride", 16, 16, "--scales", 0.5, 1.5,
        "--flip", "--write", "labels",
    )  # fmt: skip
    image = torch.from_numpy(pixels(images / "a.png")).permute(2, 0, 1)[None]
    scores = scores_of(
        from_pretrained(student), image, (40, 56), mode="slide", window=(24, 32), stride=(16, 16), scales=(0.5, 1.5),
        flip=True,
    )  # fmt: skip
    assert agrees(np.array(Image.open(out / "labels/a.png")), scores[0])
    assert sorted(path.name for path in out.iterdir()) == ["labels"]


def test_a_network_sees_images_at_the_size_it_was_trained_on(command, student, images):
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(config | {"resize": [20, 28]}))

    def expected(size):
        small = resize_image(Image.open(images / "city/b.png"), size)
        with torch.no_grad():
            return from_pretrained(student)(torch.from_numpy(small).permute(2, 0, 1)[None]).resized((33, 65))[0]

    for words, size in (([], (20, 28)), (["--resize", 24, 40], (24, 40)), (["--native"], (33, 65))):
        out = command(student, images / "city", "--write", "labels", *words, to=f"{size[0]}")
        assert agrees(np.array(Image.open(out / "labels/b.png")), expected(size))


def test_an_animation_is_predicted_frame_by_frame(command, student, tmp_path):
    frames = [Image.new("RGB", (20, 16), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    out = command(student, tmp_path / "moving.gif", "--write", "overlays", "--alpha", 0)
    shown = [pixels(out / f"overlays/moving/{index:06d}.png")[8, 8].tolist() for index in range(3)]
    assert shown == [[255, 0, 0], [0, 128, 0], [0, 0, 255]]
    assert Image.open(out / "legend.png").height > 3 * 15
    with pytest.raises(ValueError, match="moving/000000.png is there already"):
        command(student, tmp_path / "moving.gif")


def test_what_is_there_is_replaced_only_when_told(command, student, images, tmp_path):
    out = command(student, images / "a.png")
    (out / "labels/a.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"labels/a\.png is there already \(3 such files\).*--overwrite"):
        command(student, images)
    assert (out / "labels/a.png").read_bytes() == b"mine" and not (out / "labels/d.png").exists()
    command(student, images / "d.webp")  # others may be added
    command(student, images, "--overwrite")
    assert Image.open(out / "labels/a.png").size == (56, 40)
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(config | {"class_names": ["sky", "tree", "car"]}))
    (tmp_path / "other.png").write_bytes((images / "a.png").read_bytes())
    with pytest.raises(ValueError, match="holds another network's classes"):
        command(student, tmp_path / "other.png")


def test_unreadable_images_are_named_and_the_rest_goes_on(command, student, images, capsys):
    (images / "city/text.png").write_text("not an image")
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:300])
    (images / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(SystemExit):
        command(student, images, "--pseudo", to="pseudo")
    assert len(list(images.parent.glob("pseudo/labels/**/*.png"))) == 4
    with pytest.raises(SystemExit) as end:
        command(student, images, "--write", "labels")
    told = capsys.readouterr()
    assert end.value.code == 1 and "3 files could not be predicted" in told.err and "4 images in" in told.out
    assert "city/text.png: " in told.err and "cut.png: " in told.err
    assert len(list(images.parent.glob("out/labels/**/*.png"))) == 4


@pytest.mark.parametrize("words", [(), ("--batch-size", 2), ("--pseudo", "--share", 0.5)])
def test_an_image_that_the_network_cannot_take_is_named_and_the_rest_goes_on(
    command, student, images, capsys, monkeypatch, words
):
    def refusing(network, pixels, *size, **how):
        if pixels.shape[-1] == 7 or first in pixels[:, 0, 0, 0]:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return scores_of(network, pixels, *size, **how)

    first = int(pixels(images / "city/c.png")[0, 0, 0])  # whose batch holds an image of its size
    monkeypatch.setattr(predict, "predict", refusing)
    with pytest.raises(SystemExit) as end:
        command(student, images, "--write", "labels", *words)
    told = capsys.readouterr()
    assert end.value.code == 1 and "2 files could not be predicted" in told.err and "2 images in" in told.out
    assert "d.webp: the network fails at its 1x7 pixels: Kernel size can't be greater" in told.err
    assert len(list(images.parent.glob("out/labels/**/*.png"))) == 2


def test_memory_that_runs_out_ends_all(command, student, images, monkeypatch):
    def exhausted(*arguments, **how):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(predict, "predict", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        command(student, images, "--write", "labels")


def test_files_that_are_never_read_and_many_of_them(command, student, images, capsys):
    for number in range(15):
        os.mkfifo(images / f"fifo{number}.png")
    with pytest.raises(SystemExit):
        command(student, images, "--write", "labels", "--max-pixels", 40 * 56 - 1)
    told = capsys.readouterr()
    assert "2 images in" in told.out and "17 files could not be predicted" in told.err
    assert "a.png: is too large: 40x56" in told.err and "fifo0.png: is a FIFO and no file" in told.err
    assert told.err.strip().endswith("and 7 more")


def test_bad_input_is_one_sentence(server, student, images, tmp_path, assert_refused):
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((student, "empty"), "empty: no images here"),
        (("empty", "images"), "empty holds no delivered network"),
        ((student, "images", "--mode", "slide"), "--mode slide needs --window H W"),
        ((student, "images", "--mode", "slide", "--window", "8", "8", "--stride", "9", "8"), "leaves gaps"),
        ((student, "images", "--alpha", "2"), "between 0 and 1"),
        ((student, "images", "--batch-size", "0"), "at least one image"),
        ((student, "images", "--scales", "0"), "from 0.05 to 16"),
        ((student, "images", "--max-pixels", "0"), "--max-pixels 0"),
        ((student, "images", "--write", "masks"), "invalid choice: 'masks'"),
    ):  # fmt: skip
        assert_refused(server(tmp_path, "predict", *map(str, arguments), "--to", "out"), words)
        assert not (tmp_path / "out").exists()
    if not torch.cuda.is_available():
        given = str(student), "images", "--to", "out", "--precision", "bf16"
        assert_refused(server(tmp_path, "predict", *given), "computes on")
    assert_refused(server(tmp_path, "predict", str(student), "images", "--to", "images/a.png"), "is a file")


def test_the_legend_has_a_line_for_each_class():
    names = ["road", "two\nlines", "tab\tand \x1b"]
    assert predict.legend(names, PALETTE).height == predict.legend(["a", "b", "c"], PALETTE).height


def test_more_classes_than_a_byte_holds_are_refused(command, student, images):
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(
        json.dumps(config | {"num_classes": 300, "class_names": None, "palette": None})
    )
    with pytest.raises(ValueError, match="300 classes do not fit into 8-bit files"):
        command(student, images)


def test_pseudo_labels_equal_a_bare_loop_and_a_second_call_makes_what_is_missing(command, student, images):
    pseudo = student, images, "--pseudo", "--confidence", 0.4
    out, network = command(*pseudo), from_pretrained(student)
    files = {name: out / f"labels/{name}.png" for name in ("a", "city/b", "city/c", "d")}
    assert sorted(path.name for path in out.iterdir()) == ["description.json", "labels"]
    for name, file in files.items():
        image = torch.from_numpy(pixels(images / f"{name}.{'webp' if name == 'd' else 'png'}")).permute(2, 0, 1)[None]
        confidence, classes = scores_of(network, image, tuple(image.shape[-2:])).softmax(1).max(1)
        wanted = torch.where(confidence >= 0.4, classes, 255)[0].numpy()
        assert (np.array(Image.open(file)) == wanted).mean() > 0.99
    before = {name: (file.read_bytes(), file.stat().st_mtime_ns) for name, file in files.items()}
    files["city/b"].unlink()
    command(*pseudo)
    after = {name: (file.read_bytes(), file.stat().st_mtime_ns) for name, file in files.items()}
    assert [name for name in files if before[name] != after[name]] == ["city/b"]
    assert before["city/b"][0] == after["city/b"][0]
    # labels without the pictures that are asked for beside them, as a kill or a first call leaves them
    command(*pseudo, "--write", "labels", "colored")
    assert {name: file.read_bytes() for name, file in files.items()} == {name: one for name, (one, _) in after.items()}
    assert all((out / f"colored/{name}.png").is_file() for name in files)


def test_pseudo_labels_of_others_are_refused_and_a_share_is_of_each_class(command, student, images, deliver, tmp_path):
    out = command(student, images, "--pseudo", "--share", 0.5)
    labels = np.concatenate([np.array(Image.open(file)).ravel() for file in out.rglob("labels/**/*.png")])
    bare = command(student, images, "--write", "labels", to="all")
    classes = np.concatenate(
        [np.array(Image.open(bare / file.relative_to(out))).ravel() for file in out.rglob("*.png")]
    )
    for k in np.unique(classes):
        assert (labels[classes == k] == k).mean() == pytest.approx(0.5, abs=0.05)
    other = deliver(tmp_path / "other", ["road", "building", "person"], seed=1)
    for words, told in (
        ((student, images, "--pseudo", "--share", 0.6), "holds labels that another threshold has kept"),
        ((other, images, "--pseudo", "--share", 0.5), "holds labels of another teacher"),
        ((student, images / "city", "--pseudo", "--share", 0.5), "holds labels of other images"),
        ((student, images, "--confidence", 0.5), "--confidence says which pseudo-labels are kept; give --pseudo, too"),
        ((student, images, "--pseudo", "--overwrite"), "--pseudo writes labels and keeps those that are there"),
        ((student, images, "--pseudo", "--share", 0), "--share 0.0: must be above 0 and at most 1"),
        ((student, images, "--resize", 10**6, 10**6), "at most 180000000 pixels"),
        ((student, images, "--scales", "nan"), "--scales nan: factors on the image size are from 0.05 to 16"),
    ):
        with pytest.raises(ValueError, match=told):
            command(*words)
