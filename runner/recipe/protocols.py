"""Protocols: how the published codes make their scores, by name; and how a recipe makes its own, in words.

A protocol fixes fields of the recipe's `evaluate`. Sizes of images and windows belong to a data set, so they are fixed
for those the code was run on; on others, and in all that a protocol does not fix, the recipe says what it wants.
"""

from collections.abc import Iterator

from segkd.runner.recipe.mistakes import Mistake, Origins
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.yaml_file import one_line, value_at

Fields = dict[str, object]

# images and labels as they lie in the data set
NATIVE: Fields = {"fit": None, "short_side": None}
# all published numbers are made of one view; CIRKD and DIST can average the logits of several, and nothing else
ONE_VIEW: Fields = {"scales": [1.0], "flip": False}
# mmsegmentation: the sizes its configurations give as (2048, 1024) and (2048, 512)
FITTED = {"cityscapes": (1024, 2048), "voc": (512, 2048), "ade20k": (512, 2048), "coco_stuff": (512, 2048)}

# evaluate.py of CIRKD and CIRKDv2: whole images at their own size, one bilinear resize of the logits to the label,
# corners aligned, and a mean over all K classes, in which one that never occurs counts 0 (inter / (union + 2e-16))
CIRKD = NATIVE | {"mode": "whole", "resizes": 1, "align_corners": True, "average": "logits", "absent": "zero"}

# mmsegmentation, test_cfg mode whole: the image alone is resized to fit (OpenCV, no antialias), logits go to that size
# and then to the label's by the head's own align_corners; classes in neither labels nor predictions are left out of the
# mean
MMSEG = ONE_VIEW | {
    "mode": "whole", "short_side": None, "fit_corners": False, "resizes": 2, "align_corners": None, "average": "logits",
    "absent": "skip",
}  # fmt: skip

PROTOCOLS: dict[str, Fields] = {
    "cirkd": CIRKD,
    # DIST's evaluation is CIRKD's; its numbers are of val, one scale, not mirrored
    "dist": CIRKD,
    # RMRKD and what else is made with mmsegmentation
    "mmseg": MMSEG,
    # AICSD's FixedResize and Evaluator: image AND label get a short side of 513 (Pillow; labels nearest) and the score
    # is counted at that size, Cityscapes' at about half its own
    "aicsd": ONE_VIEW
    | {"mode": "whole", "fit": None, "resizes": 1, "align_corners": True, "average": "logits", "absent": "skip"},
    # TriKD's test script: the float image is resized with aligned corners, windows every two thirds of their side
    # (rounded up), the last one shifted inside, small images padded evenly with zeros, raw logits averaged where
    # windows overlap; the mean counts absent classes as 0
    "trikd": ONE_VIEW
    | {"mode": "slide", "short_side": None, "fit_corners": True, "stride": None, "smaller": "pad"}
    | {"align_corners": True}
    | {"average": "logits", "absent": "zero"},
    # TSIC on mmsegmentation 1.x: as `mmseg`; on ADE20K in windows, logits averaged, not padded where an image is small
    "tsic": MMSEG,
}

# protocol -> data set -> what it fixes there besides
SIZES: dict[str, dict[str, Fields]] = {
    "mmseg": {dataset: {"fit": size} for dataset, size in FITTED.items()},
    "aicsd": {dataset: {"short_side": 513} for dataset in ("cityscapes", "voc")},
    "trikd": {"cityscapes": {"fit": (2048, 2048), "window": (512, 512), "stride": (342, 342)}},
    "tsic": {
        "cityscapes": {"fit": (1024, 2048)},
        "voc": {"fit": (512, 2048)},
        # released with strides of 768, which leave gaps in images of more than 1024 rows and stop it there; for all
        # others two rows of windows lie as these do
        "ade20k": {"fit": (512, 2048), "mode": "slide", "window": (512, 1024), "stride": (512, 768)}
        | {"smaller": "shrink"},
        "camvid": {"fit": (360, 480)},
    },
}


def fixed_fields(protocol: str | None, dataset: object, model: object) -> Fields:
    """What a protocol says of `evaluate`, for a data set and the student's model; nothing for none."""
    if protocol is None:
        return {}
    fields = PROTOCOLS[protocol] | SIZES.get(protocol, {}).get(dataset, {})
    if protocol == "cirkd" and dataset == "cityscapes" and model == "segformer":
        # SegFormer is run on two halves of 1024 columns, whose logits are put side by side before the one resize
        fields = fields | {"mode": "halves"}
    return fields


def fixed_by(recipe: Recipe) -> Fields:
    """What the recipe's protocol fixes."""
    student = recipe.networks.get("student")
    return fixed_fields(recipe.evaluate.protocol, recipe.data.dataset, student.model if student else None)


def wrong_fields(recipe: Recipe) -> Iterator[Mistake]:
    """What the recipe says of its scoring against its protocol, and against itself."""
    protocol, fixed = recipe.evaluate.protocol, fixed_by(recipe)
    remedy = "leave it out, or say evaluate.protocol=null to choose it yourself"
    for field, value in fixed.items():
        given = getattr(recipe.evaluate, field)
        if field in recipe.evaluate.model_fields_set and given != value:
            theirs = f"the protocol {protocol} has {one_line(value)} on {recipe.data.dataset}"
            yield ("evaluate", field), f"{theirs}, got {one_line(given)}; {remedy}"
    if recipe.data.resize is not None and fixed.keys() >= NATIVE.keys() and fixed["short_side"] is None:
        text = f"the protocol {protocol} scores images at their own size, and resize changes that; {remedy}"
        yield ("data", "resize"), text
    window, stride = recipe.evaluate.window or recipe.data.crop_size, recipe.evaluate.stride
    if recipe.evaluate.mode == "slide" and stride is not None and any(map(int.__gt__, stride, window)):
        text = f"{one_line(list(stride))} is larger than the window, {one_line(list(window))}, and leaves gaps"
        yield ("evaluate", "stride"), text
    if "fit" not in fixed and recipe.evaluate.fit is not None and recipe.evaluate.short_side is not None:
        yield ("evaluate", "fit"), "fit and short_side are two ways to say an image's size; leave one out"


def protocol_in(values: dict) -> str | None:
    """The protocol a recipe's values name, None where they name none that is known."""
    named = value_at(values, "evaluate", "protocol")
    return named if isinstance(named, str) and named in PROTOCOLS else None


def change_protocol(values: dict, origins: Origins, before: str | None) -> None:
    """Applies a protocol that the command line says in place of `before`, in place.

    What either protocol fixes is no longer the file's: a new protocol fixes it, `evaluate.protocol=null` leaves it as
    it was, for the command line to change.
    """
    section, now = values.get("evaluate"), protocol_in(values)
    if not isinstance(section, dict) or now == before:
        return
    told = str(value_at(values, "data", "dataset")), value_at(values, "networks", "student", "model")
    freed = fixed_fields(before, *told)
    for field in freed | fixed_fields(now, *told):
        if origins.by_hand(("evaluate", field)):
            continue
        if now is not None:
            section.pop(field, None)
        elif field in freed:
            section.setdefault(field, freed[field])


def protocol_words(recipe: Recipe) -> str:
    """How the numbers were made, in words: scores are comparable only where this is the same."""
    settings = recipe.evaluate
    said = [f"{_pieces(recipe)} {_size(recipe)}"]
    if settings.mode == "slide":
        said += [f"{settings.average} averaged", f"smaller images: {settings.smaller}"]
    twice = settings.mode == "whole" and settings.resizes == 2
    corners = {None: "the network's way", True: "corners aligned", False: "corners not aligned"}
    said.append(f"scores resized {'twice' if twice else 'once'}, {corners[settings.align_corners]}")
    views = "scales " + ", ".join(f"{scale:g}" for scale in settings.scales)
    if settings.flip:
        views += ", mirrored too"
    if settings.mode != "slide" and (settings.flip or len(settings.scales) > 1):
        views += f", {settings.average} averaged"
    said += [views, f"absent classes: {settings.absent}"]
    return (f"{settings.protocol}: " if settings.protocol else "") + ", ".join(said)


def _pieces(recipe: Recipe) -> str:
    settings = recipe.evaluate
    if settings.mode != "slide":
        return {"whole": "whole images", "halves": "left and right halves of images"}[settings.mode]
    window = settings.window or recipe.data.crop_size
    stride = settings.stride or tuple(-(-2 * side // 3) for side in window)
    return f"windows of {_by(window)} every {_by(stride)} of images"


def _size(recipe: Recipe) -> str:
    settings = recipe.evaluate
    if settings.short_side:
        return f"resized to a short side of {settings.short_side}, labels too"
    if settings.fit:
        return f"resized to fit into {_by(settings.fit)}" + (", their corners aligned" if settings.fit_corners else "")
    if recipe.data.resize:
        return f"resized to {_by(recipe.data.resize)}, labels too"
    return "at native size"


def _by(sides: tuple[int, int]) -> str:
    return " x ".join(map(str, sides))
