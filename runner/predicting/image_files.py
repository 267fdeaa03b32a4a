"""The images a command line names: files, folders, patterns, frames of animations and videos, decoded ahead of use."""

import glob
import importlib.util
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from segkd.datasets._files import IMAGE_SUFFIXES, files_below, written_alike
from segkd.datasets._images import (
    MAX_PIXELS,
    UNDECODABLE,
    as_rgb,
    open_image,
    pages,
    refuse_large,
)

T, R = TypeVar("T"), TypeVar("R")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
LONGEST_REASON = 300  # letters


@dataclass(frozen=True)
class ImageFile:
    """path: where it lies. name: what comes of it is called, a path without an ending, such as berlin/0001."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether Pillow cannot read it."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Picture:
    """One image or frame. name: as of its file, a frame's number behind it. pixels: (H, W, 3) uint8 RGB."""

    name: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be decoded, or from some frame on not, and why."""

    path: Path
    reason: str


def find_images(words: Iterable[str], leave_out: Path) -> list[ImageFile]:
    """The image files that paths of files, folders (at any depth) and patterns (such as 'a/**/*.png') mean.

    A file is named by its stem, those of a folder or a pattern by their path below it. Videos are found by their own
    path or a pattern, not in folders.

    Args:
        leave_out: the folder for the results, whose files do not count.

    Raises:
        FileNotFoundError: no such path. ValueError: nothing found, no image, or two files of one name.
    """
    found: dict[str, Path] = {}
    for word in words:
        named = list(_named(word))
        files = [(path, name) for path, name in named if leave_out.resolve() not in path.resolve().parents]
        if named and not files:
            raise ValueError(
                f"{word}: all its images lie in {leave_out}, where the results go; name another folder for them"
            )
        if not files:
            raise ValueError(f"{word}: no images here ({', '.join(IMAGE_SUFFIXES)}); a video is named by its own path")
        for path, name in files:
            other = found.setdefault(name, path)
            if other.resolve() != path.resolve():
                raise ValueError(
                    f"{other} and {path} would both become {name}.png; give them in two calls, or the folder above "
                    f"them, which keeps their paths apart"
                )
    files = [ImageFile(path, name) for name, path in found.items()]
    video = next((file.path for file in files if file.is_video), None)
    if video is not None and importlib.util.find_spec("av") is None:
        raise ValueError(f'{video}: videos need PyAV, which is not installed: pip install -e ".[video]"')
    return files


def _named(word: str) -> Iterator[tuple[Path, str]]:
    """(path, name) of each file that one word of the command line means."""
    path, known = Path(word), (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    if path.is_dir():
        for folder, name in files_below(path):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                file = Path(folder, name)
                yield file, written_alike(file.relative_to(path).with_suffix("").as_posix())
    elif path.exists():
        if path.suffix.lower() not in known:
            raise ValueError(f"{word} is neither an image nor a video by its name; these are: {', '.join(known)}")
        yield path, written_alike(path.stem)
    elif glob.has_magic(word):
        fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        for match in sorted(Path(match) for match in glob.glob(word, recursive=True)):
            if match.is_file() and match.suffix.lower() in known:
                yield match, written_alike(match.relative_to(fixed).with_suffix("").as_posix())
    else:
        raise FileNotFoundError(f"there is no file or folder {word}")


def frames(file: ImageFile, max_pixels: int = MAX_PIXELS) -> Iterator[Picture | Unreadable]:
    """What a file shows, upright by its EXIF orientation: one picture, or each frame as <name>/000000, 000001, ..."""
    count = 0
    try:
        for pixels, alone in _video_frames(file.path) if file.is_video else _image_frames(file.path, max_pixels):
            yield Picture(file.name if alone else f"{file.name}/{count:06d}", pixels)
            count += 1
    except UNDECODABLE as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        yield Unreadable(file.path, reason + (f" (after {count} frames)" if count else ""))
    else:
        if not count:
            yield Unreadable(file.path, "holds no frame")


def _image_frames(path: Path, max_pixels: int) -> Iterator[tuple[np.ndarray, bool]]:
    """((H, W, 3) uint8, whether it is the only one) of an image or each frame of an animation."""
    with open_image(path, max_pixels) as image:
        shown = pages(image)
        for index in shown:
            image.seek(index)
            refuse_large(image, max_pixels)
            yield np.asarray(as_rgb(image)), len(shown) == 1


def _video_frames(path: Path) -> Iterator[tuple[np.ndarray, bool]]:
    """((H, W, 3) uint8, False) of each frame of a video."""
    if path.exists() and not path.is_file():  # such as a FIFO, which is waited for without end
        raise ValueError("is no file")
    import av  # for those who have videos

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("there is no video in it")
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24")
                # phones store how the camera was held; degrees counterclockwise
                yield np.ascontiguousarray(np.rot90(pixels, round(getattr(frame, "rotation", 0) / 90))), False
    except av.FFmpegError as error:
        raise ValueError(str(error)) from error


def decode(files: Iterable[ImageFile], threads: int, max_pixels: int = MAX_PIXELS) -> Iterator[Picture | Unreadable]:
    """All frames of all files in their order; threads decode the next images while these are used.

    Args:
        max_pixels: height times width of the largest image that is read.
    """

    def begin(file: ImageFile) -> Iterator[Picture | Unreadable]:
        pictures = frames(file, max_pixels)
        return itertools.chain([next(pictures)], pictures)  # further frames are decoded when it is their turn

    with ThreadPoolExecutor(threads) as pool:
        for pictures in map_ahead(pool, begin, files, 2 * threads):
            yield from pictures


def map_ahead(pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """The function's results in the order of the items, which the pool computes, at most so many ahead of their use."""
    futures: deque[Future[R]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def batches(pictures: Iterable[Picture], batch_size: int) -> Iterator[list[Picture]]:
    """Pictures of one size together, `batch_size` of them where there are as many."""
    waiting: dict[tuple[int, ...], list[Picture]] = {}
    for picture in pictures:
        group = waiting.setdefault(picture.pixels.shape, [])
        group.append(picture)
        if len(group) == batch_size:
            yield waiting.pop(picture.pixels.shape)
        elif sum(map(len, waiting.values())) > 4 * batch_size:  # every image may have a size of its own
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()
