"""From the arrays of a case to what a loss is built with and reads, and back: its value and the gradients."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from segkd.losses._task import Features, Task

Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]

# some originals add the smallest float32 step to a pixel count; it shows at these tests' sizes, not at real ones
EPSILON = torch.finfo(torch.float32).eps


def tensors(arrays: Arrays) -> Tensors:
    """Inputs by name; floating ones are leaves that collect a gradient."""
    inputs = named(arrays, "input")
    return {name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in inputs.items()}


def states(arrays: Arrays) -> Tensors:
    return named(arrays, "state")


def named(arrays: Arrays, kind: str) -> Tensors:
    return {k.removeprefix(f"{kind}:"): torch.from_numpy(x) for k, x in arrays.items() if k.startswith(f"{kind}:")}


def restore(
    module: nn.Module, state: dict[str, Tensor], prefix: str = "", names: dict[str, str] | None = None
) -> dict[str, Tensor]:
    """Copies the recorded entries into a module; returns its parameters and buffers under their recorded names.

    Every parameter must be recorded; a buffer that is not keeps its value.

    Args:
        prefix: what all recorded names begin with.
        names: the beginning of a name in our module -> that of the original's name.
    """
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    held = {prefix + recorded_name(key, names or {}): entry for key, entry in own.items()}
    for name, entry in held.items():
        assert name in state or not isinstance(entry, nn.Parameter), f"no state of {name} is recorded"
        if name in state:
            assert entry.shape == state[name].shape, f"{name} is {tuple(state[name].shape)}, ours {tuple(entry.shape)}"
            entry.data.copy_(state[name])
    return held


def recorded_name(key: str, names: dict[str, str]) -> str:
    begins = [begin for begin in names if f"{key}.".startswith(f"{begin}.")]
    longest = max(begins, key=len, default="")
    return names.get(longest, longest) + key.removeprefix(longest)


@contextlib.contextmanager
def precision(dtype: torch.dtype = torch.float64) -> Iterator[None]:
    """Weights and constants that are made inside have this precision, that of the recorded numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(kind: type[nn.Module], task: Task, **options) -> nn.Module:
    """The loss in float64."""
    with precision():
        return kind(task, **options)


def prediction(
    logits: Tensor | None = None, align_corners: bool = False, aux: Tensor | None = None, **features: Tensor
) -> SimpleNamespace:
    return SimpleNamespace(logits=logits, align_corners=align_corners, aux=aux, features=features)


def both(inputs: Tensors, kind: str, align_corners: bool = False) -> list[SimpleNamespace]:
    """Student's and teacher's prediction of `<owner>_<kind>`: their scores, or else a feature called `map`."""
    maps = [inputs[f"{owner}_{kind}".rstrip("_")] for owner in ("student", "teacher")]
    if kind == "logits":
        return [prediction(logits, align_corners) for logits in maps]
    return [prediction(None, align_corners, map=feature) for feature in maps]


def task_of(*predictions: SimpleNamespace, num_classes: int | None = None, ignore_index: int = 255) -> Task:
    """The task that fits recorded predictions, the student's first; without scores it has num_classes, or 2."""
    owners = zip(("student", "teacher"), predictions, strict=False)
    tables = [Features(owner, {key: x.shape[1] for key, x in seen.features.items()}, {}) for owner, seen in owners]
    logits = predictions[0].logits
    return Task(num_classes or (2 if logits is None else logits.shape[1]), ignore_index, *tables)


def on_maps(kind: type[nn.Module], inputs: Tensors, weight: float = 1.0, **options) -> Arrays:
    """A loss that reads no labels and has no weights, between the recorded features."""
    pair = both(inputs, "feature")
    return results(weight * build(kind, task_of(*pair), feature="map", **options)(*pair, None), inputs)


def results(loss: Tensor, leaves: Tensors, **others: Tensor) -> Arrays:
    """The value and its gradient with respect to everything that collects one."""
    leaves = {name: tensor for name, tensor in leaves.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {"loss": loss, **others}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        found[f"grad:{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return plain(found)


def plain(found: Tensors) -> Arrays:
    return {name: value.detach().numpy() for name, value in found.items()}
