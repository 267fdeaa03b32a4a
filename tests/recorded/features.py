"""Golden cases of losses between features: PKD and NFD, and those made for foundation models as teachers."""

from recorded.arrays import Arrays, Tensors, both, build, prediction, restore, results, states, task_of
from torch import Tensor

from segkd.losses.nfd import NFD
from segkd.losses.qsd import QSD
from segkd.losses.token_queue import TokenQueue
from segkd.losses.token_relation import TokenRelation


def pkd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    pair = both(inputs, "feature")
    size = "teacher" if params["resize"] == "student" else "student"
    loss = build(NFD, task_of(*pair), feature="map", over="batch_space", size=size, eps=params["eps"])
    return results(params["weight"] / 2 * loss(*pair, None), inputs)


def nfd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    pair = both(inputs, "feature", align_corners=True)
    # beside any deviation the smallest float is none, which a recipe cannot ask for
    options = {"distance": params["distance"], "eps": params["eps"] or 1e-300}
    loss = build(NFD, task_of(*pair), feature="map", size="student", **options)
    held = restore(loss, states(arrays), names={"projection": "projector"})
    assert bool(held) == params["projector"]
    return results(params["weight"] * loss(*pair, None), inputs | held)


def like_conv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A linear map's weights (C', C) as those of a 1x1 convolution; vectors stay."""
    return {name: x[..., None, None] if x.ndim == 2 else x for name, x in state.items()}


def recorded_gradients(found: Arrays) -> Arrays:
    """Gradients of 1x1 convolutions in the shape of a linear map's weights."""
    of_weight = [name for name in found if name.startswith("grad:") and name.endswith("weight")]
    return found | {name: found[name][..., 0, 0] for name in of_weight if found[name].ndim == 4}


def token_relation(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    pair = both(inputs, "feature")
    projection = "affine" if params["projector"] else "none"
    options = {"temperature": params["temperature"], "projection": projection}
    loss = build(TokenRelation, task_of(*pair), feature="map", **options)
    held = restore(loss, like_conv(states(arrays)), names={"projection": "projector"})
    return recorded_gradients(results(params["weight"] * loss(*pair, None), inputs | held))


def token_queue(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    pair = [prediction(map=inputs[f"{owner}_global"][..., None, None]) for owner in ("student", "teacher")]
    state = states(arrays)
    options = {"temperature": params["temperature"], "queue": len(state["queue"])}
    loss = build(TokenQueue, task_of(*pair), feature="map", **options)
    loss.queue = state["queue"]
    held = restore(loss, state, names={"projection": "projector"})
    value = loss(*pair, None)
    return results(value, inputs | held, queue_after=loss.queue)


# QSD's names -> the original's
QUERIES = {"query.0": "q.norm", "query.1": "q.linear", "value.0": "v.norm", "value.1": "v.linear"}


def qsd_of(student: Tensor, teacher: Tensor, state: Tensors, prefix: str, eps: float, heads: int = 1):
    """The loss, its weights under their recorded names, and the two predictions of (B, N, C) tokens."""
    pair = [prediction(map=x.mT[..., None]) for x in (student, teacher)]
    loss = build(QSD, task_of(*pair), feature="map", heads=heads)
    for norm in (loss.query[0], loss.value[0]):
        norm.eps = eps
    return loss, restore(loss, state, prefix, QUERIES), pair


def qsd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    tokens = inputs["student_tokens"], inputs["teacher_tokens"]
    loss, held, pair = qsd_of(*tokens, states(arrays), "", params["norm_eps"], params["num_heads"])
    # the loss makes its output a block at a time and keeps none of it: here from its two maps
    query, key, value = (
        x.unflatten(2, (loss.heads, -1)).transpose(1, 2)
        for x in (loss.query(tokens[0]), tokens[1], loss.value(tokens[0]))
    )
    output = ((query @ key.mT).softmax(3) @ value).transpose(1, 2).flatten(2)
    return results(params["weight"] * loss(*pair, None), inputs | held, output=output)


def gkd_stage1(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """Three terms of QSD; the error over the class token and the N patches is a mean of two of them."""
    patches = inputs["teacher_patches"]
    maps = {
        "token": (inputs["student_cls"][:, None], inputs["teacher_cls"][:, None]),
        "fea": (inputs["student_patches"], patches),
        "patch": (inputs["student_patches_masked"], patches),
    }
    values, held = {}, {}
    for name, (student, teacher) in maps.items():
        loss, weights, pair = qsd_of(student, teacher, states(arrays), f"{name}.", params["norm_eps"])
        values[name] = loss(*pair, None)
        held |= weights
    count = patches.shape[1]
    values["fea"] = (values["token"] + count * values["fea"]) / (1 + count)
    parts = {name: params[f"weight_{name}"] * value for name, value in values.items()}
    return results(sum(parts.values()), inputs | held, **parts)


RUNNERS = {
    "pkd": pkd,
    "nfd": nfd,
    "token_relation": token_relation,
    "token_queue": token_queue,
    "qsd": qsd,
    "gkd_stage1": gkd_stage1,
}
