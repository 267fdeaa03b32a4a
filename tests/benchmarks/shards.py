"""What a million images in tar files cost before the first one is there: `python tests/benchmarks/shards.py`.

1000 shards of 1000 JPEG images (16x16, so that nothing is hidden by decoding), which are one file by a thousand names,
each measured in a process of its own: listing the shards and drawing the first 64 images; drawing 64 images in the
middle of the sixth epoch with the notes on all shards, and without any; and the memory that 100,000 further samples
take. Then reading: processor time of an image out of a shard and of the same file by itself. Targets: the first images
within 5 s; memory that does not grow with the images (below 1 byte for each); reading at most 1.3 of a file's.

Measured on one core of an AMD EPYC, on a local disk, other work beside it: the first images within 0.4 s and 4.3 MiB, as
much as for 10,000 images; in the middle of the sixth epoch 0.5 s with the notes, 63 s without (the headers of all shards,
63 us an image; 4.4 MiB); 0.3 MiB for 100,000 samples more. An image of 375x500 out of a shard 1.44 ms, by itself 1.28 ms
(1.13 of it).
"""

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import in_child, peak, seconds
from PIL import Image

from segkd.datasets._files import read_image
from segkd.runner.loading.shards import Shards

SIZE = (16, 16)


def write_shards(folder: Path, shards: int, images: int, size: tuple[int, int]) -> None:
    """A tar file of so many images and further names for it; and one image as a file."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(content, "JPEG")
    (folder / "one.jpg").write_bytes(content.getvalue())
    with tarfile.open(folder / "000000.tar", "w") as shard:
        for number in range(images):
            member = tarfile.TarInfo(f"{number:08d}.jpg")
            member.size = len(content.getvalue())
            shard.addfile(member, io.BytesIO(content.getvalue()))
    for number in range(1, shards):
        os.link(folder / "000000.tar", folder / f"{number:06d}.tar")


def opened(folder: Path) -> Shards:
    """The shards, as a recipe opens them."""
    return Shards(str(folder / "*.tar"), folder / "notes", 4096)


def start(folder: Path, position: int) -> dict[str, float]:
    """Seconds and MiB until 64 images are drawn and read from a position on, and MiB of drawing 100,000 more."""
    opened(folder)  # imports are not to count
    found = {}

    def first() -> None:
        found["dataset"] = dataset = opened(folder)
        for _, index in dataset.samples(range(position, position + 64), 0):
            dataset[index]

    begin = time.perf_counter()
    memory = peak(first)
    taken = time.perf_counter() - begin
    dataset = found["dataset"]

    def further() -> None:
        for step in range(position // 64, (position + 100_000) // 64):
            dataset.samples(range(step * 64, step * 64 + 64), 0)

    return {"seconds": taken, "memory": memory, "further": peak(further)}


def compare_reading(folder: Path, count: int) -> tuple[float, float]:
    """Processor milliseconds of an image out of a shard, and of the same file by itself: medians over `count`."""
    dataset = opened(folder)
    path = str(folder / "one.jpg")
    taken = []
    for _, index in dataset.samples(range(count), 0):
        taken.append((seconds(lambda: dataset[index])[1], seconds(lambda: read_image(path))[1]))
    return tuple(1000 * np.median(taken, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000, help="in each shard")
    parser.add_argument("--start", nargs=2, metavar=("FOLDER", "POSITION"), help="what a child process measures")
    options = parser.parse_args()
    if options.start:
        print(json.dumps(start(Path(options.start[0]), int(options.start[1]))))
        return
    for shards in (max(options.shards // 100, 1), options.shards):
        total = shards * options.images
        with tempfile.TemporaryDirectory() as folder:
            write_shards(Path(folder), shards, options.images, SIZE)
            for title, position in (
                ("start", 0),
                ("sixth epoch without notes", int(5.5 * total)),
                ("with", int(5.5 * total)),
            ):
                told = in_child("--start", folder, str(position))
                print(
                    f"{total} images, {title}: {told['seconds']:.2f} s, {told['memory']:.1f} MiB, and "
                    f"{told['further']:.1f} MiB for 100,000 samples more"
                )
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), 4, 250, (375, 500))
        shard, file = compare_reading(Path(folder), 300)
        print(f"an image of 375x500 out of a shard {shard:.2f} ms, by itself {file:.2f} ms: {shard / file:.2f} of it")


if __name__ == "__main__":
    main()
