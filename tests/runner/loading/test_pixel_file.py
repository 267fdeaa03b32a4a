"""Pixels in a file that many write at once, what a kill or damage leaves of them, and images that lie in it."""

import fcntl
import multiprocessing

import numpy as np
import pytest
from PIL import Image

from segkd.runner.loading import pixel_file
from segkd.runner.loading.pixel_file import PAGE, RECORD, KeptImage, PixelFile

SIZES = [(3, 5), (40, 60), (1, 1), (70, 20)]


@pytest.fixture(params=[3, 1])
def pixels(request):
    """Pixels of four images of different sizes."""
    draw, shape = np.random.default_rng(0), (3,) if request.param == 3 else ()
    return [draw.integers(0, 256, (*size, *shape), dtype=np.uint8) for size in SIZES]


def file_for(pixels, folder):
    return PixelFile(folder / "kept" / "split.bin", len(pixels), 3 if pixels[0].ndim == 3 else 1)


def test_what_is_written_is_read_and_nothing_else(tmp_path, pixels):
    file = file_for(pixels, tmp_path)
    assert file.read(0) is None and not file.filled().any() and not file.path.exists()
    for index in (2, 0, 3):
        file.write(index, pixels[index])
    assert file.filled().tolist() == [True, False, True, True] and file.read(1) is None
    for index in (0, 2, 3):
        np.testing.assert_array_equal(file.read(index), pixels[index])
        assert not file.read(index).flags.writeable and file.is_whole(index)
    assert not file.is_whole(1)


def test_what_a_kill_has_left_is_not_read_and_its_place_is_used_again(tmp_path, pixels, monkeypatch):
    file = file_for(pixels, tmp_path)
    file.write(0, pixels[0])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pixel_file.os, "fdatasync", killed)
        file.write(1, pixels[1])
    size = file.path.stat().st_size
    assert file.read(1) is None
    file.write(1, pixels[1])
    np.testing.assert_array_equal(file.read(1), pixels[1])
    assert file.path.stat().st_size == size


def test_damaged_pixels_are_found_and_a_file_cut_off_is_not_read_behind_its_end(tmp_path, pixels):
    file = file_for(pixels, tmp_path)
    for index, values in enumerate(pixels):
        file.write(index, values)
    with open(file.path, "r+b") as raw:
        raw.seek(file.begin)  # the first pixel of the first image
        raw.write(bytes([pixels[0].flat[0] ^ 1]))
    assert not file.is_whole(0) and file.read(0) is None and file.is_whole(1)
    with open(file.path, "r+b") as raw:
        raw.truncate(file.begin + PAGE + 10)
    assert file.read(1) is None and file.read(3) is None


def test_processes_that_write_at_once_write_one_file(tmp_path):
    draw = np.random.default_rng(1)
    pixels = [draw.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8) for index in range(12)]

    def write(seed):
        for index in np.random.default_rng(seed).permutation(len(pixels)):
            file_for(pixels, tmp_path).write(index, pixels[index])

    processes = [multiprocessing.get_context("fork").Process(target=write, args=(seed,)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    file = file_for(pixels, tmp_path)
    assert all(file.is_whole(index) for index in range(len(pixels)))
    for index, values in enumerate(pixels):
        np.testing.assert_array_equal(file.read(index), values)
    places = np.frombuffer(file.path.read_bytes()[: len(pixels) * RECORD.itemsize], RECORD)["place"]
    assert sorted(places) == [file.begin + PAGE * index for index in range(len(pixels))]  # each of them has one page


def test_a_kept_image_is_what_pillow_has(pixels):
    for values in pixels:
        kept, image = KeptImage(values), Image.fromarray(values)
        assert kept.size == image.size and (kept.height, kept.width) == (image.height, image.width)
        assert kept.mode == image.mode and kept.histogram() == image.histogram()
        box = 0, image.height // 2, image.width, image.height
        assert kept.crop(box).tobytes() == image.crop(box).tobytes()
        assert np.array(kept, np.float32).dtype == np.float32
        for method in pixel_file.TURNED:
            np.testing.assert_array_equal(np.asarray(kept.transpose(method)), np.asarray(image.transpose(method)))


def test_files_in_memory_are_removed_by_the_last_who_holds_them(tmp_path):
    path, left_behind, held = (tmp_path / f"{name}.bin" for name in ("ours", "killed", "other"))
    left_behind.write_bytes(b"1")
    with open(held, "a+b") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        pixel_file.hold(path)
        assert sorted(tmp_path.iterdir()) == [held, path]
        ends = []
        for _ in range(2):
            file = open(path, "a+b")
            fcntl.flock(file, fcntl.LOCK_SH)
            ends.append(file)
        pixel_file._let_go(path, ends[0])
        assert path.exists()
