"""Which images words of a command line mean, and what is decoded from them."""

import contextlib
import sys
import types

import numpy as np
import pytest
from PIL import Image

from segkd.runner.predicting import image_files
from segkd.runner.predicting.image_files import ImageFile, Picture, Unreadable, batches, decode, find_images


def draw(file, color=(9, 9, 9), size=(4, 3), **settings):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(file, **settings)
    return file


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "city/b.jpg", "city/deep/c.webp", "city/.hidden.png", "out/labels/a.png"):
        draw(tmp_path / "in" / name)
    (tmp_path / "in/notes.txt").write_text("no image")
    return tmp_path / "in"


def names(words, leave_out):
    return {file.name: str(file.path) for file in find_images(list(map(str, words)), leave_out)}


def test_files_folders_and_patterns(root, tmp_path):
    below = {"a": root / "a.png", "city/b": root / "city/b.jpg", "city/deep/c": root / "city/deep/c.webp"}
    assert names([root], root / "out") == {name: str(path) for name, path in below.items()}
    assert names([root / "city/b.jpg"], root / "out") == {"b": str(root / "city/b.jpg")}
    (tmp_path / "mac/Su\u0308d").mkdir(parents=True)
    (root / "a.png").rename(tmp_path / "mac/Su\u0308d/Ba\u0308ume.png")
    assert set(names([tmp_path / "mac"], root / "out")) == {"S\u00fcd/B\u00e4ume"}, "as data sets call them"
    (tmp_path / "mac/Su\u0308d/Ba\u0308ume.png").rename(root / "a.png")
    assert set(names([f"{root}/c*/**/*"], root / "out")) == {"city/b", "city/deep/c"}
    assert set(names([f"{root}/*.png", root / "a.png"], root / "out")) == {"a"}  # one file, named twice


def test_what_can_be_wrong_is_said(root, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    draw(root / "city/a.gif")
    for words, told in (
        ([tmp_path / "empty"], "empty: no images here .*a video is named by its own path"),
        ([f"{root}/*.tif"], r"\*\.tif: no images here"),
        ([root / "notes.txt"], "notes.txt is neither an image nor a video by its name"),
        ([root / "a.png", root / "city/a.gif"], r"a\.png and .*a\.gif would both become a\.png"),
    ):
        with pytest.raises(ValueError, match=told):
            names(words, root / "out")
    with pytest.raises(FileNotFoundError, match="there is no file or folder .*missing.png"):
        names([root / "missing.png"], root / "out")
    monkeypatch.setattr(image_files.importlib.util, "find_spec", lambda name: None)
    (root / "clip.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r'clip.mp4: videos need PyAV, .*pip install -e "\.\[video\]"'):
        names([root / "clip.mp4"], root / "out")


def read(*files):
    return list(decode([ImageFile(file, file.stem) for file in files], threads=2))


def test_images_of_all_kinds_become_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    stripes = Image.new("RGB", (4, 2), (255, 0, 0))
    stripes.paste((0, 0, 255), (0, 1, 4, 2))
    stripes.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "deep.png")
    Image.new("LA", (2, 1), (77, 0)).save(tmp_path / "grey.png")
    Image.new("RGBA", (2, 1), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    turned, deep, grey, clear = read(*(tmp_path / f"{name}.png" for name in ("turned", "deep", "grey", "clear")))
    assert turned.pixels.shape == (4, 2, 3) and turned.pixels[0].tolist() == [[0, 0, 255], [255, 0, 0]]
    assert deep.pixels[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    assert grey.pixels.tolist() == [[[77] * 3] * 2] and clear.pixels.tolist() == [[[1, 2, 3]] * 2]


def test_frames_of_animations_are_numbered(tmp_path):
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    frames = [Image.new("RGB", (5, 4), color) for color in colors]
    for suffix in ("gif", "tif"):
        frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:])
        found = read(tmp_path / f"moving.{suffix}")
        assert [picture.name for picture in found] == ["moving/000000", "moving/000001", "moving/000002"]
        assert [tuple(picture.pixels[2, 2]) for picture in found] == colors
    frames[0].save(tmp_path / "still.gif")
    assert [picture.name for picture in read(tmp_path / "still.gif")] == ["still"]


def test_order_is_kept_and_unreadable_files_are_told(tmp_path):
    files = [draw(tmp_path / f"{index:02d}.png", (index, 0, 0)) for index in range(20)]
    files[3].write_text("text")
    files[7].write_bytes(files[7].read_bytes()[:50])
    files[9].unlink()
    found = read(*files)
    assert [item.path for item in found if isinstance(item, Unreadable)] == [files[3], files[7], files[9]]
    good = [item for item in found if isinstance(item, Picture)]
    assert [int(item.pixels[0, 0, 0]) for item in good] == [i for i in range(20) if i not in (3, 7, 9)]


def test_few_images_wait_in_memory(tmp_path):
    files = iter([ImageFile(draw(tmp_path / f"{index:02d}.png"), str(index)) for index in range(20)])
    pictures = decode(files, threads=2)
    assert next(pictures).name == "0" and next(files).name == "5"  # twice as many as threads are decoded ahead
    pictures.close()


def test_an_error_of_our_own_is_raised(monkeypatch):
    def fail(file, max_pixels):
        raise RuntimeError("ours")

    monkeypatch.setattr(image_files, "frames", fail)
    with pytest.raises(RuntimeError, match="ours"):
        read(*[image_files.Path("x.png")])


def test_batches_hold_images_of_one_size():
    sizes = [(2, 2), (2, 3), (2, 2), (2, 2), (2, 3), (4, 4)]
    pictures = [Picture(str(index), np.zeros((*size, 3), np.uint8)) for index, size in enumerate(sizes)]
    found = [[picture.name for picture in batch] for batch in batches(pictures, 2)]
    assert found == [["0", "2"], ["1", "4"], ["3"], ["5"]]
    various = (Picture(str(index), np.zeros((1, index + 1, 3), np.uint8)) for index in range(50))
    first = next(batches(various, 2))
    assert first[0].name == "0" and next(various).name == "9"  # not all of them wait in memory


def test_frames_of_videos(tmp_path, monkeypatch):
    rows = {"rgb24": np.array([[[255, 0, 0]] * 3, [[0, 0, 255]] * 3], np.uint8)}  # red above blue

    def decode(video):
        for rotation in (0, -90):
            yield types.SimpleNamespace(rotation=rotation, to_ndarray=lambda format: rows[format])
        raise FFmpegError("cut off")

    FFmpegError = type("FFmpegError", (Exception,), {})
    container = types.SimpleNamespace(streams=types.SimpleNamespace(video=[types.SimpleNamespace()]), decode=decode)
    fake = types.SimpleNamespace(open=lambda path: contextlib.nullcontext(container), FFmpegError=FFmpegError)
    monkeypatch.setitem(sys.modules, "av", fake)
    first, second, failed = read(tmp_path / "clip.mp4")
    assert (first.name, second.name) == ("clip/000000", "clip/000001")
    assert first.pixels.shape == (2, 3, 3)
    assert second.pixels.tolist() == [[[0, 0, 255], [255, 0, 0]]] * 3  # a quarter clockwise
    assert failed == Unreadable(tmp_path / "clip.mp4", "cut off (after 2 frames)")


def test_a_folder_that_results_go_to_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="all its images lie in .*, where the results go; name another folder"):
        find_images([str(tmp_path)], tmp_path)
