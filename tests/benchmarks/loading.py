"""What a training view costs beyond decoding its files: `python tests/benchmarks/loading.py [--pairs N]`.

1024x2048 PNG images with labels become 512x1024 crops: a data set item and its random view, against reading and
decoding the same two files with Pillow alone, one after the other in one process. Target: ratio at most 1.3.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import seconds
from PIL import Image

from segkd.datasets._transforms import Transform
from segkd.datasets.folder import Folder
from segkd.datasets.synthetic import Synthetic

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


def main() -> None:
    parser = argparse.ArgumentParser(description="What a training view costs beyond decoding its files.")
    parser.add_argument("--pairs", type=int, default=40, help="timed views of each arm")
    parser.add_argument("--images", type=int, default=4, help="different files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, options.images)
        dataset, transform = Folder(name, "train", class_names=CLASSES), Transform((512, 1024))
        size = statistics.mean(path.stat().st_size for path in (folder / "train/images").iterdir()) / 2**20
        ours, decoding = [], []
        for turn in range(options.images + options.pairs):
            index = turn % options.images
            decoding.append(seconds(lambda: [Image.open(path).load() for path in dataset.files[index]])[0])
            ours.append(seconds(lambda: transform(*dataset[index], np.random.default_rng((0, turn))))[0])
    ours, decoding = ours[options.images :], decoding[options.images :]  # by then each file has been read once
    ratio = statistics.median(a / b for a, b in zip(ours, decoding))
    print(f"{len(ours)} views of 1024x2048 PNGs of {size:.1f} MiB, milliseconds (median)")
    print(f"{'item + view':>12}{'decoding':>12}{'ratio':>8}  target")
    print(f"{1000 * statistics.median(ours):12.1f}{1000 * statistics.median(decoding):12.1f}{ratio:8.3f}  1.3")


if __name__ == "__main__":
    main()
