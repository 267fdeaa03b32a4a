"""Class scores of whole images at label size: one pass, halves or sliding windows, several scales, mirrored or not."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models._prediction import resize
from segkd.runner.recipe.ranges import SCALES, are_within

Size = tuple[int, int]  # height and width in pixels
AT_ONCE = 2**21  # scores resized together where only the largest one of each pixel is kept


@torch.no_grad()
def predict(
    network: nn.Module,
    images: Tensor,
    size: Size,
    *,
    mode: Literal["whole", "slide", "halves"] = "whole",
    window: Size | None = None,
    stride: Size | None = None,
    smaller: Literal["pad", "shrink"] = "pad",
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    average: Literal["logits", "softmax"] = "logits",
    resizes: Literal[1, 2] = 1,
    align_corners: bool | None = None,
    classes: bool = False,
) -> Tensor:
    """Scores of a batch of equally sized images, or the classes they choose.

    `whole` runs the network once per view and resizes its logits to `size`. `halves` runs it on the left and the
    right half and puts their logits side by side before the resize, as CIRKD does with SegFormer. `slide` lays
    ceil((H - window) / stride) + 1 windows along each side, the last one shifted inside, resizes each window's
    logits to the window, averages them where windows overlap, and resizes the result to `size`. Every resize of
    scores is bilinear. Views (scales, flips) are averaged.

    Args:
        network: forward(images) -> Prediction; put it in eval mode first. Its `normalize` gives the mean colour; a
            network without one is padded with 0.
        images: (B, 3, H, W) uint8 RGB, or whatever float range the network's normalisation expects.
        size: height and width of the result, usually the label's.
        window, stride: height and width in pixels of the scaled image, for `slide`; the stride defaults to
            ceil(2/3 of the window), as TriKD uses it.
        smaller: an image smaller than the window is padded evenly on both sides with the network's mean colour, zero
            after its normalisation; or the window is shrunk to it.
        scales: factors on the image size. The images are resized bilinearly, without antialiasing.
        flip: average with the mirrored image's scores.
        average: what windows and views are averaged as: raw logits, or probabilities.
        resizes: of the logits of whole images: to `size` at once, or to the view's size and then to `size`.
        align_corners: of every resize of scores; None takes the network family's own.
        classes: ask for the class of the largest score of each pixel. Logits of a single view of whole images are then
            resized a few classes at a time: the scores of all classes at `size` would take most of the memory.

    Returns:
        (B, K, *size) float32 scores, or with `classes` their argmax, (B, *size) int64.

    Raises:
        ValueError: `slide` without a window, or a stride that is not in 1..window (gaps); no scales, or such as make
            no image.
    """
    if not scales or not are_within(scales, SCALES):
        allowed = f"from {SCALES.ge} to {SCALES.le}"
        raise ValueError(f"scales {list(scales)}: factors on the image size are {allowed}, at least one")
    if mode == "slide":
        window, stride = _window_and_stride(window, stride)
    if classes and mode != "slide" and average == "logits" and len(scales) == 1 and not flip:
        view = _scaled(images, scales[0])
        logits, aligned = _logits(network, align_corners, mode == "halves", view)
        return _largest(logits, _sizes(view, size, resizes), aligned)
    views = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    total = None
    score = functools.partial(_scores, network, average, align_corners, mode == "halves")
    for scale, mirrored in views:
        view = _scaled(images, scale)
        view = view.flip(-1) if mirrored else view
        if mode == "slide":
            inside = tuple(map(min, window, view.shape[-2:])) if smaller == "shrink" else window
            result = _slide(score, network, view, size, inside, stride)
        else:
            result = score(view, _sizes(view, size, resizes))[0]
        result = result.flip(-1) if mirrored else result
        if len(views) == 1:
            return result.argmax(1) if classes else result
        # in place: at 150 classes one score map of a large image takes gigabytes
        total = result.clone() if total is None else total.add_(result)
    total.div_(len(views))
    return total.argmax(1) if classes else total


def _sizes(view: Tensor, size: Size, resizes: int) -> list[Size]:
    """The sizes that logits of a view of whole images are brought to in turn."""
    return [tuple(view.shape[-2:]), tuple(size)] if resizes == 2 else [tuple(size)]


def _scores(
    network: nn.Module, average: str, align_corners: bool | None, halves: bool, images: Tensor, sizes: list[Size]
) -> tuple[Tensor, bool]:
    """(B, K, *sizes[-1]) float32 scores of one forward pass, and how they were resized."""
    logits, aligned = _logits(network, align_corners, halves, images)
    scores = _resized(logits, sizes, aligned)
    return (scores.softmax(1) if average == "softmax" else scores), aligned


def _logits(network: nn.Module, align_corners: bool | None, halves: bool, images: Tensor) -> tuple[Tensor, bool]:
    """(B, K, h, w) float32 logits of one forward pass, and how they are to be resized.

    `halves` makes two passes of it, one for each half of the image.
    """
    middle = images.shape[-1] // 2
    parts = (images[..., :middle], images[..., middle:]) if halves else (images,)
    predictions = [network(part) for part in parts]
    aligned = predictions[0].align_corners if align_corners is None else align_corners
    return torch.cat([prediction.logits.float() for prediction in predictions], dim=-1), aligned


def _resized(scores: Tensor, sizes: list[Size], aligned: bool) -> Tensor:
    """Scores resized to each size in turn."""
    for size in sizes:
        if tuple(scores.shape[-2:]) != size:
            # torch rounds otherwise in channels_last, which single classes do not have
            scores = resize(scores.contiguous(), size, aligned)
    return scores


def _largest(logits: Tensor, sizes: list[Size], aligned: bool) -> Tensor:
    """(B, *sizes[-1]) int64, the argmax of the logits resized to each size in turn."""
    if all(tuple(logits.shape[-2:]) == size for size in sizes):
        return logits.argmax(1)
    at_once = max(1, AT_ONCE // (len(logits) * max(map(math.prod, sizes))))  # classes
    batch_and_size = len(logits), *sizes[-1]
    best = logits.new_full(batch_and_size, -torch.inf)
    chosen = torch.zeros(batch_and_size, dtype=torch.int16, device=logits.device)  # a quarter of int64's memory
    for first, some in zip(itertools.count(0, at_once), logits.split(at_once, dim=1)):
        scores = _resized(some, sizes, aligned)
        values, classes = scores.max(1) if at_once > 1 else (scores[:, 0], 0)
        # of equal scores the first class's wins, as in argmax
        chosen = torch.where(values > best, classes + first, chosen).to(torch.int16)
        torch.maximum(best, values, out=best)
        del scores, values, classes  # before the next ones need their room
    return chosen.long()


def _slide(
    score: Callable[[Tensor, list[Size]], tuple[Tensor, bool]],
    network: nn.Module,
    images: Tensor,
    size: Size,
    window: Size,
    stride: Size,
) -> Tensor:
    height, width = images.shape[-2:]
    images, top, left = _padded(network, images, window)
    rows, columns = (_starts(*lengths) for lengths in zip(images.shape[-2:], window, stride, strict=True))
    total, aligned = None, False
    counts = torch.zeros(images.shape[-2:], device=images.device)
    for y, x in itertools.product(rows, columns):
        area = (..., slice(y, y + window[0]), slice(x, x + window[1]))
        scores, aligned = score(images[area], [window])
        if total is None:
            total = scores.new_zeros(*scores.shape[:2], *images.shape[-2:])
        total[area] += scores
        counts[area] += 1
    total.div_(counts)
    return resize(total[:, :, top : top + height, left : left + width], size, aligned)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side; the last window ends at the border."""
    count = math.ceil((length - window) / stride) + 1
    return [min(i * stride, length - window) for i in range(count)]


def _window_and_stride(window: Size | None, stride: Size | None) -> tuple[Size, Size]:
    if window is None:
        raise ValueError("evaluate: mode slide needs a window, height and width in pixels")
    # -(-a // b) is a / b rounded up
    stride = stride or tuple(-(-2 * side // 3) for side in window)
    if any(not 1 <= step <= side for step, side in zip(stride, window, strict=True)):
        raise ValueError(f"evaluate: stride {tuple(stride)} must lie in 1..window {tuple(window)}, or it leaves gaps")
    return tuple(window), tuple(stride)


def _padded(network: nn.Module, images: Tensor, window: Size) -> tuple[Tensor, int, int]:
    """The images at least as large as the window, and where the original begins (top, left)."""
    rows, columns = (max(0, side - length) for side, length in zip(window, images.shape[-2:], strict=True))
    if not rows and not columns:
        return images, 0, 0
    top, left = rows // 2, columns // 2
    around = (left, columns - left, top, rows - top)
    mean = network.normalize.mean  # (1, 3, 1, 1)
    if network.normalize.order == "bgr":  # the images are RGB
        mean = mean.flip(1)
    # the mean colour is not a whole grey level, so a padded batch travels as float
    return F.pad(images - mean, around) + mean, top, left


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = tuple(max(1, round(side * scale)) for side in images.shape[-2:])
    images = images if images.is_floating_point() else images.float()
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
