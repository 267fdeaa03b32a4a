"""Golden cases about data: from the format's names and params to segkd's own parts.

Views are compared after normalising, so the tolerances are one grey level in the units of each case.
"""

import numpy as np
from PIL import Image
from recorded.arrays import Arrays, Tensors

from segkd.datasets import ade20k, camvid, cityscapes, coco_stuff, voc
from segkd.datasets._photometric import Recolor, recolor
from segkd.datasets._resample import short_side_pair
from segkd.datasets._strong import box_mask, cutmix_box
from segkd.datasets._transforms import Draw, Transform, factor_size, side_size

# raw label ids -> train ids
TABLES = {
    "cityscapes": cityscapes.TABLES["labelIds"],
    "camvid": camvid.TABLE,
    "voc": voc.TABLE,
    "ade20k": ade20k.TABLE,
    "coco_stuff_164k": coco_stuff.TABLES[182],
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def normalized(pixels: np.ndarray, params: dict) -> np.ndarray:
    mean, std = (np.array(params.get(name, IMAGENET[name])) for name in ("mean", "std"))
    return ((pixels / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)  # (3, H, W)


def pair(arrays: Arrays) -> tuple[Image.Image, Image.Image]:
    return Image.fromarray(arrays["input:image"]), Image.fromarray(arrays["input:label"])


def grey(value: int) -> tuple[int, int, int]:
    return value, value, value


def data_transform(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """CIRKD: BGR image, factor scale without antialias, crop, mirror; mean subtracted, no std."""
    image = Image.fromarray(np.ascontiguousarray(arrays["input:image_bgr"][..., ::-1]))
    target = Image.fromarray(arrays["input:label_raw"]).point([max(i, 0) for i in TABLES[params["dataset"]]], "L")
    size = image.height, image.width
    mean = np.array(params["mean_bgr"])
    red, green, blue = (round(level) for level in mean[::-1])
    if "draw:scale_step" in arrays:
        factor = 0.5 + int(arrays["draw:scale_step"]) / 10
        corner = int(arrays["draw:h_off"]), int(arrays["draw:w_off"])
        flip = int(arrays["draw:flip_choice"]) == 0
        transform = Transform(tuple(params["crop_h_w"]), resample="opencv", pad_image=(red, green, blue))
        draw = Draw(factor_size(size, factor), corner, factor, flip)
    else:
        transform, draw = Transform(None, resample="opencv"), Draw(size)
    pixels, labels = transform.apply(image, target, draw)
    labels = labels.astype(np.int64)
    labels[labels == 255] = params.get("ignore_index", -1)
    return {"image": (pixels[..., ::-1] - mean).astype(np.float32).transpose(2, 0, 1), "label": labels}


def crop_of(params: dict, arrays: Arrays, scale: str, *, flip: bool, recolor: Recolor = Recolor(), **options):
    """The view of the recorded draws after one side of the image was drawn: `short_side` or `long_side`."""
    image, target = pair(arrays)
    transform = Transform((params["crop_size"], params["crop_size"]), scale=scale, **options)
    size = side_size((image.height, image.width), int(arrays[f"draw:{scale}"]), scale)
    corner = int(arrays["draw:crop_y"]), int(arrays["draw:crop_x"])
    return transform.apply(image, target, Draw(size, corner, flip=flip, recolor=recolor))


def transform_train(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """AICSD: mirror first, short side, padding, crop, blur."""
    radius = float(arrays["draw:blur_radius"]) if float(arrays["draw:blur_uniform"]) < 0.5 else None
    pads = {"pad_image": grey(params.get("image_pad", 0)), "pad_label": params["label_pad"]}
    how = {"flip": float(arrays["draw:flip_uniform"]) < 0.5, "flip_first": True, "recolor": Recolor(blur=radius)}
    pixels, labels = crop_of(params, arrays, "short_side", base_size=params["base_size"], **pads, **how)
    return {"image": normalized(pixels, params), "label": labels.astype(np.float32)}


def transform_val(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """AICSD: image and label resized to a short side."""
    pixels, labels = short_side_pair(*pair(arrays), params["short_side"])
    return {"image": normalized(pixels, params), "label": labels.astype(np.float32)}


def weak_view(params: dict, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    pads = {"pad_image": grey(params.get("pad_image", 0)), "pad_label": params.get("pad_label", 255)}
    return crop_of(params, arrays, "long_side", flip=float(arrays["draw:hflip_u"]) < params.get("hflip_p", 0.5), **pads)


def weak_aug(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """TriKD: long side, padding, crop, mirror."""
    pixels, labels = weak_view(params, arrays)
    return {"image": normalized(pixels, params), "label": labels.astype(np.int64)}


def recorded_box(arrays: Arrays, prefix: str, gate: str, size: tuple[int, int], p: float) -> np.ndarray:
    box = None
    if not float(arrays[f"draw:{prefix}{gate}"]) > p:
        area = float(arrays[f"draw:{prefix}area"])
        attempts = (np.atleast_1d(arrays[f"draw:{prefix}{name}"]) for name in ("ratio", "y", "x"))
        for ratio, top, left in zip(*attempts):
            box = cutmix_box(size, area, float(ratio), int(top), int(left))
            if box is not None:
                break
    return box_mask(size, box)


def strong_aug(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """TriKD's option from UniMatch: a weak view and two strong ones with a CutMix box each."""
    pixels, labels = weak_view(params, arrays)
    ignored = np.where(labels == params.get("pad_label", 254), 255, 0).astype(np.int64)
    computed = {"image_weak": normalized(pixels, params), "ignore_mask": ignored}
    for view in (1, 2):
        prefix = f"draw:s{view}_"
        jitter, order, blur = None, (0, 1, 2, 3), None
        if float(arrays[prefix + "jitter_u"]) < params["jitter_p"]:
            jitter = tuple(arrays[prefix + "jitter_factors"].tolist())
            order = tuple(arrays[prefix + "jitter_order"].tolist())
        if float(arrays[prefix + "blur_u"]) < params["blur_p"]:
            blur = float(arrays[prefix + "blur_sigma"])
        drawn = Recolor(jitter, order, float(arrays[prefix + "gray_u"]) < params["gray_p"], blur)
        computed[f"image_strong{view}"] = normalized(recolor(pixels, drawn), params)
        box = recorded_box(arrays, f"s{view}_cutmix_", "u", labels.shape, params["cutmix_p"])
        computed[f"box{view}"] = box.astype(np.float32)
    return computed


def cutmix(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """One CutMix box."""
    size = (params["size"], params["size"])
    return {"mask": recorded_box(arrays, "", "gate_u", size, params["p"]).astype(np.uint8)}


def cityscapes_label_map(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """The 34 raw ids of Cityscapes."""
    raw = arrays["input:label_ids"]
    train_ids = np.array(cityscapes.TABLES["labelIds"], dtype=np.int64)[np.where(raw < 0, 255, raw)]
    train_ids[train_ids == 255] = params.get("ignore_index", 255)
    return {"train_ids": train_ids}


def class_weights(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """1 / ln(constant + share of the class among all counted pixels): ENet (arXiv 1606.02147), section 5.2; AICSD."""
    counts = np.bincount(arrays["input:target"].reshape(-1), minlength=256)[: params["classes"]]
    return {"class_weights": 1 / np.log(params["constant"] + counts / max(counts.sum(), 1))}


RUNNERS = {
    "data_transform": data_transform,
    "transform_train": transform_train,
    "transform_val": transform_val,
    "weak_aug": weak_aug,
    "strong_aug": strong_aug,
    "cutmix_box": cutmix,
    "cityscapes_label_map": cityscapes_label_map,
    "class_weights": class_weights,
}

# largest absolute difference; labels and masks differ by whole numbers, so any slip shows
GREY_LEVEL = 1 / 255 / min(IMAGENET["std"]) + 1e-4
TOLERANCE = {
    "data_transform": 1 + 1e-3,
    **dict.fromkeys(("transform_train", "transform_val", "weak_aug", "strong_aug"), GREY_LEVEL),
    **dict.fromkeys(("cutmix_box", "cityscapes_label_map"), 0.0),
}
