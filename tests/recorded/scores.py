"""Golden cases of metrics, sliding windows and schedules: from their names and params to the files in runner/."""

from fractions import Fraction
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from recorded.arrays import Arrays, Tensors
from torch import Tensor

from segkd.datasets._resample import fit_corners
from segkd.models._network import Network
from segkd.runner.building.schedule import learning_rate
from segkd.runner.recipe.term import Ramp
from segkd.runner.scoring.inference import predict
from segkd.runner.scoring.metrics.confusion import confusion_matrix, scores

# loss name -> what precedes the numbers of predictions and labels, how classes that do not occur count
METRICS = {
    "metric": ("logits_", "target_", "zero"),
    "metrics": ("prediction", "target", "skip"),
    "miou": ("pred", "label", "zero"),
    "mmseg_iou": ("pred_", "label_", "skip"),
}


def metric(prediction: str, target: str, absent: str, params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """Every value under the names of all originals, over all images of a case."""
    num_classes = params["num_classes"] if "num_classes" in params else params["classes"]
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for name in inputs:
        if name.startswith(target):
            guess = inputs[prediction + name.removeprefix(target)]
            guess = guess.argmax(1) if guess.is_floating_point() else guess  # logits or classes
            # AICSD leaves out every label outside 0..C-1 and names none
            matrix += confusion_matrix(guess, inputs[name], num_classes, params.get("ignore_index", -1))
    correct, predicted, labelled = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    union, result = predicted + labelled - correct, scores(matrix, absent=absent)
    names = ("miou", "pixel_accuracy", "class_accuracy", "fwiou")
    return {name: result[name] for name in names} | {
        "confusion": matrix,
        "total_label": matrix.sum(),
        **dict.fromkeys(("total_inter", "intersection", "area_intersect"), correct),
        **dict.fromkeys(("total_union", "union", "area_union"), union),
        "area_pred": predicted,
        "area_label": labelled,
        "iou": np.array(result["iou_per_class"]),
        "acc": np.array(result["accuracy_per_class"]),
        "mIoU": result["miou"],
        "mAcc": result["class_accuracy"],
        **dict.fromkeys(("pixel_acc_true", "aAcc"), result["pixel_accuracy"]),
    }


class Convolution(Network):
    """The recorded stand-in for a network: one zero-padded 3x3 convolution of the image as it is."""

    def __init__(self, weight: Tensor):
        super().__init__(len(weight), align_corners=True, normalize="none")
        self.weight = weight

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        return {"logits": F.conv2d(x, self.weight, padding=1)}


def slide(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    image = torch.from_numpy(arrays["input:image"])
    window = tuple(params["crop"])
    rate = Fraction(params["stride_rate"])
    stride = tuple(-(-side * rate.numerator // rate.denominator) for side in window)
    size = tuple(image.shape[-2:])
    if params["base_size"]:
        image = fit_corners(image, (params["base_size"], params["base_size"]))
    network = Convolution(torch.from_numpy(arrays["state:conv.weight"]))
    return {"logits": predict(network, image, size, mode="slide", window=window, stride=stride)[0].numpy()}


def rates(counts: np.ndarray, **curve) -> np.ndarray:
    """The rate at each of these iterations."""
    return np.array([learning_rate(int(i), **curve) for i in counts])


def lr_schedule(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """CIRKD's and DIST's single curve, or AICSD's curves counted in epochs for one or three parameter groups."""
    if "mode" in params:
        return aicsd_lr(params, arrays)
    first = 1 if params["iteration"] == "1-based" else 0
    curve = {"lr": params["base_lr"], "iterations": params["max_iterations"], "power": params["power"]}
    return {"lr": rates(arrays["input:iteration"] - first, **curve, min_lr=params.get("floor", 0.0))}


def aicsd_lr(params: dict, arrays: Arrays) -> Arrays:
    length = params["iters_per_epoch"]
    found = rates(
        arrays["input:epoch"] * length + arrays["input:iteration_in_epoch"],
        lr=params["base_lr"],
        iterations=params["epochs"] * length,
        name={"cos": "cosine"}.get(params["mode"], params["mode"]),
        power=params["power"],
        warmup=params["warmup_epochs"] * length,
        drop_every=params["lr_step"] * length or None,
    )
    return {"lr_single_group": found, "lr_three_groups": found[:, None] * np.array([1.0, 10.0, 10.0])}


def poly_lr(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """mmcv's curve, or TriKD's three networks of which the ViT is never updated."""
    if "max_iters" in params:
        curve = {"lr": params["base_lr"], "iterations": params["max_iters"], "power": params["power"]}
        return {"lr": rates(arrays["input:iterations"], **curve, min_lr=params["min_lr"])}
    total = params["epochs"] * params["iters_per_epoch"]
    curve = {"lr": params["lr"], "iterations": total, "power": params["power"], "lag": 1}
    poly, constant = (rates(np.arange(total), **curve, name=name) for name in ("poly", "constant"))
    # columns: encoder and rest of the tiny network, the CNN, the ViT
    factors = np.array([1.0, params["lr_multi"]])
    return {"lr_used": np.concatenate([curve[:, None] * factors for curve in (poly, poly, constant)], axis=1)}


def alw_alpha(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """The weight is constant inside an epoch: asked for at the last iteration of epochs of some length."""
    length, epochs = 5, params["total_epochs"]
    ramp = Ramp(start=0.0, end=1.0, over=(0, epochs * length), hold=length)
    return {"alpha": np.array([ramp.at(int(epoch) * length + length - 1) for epoch in arrays["input:epoch"]])}


RUNNERS = {
    **{name: partial(metric, *how) for name, how in METRICS.items()},
    "slide_eval": slide,
    "lr_schedule": lr_schedule,
    "poly_lr": poly_lr,
    "alw_alpha": alw_alpha,
}

TOLERANCE = {
    # recorded in float32
    "mmseg_iou": {"relative": 1e-6},
    "slide_eval": {"relative": 1e-5},
}
