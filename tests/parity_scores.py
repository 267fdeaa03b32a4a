"""Golden cases of metrics, sliding windows and schedules: from their names and params to the files in runner/."""

from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models._prediction import Prediction
from segkd.runner.building.schedule import learning_rate
from segkd.runner.recipe.term import Ramp
from segkd.runner.scoring.confusion import Scores, confusion_matrix, scores
from segkd.runner.scoring.inference import predict

Arrays = dict[str, np.ndarray]


def summed_matrix(
    arrays: Arrays, prediction_name: str, target_name: str, num_classes: int, ignore_index: int
) -> Tensor:
    """The confusion matrix over all images of a case, stored as `<name><number>`; float predictions are logits."""
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    numbers = [key.removeprefix(f"input:{target_name}") for key in arrays if key.startswith(f"input:{target_name}")]
    for number in numbers:
        prediction = torch.from_numpy(arrays[f"input:{prediction_name}{number}"])
        if prediction.is_floating_point():
            prediction = prediction.argmax(1)
        target = torch.from_numpy(arrays[f"input:{target_name}{number}"])
        total += confusion_matrix(prediction, target, num_classes, ignore_index)
    return total


def areas(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Intersection, union, predicted and labelled pixels per class."""
    correct, predicted, labelled = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    return correct, predicted + labelled - correct, predicted, labelled


def cirkd_metric(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    matrix = summed_matrix(arrays, "logits_", "target_", params["num_classes"], params["ignore_index"])
    result = scores(matrix, absent="zero")
    correct, union, _, _ = areas(matrix)
    return {
        "total_inter": correct,
        "total_union": union,
        "iou": np.array(result.iou_per_class),
        "miou": result.miou,
        "pixel_acc_true": result.pixel_accuracy,
        "total_label": matrix.sum(),
    }


def aicsd_metrics(case: dict, arrays: Arrays) -> Arrays:
    # every label outside 0..C-1 is left out, so none has to be named
    matrix = summed_matrix(arrays, "prediction", "target", case["params"]["classes"], -1)
    result: Scores = scores(matrix, absent="skip")
    names = ("pixel_accuracy", "class_accuracy", "miou", "fwiou")
    return {"confusion": matrix, **{name: getattr(result, name) for name in names}}


def trikd_miou(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    matrix = summed_matrix(arrays, "pred", "label", params["num_classes"], params["ignore_index"])
    result = scores(matrix, absent="zero")
    correct, union, _, _ = areas(matrix)
    return {"intersection": correct, "union": union, "iou": np.array(result.iou_per_class), "miou": result.miou}


def mmseg_iou(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    matrix = summed_matrix(arrays, "pred_", "label_", params["num_classes"], params["ignore_index"])
    result = scores(matrix, absent="skip")
    names = ("area_intersect", "area_union", "area_pred", "area_label")
    return {
        **dict(zip(names, areas(matrix), strict=True)),
        "iou": np.array(result.iou_per_class),
        "acc": np.array(result.accuracy_per_class),
        "mIoU": result.miou,
        "mAcc": result.class_accuracy,
        "aAcc": result.pixel_accuracy,
    }


class Convolution(nn.Module):
    """The recorded stand-in for a network: one zero-padded 3x3 convolution of the image as it is."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = weight

    def forward(self, images: Tensor) -> Prediction:
        return Prediction(F.conv2d(images, self.weight, padding=1), align_corners=True)


def slide(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    image = torch.from_numpy(arrays["input:image"])
    window = tuple(params["crop"])
    rate = Fraction(params["stride_rate"])
    stride = tuple(-(-side * rate.numerator // rate.denominator) for side in window)
    size = tuple(image.shape[-2:])
    scale = params["base_size"] / max(size) if params["base_size"] else 1.0
    network = Convolution(torch.from_numpy(arrays["state:conv.weight"]))
    return {
        "logits": predict(network, image, size, mode="slide", window=window, stride=stride, scales=(scale,))[0].numpy()
    }


def lr_schedule(case: dict, arrays: Arrays) -> Arrays:
    """CIRKD's and DIST's single curve, or AICSD's curves counted in epochs for one or three parameter groups."""
    params = case["params"]
    if "mode" in params:
        return aicsd_lr(params, arrays)
    first = 1 if params["iteration"] == "1-based" else 0
    rates = [
        learning_rate(
            int(i) - first,
            lr=params["base_lr"],
            iterations=params["max_iterations"],
            power=params["power"],
            min_lr=params.get("floor", 0.0),
        )
        for i in arrays["input:iteration"]
    ]
    return {"lr": np.array(rates)}


def aicsd_lr(params: dict, arrays: Arrays) -> Arrays:
    length = params["iters_per_epoch"]
    iterations = arrays["input:epoch"] * length + arrays["input:iteration_in_epoch"]
    rates = np.array(
        [
            learning_rate(
                int(i),
                lr=params["base_lr"],
                iterations=params["epochs"] * length,
                name={"cos": "cosine"}.get(params["mode"], params["mode"]),
                power=params["power"],
                warmup=params["warmup_epochs"] * length,
                drop_every=params["lr_step"] * length or None,
            )
            for i in iterations
        ]
    )
    return {"lr_single_group": rates, "lr_three_groups": rates[:, None] * np.array([1.0, 10.0, 10.0])}


def poly_lr(case: dict, arrays: Arrays) -> Arrays:
    """mmcv's curve, or TriKD's three networks of which the ViT is never updated."""
    params = case["params"]
    if "max_iters" in params:
        rates = [
            learning_rate(
                int(i),
                lr=params["base_lr"],
                iterations=params["max_iters"],
                power=params["power"],
                min_lr=params["min_lr"],
            )
            for i in arrays["input:iterations"]
        ]
        return {"lr": np.array(rates)}
    total = params["epochs"] * params["iters_per_epoch"]
    curve = {"lr": params["lr"], "iterations": total, "power": params["power"], "lag": 1}
    poly = np.array([learning_rate(t, **curve) for t in range(total)])
    constant = np.array([learning_rate(t, **curve, name="constant") for t in range(total)])
    # columns: encoder and rest of the tiny network, the CNN, the ViT
    factors = np.array([1.0, params["lr_multi"]])
    return {"lr_used": np.concatenate([rates[:, None] * factors for rates in (poly, poly, constant)], axis=1)}


def alw_alpha(case: dict, arrays: Arrays) -> Arrays:
    """The weight is constant inside an epoch: asked for at the last iteration of epochs of some length."""
    length, epochs = 5, case["params"]["total_epochs"]
    ramp = Ramp(start=0.0, end=1.0, over=(0, epochs * length), hold=length)
    return {"alpha": np.array([ramp.at(int(epoch) * length + length - 1) for epoch in arrays["input:epoch"]])}


RUNNERS = {
    "metric": cirkd_metric,
    "metrics": aicsd_metrics,
    "miou": trikd_miou,
    "mmseg_iou": mmseg_iou,
    "slide_eval": slide,
    "lr_schedule": lr_schedule,
    "poly_lr": poly_lr,
    "alw_alpha": alw_alpha,
}

TOLERANCE = {loss: {"relative": 1e-9} for loss in RUNNERS} | {
    # recorded in float32
    "mmseg_iou": {"relative": 1e-6},
    "slide_eval": {"relative": 1e-5},
}
