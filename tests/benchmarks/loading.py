"""What a training view costs beside decoding its files: `python tests/benchmarks/loading.py [--camvid FOLDER]`.

1024x2048 PNG images with labels become 512x1024 crops, one after the other in one process: a data set item and its
random view, the same view of pixels that are kept (data.cache: disk), and reading and decoding the two files with
Pillow alone. Processor time, all three in turn; ratios are medians over the views. Targets: item + view at most 1.3 of
decoding; a kept view at most 0.35 of one that is not, and 3 times as fast as decoding.

With a folder of CamVid: processor time of the epochs of its 367 images, of which the first one keeps the pixels.

Measured on one core of an AMD EPYC, Pillow 13: decoding 56 ms, item + view 65 ms (1.15 of it), kept 7.7 ms (0.12 of
item + view, 0.13 of decoding). CamVid: 1.3 s an epoch without; kept 1.9 s in the first epoch and 0.7 s (0.56) from the
second on, where the rest is the resizing of the views themselves.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import seconds
from PIL import Image

from segkd.datasets._transforms import Transform
from segkd.datasets.camvid import CamVid
from segkd.datasets.folder import Folder
from segkd.datasets.synthetic import Synthetic
from segkd.runner.loading.kept_pixels import SETTLED, KeptPixels

CLASSES = Synthetic.class_names


def write_files(folder: Path, count: int) -> None:
    """Drawn scenes at the size of Cityscapes; sensor noise gives the PNGs a photograph's size (about 2.3 MB there)."""
    scenes = Synthetic(size=(1024, 2048), length=count)
    for kind in ("images", "labels"):
        (folder / "train" / kind).mkdir(parents=True)
    for index in range(count):
        image, target = scenes[index]
        # halves the noise: the drawn scenes have more than a camera
        small = image.resize((1024, 512), Image.Resampling.BOX)
        smooth = np.asarray(small.resize((2048, 1024), Image.Resampling.BICUBIC), dtype=np.int16)
        noise = np.random.default_rng(index).integers(-1, 2, smooth.shape)
        Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(folder / "train/images" / f"{index}.png")
        target.save(folder / "train/labels" / f"{index}.png")
    time.sleep(SETTLED)  # files younger than that are not kept


def compare_views(folder: Path, images: int, pairs: int) -> None:
    """The three arms in turn, on the files of `write_files`."""
    write_files(folder, images)
    dataset, transform = Folder(str(folder), "train", class_names=CLASSES), Transform((512, 1024))
    kept = KeptPixels(dataset, folder / "kept", "train")
    size = statistics.mean(path.stat().st_size for path in (folder / "train/images").iterdir()) / 2**20
    arms: dict[str, list[float]] = {"decoding": [], "item + view": [], "kept": []}
    for turn in range(images + pairs):
        index = turn % images
        steps = (
            lambda: [Image.open(path).load() for path in dataset.files[index]],
            lambda: transform(*dataset[index], np.random.default_rng((0, turn))),
            lambda: transform(*kept[index], np.random.default_rng((0, turn))),
        )
        for times, step in zip(arms.values(), steps):
            times.append(seconds(step)[1])
    decoding, ours, read = (times[images:] for times in arms.values())  # by then each file has been read once
    ratios = {
        "item + view / decoding": (ours, decoding, 1.3),
        "kept / item + view": (read, ours, 0.35),
        "kept / decoding": (read, decoding, 1 / 3),
    }
    print(f"{pairs} views of 1024x2048 PNGs of {size:.1f} MiB, milliseconds of processor time (median)")
    for name, times in arms.items():
        print(f"{name:24}{1000 * statistics.median(times[images:]):8.1f}")
    for name, (over, under, target) in ratios.items():
        print(f"{name:24}{statistics.median(a / b for a, b in zip(over, under)):8.3f}  target {target:.2f}")


def compare_epochs(root: str, folder: Path, epochs: int) -> None:
    """Epochs of views of CamVid without and with kept pixels, in turn."""
    dataset, transform = CamVid(root, "train"), Transform((360, 480))
    kept = KeptPixels(dataset, folder, "camvid")

    def pass_over(images, epoch: int) -> None:
        for index in range(len(dataset)):
            transform(*images[index], np.random.default_rng((0, epoch, index)))

    print(f"epochs of CamVid's {len(dataset)} images in 360x480 crops, seconds of processor time")
    print(f"{'epoch':>6}{'without':>10}{'kept':>8}{'ratio':>8}")
    for epoch in range(epochs):
        without, read = (seconds(lambda: pass_over(images, epoch))[1] for images in (dataset, kept))
        print(f"{epoch:6}{without:10.2f}{read:8.2f}{read / without:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What a training view costs beside decoding its files.")
    parser.add_argument("--pairs", type=int, default=40, help="timed views of each arm")
    parser.add_argument("--images", type=int, default=4, help="different files")
    parser.add_argument("--camvid", help="folder of CamVid, for whole epochs")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        compare_views(Path(name), options.images, options.pairs)
        if options.camvid:
            compare_epochs(options.camvid, Path(name) / "kept", options.epochs)


if __name__ == "__main__":
    main()
