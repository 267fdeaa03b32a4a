"""Maps inside a network whose code is not ours: what a probe image shows of them, and how a forward gives them."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

# path of a submodule, and which end of it is watched
Tap = tuple[str, Literal["input", "output"]]

STRIDES = (1, 2, 4, 8, 16, 32)
PROBES = ((64, 96), (96, 128))  # sizes of images that show it; not square, so that (B, C, h, w) and (B, h, w, C) differ
MODULE = "module:"  # what names a part of a network by its path, as a feature


@dataclass(frozen=True)
class Form:
    """How a tensor is a map: its layout, channels and stride, and how many tokens stand before those of the patches."""

    layout: Literal["channels first", "channels last", "tokens"]
    channels: int
    stride: int
    prefix: int = 0


def grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(h, w) of a map at a stride, the last cells cut off by the image's edge counted whole."""
    return -(-size[0] // stride), -(-size[1] // stride)


def form_of(tensor: object, size: tuple[int, int], patch: int | None) -> Form | None:
    """What kind of map a tensor of one image is; None if it is none, such as a vector or a list of queries.

    Args:
        size: (H, W) of the image, best not square: the two layouts with four dimensions are told apart by it.
        patch: side of a plain ViT's patches in pixels; only such a network has tokens that are no patches.
    """
    if not isinstance(tensor, Tensor) or tensor.ndim not in (3, 4) or tensor.shape[0] != 1:
        return None
    strides = STRIDES if patch is None else tuple(dict.fromkeys((patch, *STRIDES, 2 * patch)))
    for stride in strides:
        cells = grid(size, stride)
        if tensor.ndim == 4:
            if tuple(tensor.shape[2:]) == cells:
                return Form("channels first", tensor.shape[1], stride)
            if tuple(tensor.shape[1:3]) == cells:
                return Form("channels last", tensor.shape[3], stride)
        else:
            extra = tensor.shape[1] - cells[0] * cells[1]
            if extra == 0 or (extra > 0 and stride == patch):
                return Form("tokens", tensor.shape[2], stride, extra)
    return None


def as_feature(tensor: Tensor, form: Form, size: tuple[int, int]) -> Tensor:
    """A seen tensor as (B, C, h, w); `size`: (H, W) of the image the network has read."""
    if form.layout == "channels last":
        tensor = tensor.permute(0, 3, 1, 2)  # (B, h, w, C) -> (B, C, h, w)
    elif form.layout == "tokens":
        # (B, prefix + h * w, C) -> (B, C, h, w)
        tensor = tensor[:, form.prefix :].unflatten(1, grid(size, form.stride)).permute(0, 3, 1, 2)
    return tensor


def cropped(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Maps of a padded image cut to the cells that show the image itself, of `size`."""
    # others are cut to what they are: a graph traced for any size must not ask whether it is padded
    height, width = grid(size, stride)
    return maps[..., :height, :width]


def before_classifier(network: nn.Module, num_classes: int) -> Tap | None:
    """Where what a network's classifier reads is seen: before its last convolution to K channels, not the auxiliary."""
    paths = [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.out_channels == num_classes and "auxiliary" not in path
    ]
    # some heads create their classifier before layers that may have K channels too
    named = [path for path in paths if "classifier" in path]
    return ((named or paths)[-1], "input") if paths else None


@contextlib.contextmanager
def watched(network: nn.Module, taps: dict[str, Tap], copied: Collection[str] = ()) -> Iterator[dict[str, object]]:
    """Within it, every forward of the network leaves what the taps see in the given dict; the last call counts.

    Args:
        taps: name -> where it is seen.
        copied: names of those that a later module overwrites, such as an activation in place.
    """
    seen: dict[str, object] = {}

    def watch(name: str, side: str) -> Callable:
        def look(module: nn.Module, inputs: tuple, output: object) -> None:
            value = inputs[0] if side == "input" else output
            # modules of transformers often give a tuple or a dict of outputs whose first is the map
            if isinstance(value, dict):
                value = tuple(value.values())
            value = next(iter(value), None) if isinstance(value, (tuple, list)) else value
            seen[name] = value.clone() if name in copied and isinstance(value, Tensor) else value

        return look

    handles = [
        network.get_submodule(path).register_forward_hook(watch(name, side)) for name, (path, side) in taps.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def as_in_inference(network: nn.Module) -> Iterator[None]:
    """Eval mode for a look at a network, its modes and torch's generator as before afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    with torch.random.fork_rng(devices=[]):
        network.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def reached(outputs: list[Tensor]) -> set[nn.Parameter]:
    """The parameters some output depends on, by autograd's graph: no gradient is computed."""
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    visited, found = set(stack), set()
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):
            found.add(node.variable)
        for following, _ in node.next_functions:
            if following is not None and following not in visited:
                visited.add(following)
                stack.append(following)
    return found
