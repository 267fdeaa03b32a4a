"""Golden cases of losses between features: PKD and NFD, and those made for foundation models as teachers."""

import torch
from recorded.arrays import Arrays, Tensors, both, build, plain, prediction, restore, results, states, task_of
from torch import Tensor, nn

from segkd.losses._hadamard import hadamard
from segkd.losses._standardization import Standardization
from segkd.losses.afdcd import AfDCD
from segkd.losses.attnfd import AttnFD
from segkd.losses.nfd import NFD
from segkd.losses.phi_s import PhiS
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
    options = {"distance": params["distance"], "eps": params["eps"]}
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


# AttnFD's names, less the feature's number -> the original's
GATES = {"channels.0": "fc1", "channels.2": "fc2", "positions.0": "conv", "positions.1": "bn"}


def attnfd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    levels = range(params["stages"])
    pair = [
        prediction(**{f"map{level}": inputs[f"{owner}_feature_{level}"] for level in levels})
        for owner in ("student", "teacher")
    ]
    options = {"reduction": params["reduction"], "teacher_gate": params["teacher_gate"]}
    loss = build(AttnFD, task_of(*pair), features=tuple(pair[0].features), **options)
    loss.train(params["bn"] == "batch")
    for module in loss.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = params["bn_eps"]
    names = {}
    for level in levels:
        parts = [("student_gate", GATES), ("teacher_gate", GATES), ("connector", {"0": "conv", "1": "bn"})]
        names |= {f"{x}s.{level}.{own}": f"{x}_{level}.{name}" for x, table in parts for own, name in table.items()}
    held = restore(loss, states(arrays), names=names)
    return results(params["weight"] * loss(*pair, None), inputs | held)


# Af-DCD's names -> the original's, whose enhanced projector has blocks and adaptors
PROJECTORS = {
    "plain": {"projector": "projector"},
    "enhanced": {f"projector.{own}": f"projector.{name}" for own, name in zip(
        ("first", "second", "of_first", "of_second"), ("block1", "block2", "adaptor1", "adaptor2"), strict=True
    )},
}  # fmt: skip


def afdcd(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    pair = both(inputs, "feature")
    loss = build(
        AfDCD, task_of(*pair), feature="map", fd=1.0, contrast=1.0,
        contrast_temperature=params["tau"], groups=params["groups"], patch=tuple(params["patch"]),
        pool=1 if params["crop"] else params["pool"] or 1, mask=params["mask"], masked=params["mask_ratio"],
        projector=params["projector"],
    )  # fmt: skip
    loss.draw = lambda goal: torch.from_numpy(arrays["draw:uniform"])
    if params["crop"]:
        # only the map's first rows and columns, which a recipe cannot ask for
        whole, crop = loss.contrast, params["crop"]
        loss.contrast = lambda *maps: whole(*(x[..., :crop, :crop] for x in maps))
    held = restore(loss, states(arrays), names=PROJECTORS[params["projector"]])
    fd, ctr = loss(*pair, None).values()
    return results(params["weight_fd"] * fd + params["weight_ctr"] * ctr, inputs | held, fd=fd, ctr=ctr)


def hadamard_of(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    return plain({"matrix": hadamard(params["dim"])})


def phi_s_fit(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    maps = [inputs[f"teacher_feature_{call}"].detach() for call in range(sum("teacher" in name for name in inputs))]
    scale = Standardization(maps[0].shape[1], params["rotate"], params["update_period"])
    if params["rotate"]:
        scale.state["rotation"] = states(arrays)["rotation"]
        # those of the last refresh, whose W is the only one that is recorded
        scale.eigenvectors = lambda covariance: torch.from_numpy(arrays["draw:eigenvectors"])
    for call, features in enumerate(maps):
        scale.update(features, inputs[f"mask_{call}"] == 1 if params["masked"] else None)
    whiten = scale.state["whiten"]
    alpha = whiten[0].norm()  # its rows are orthogonal
    found = {"mean": scale.state["mean"], "covariance": scale.covariance, "num_samples": scale.state["count"]}
    found |= {"alpha": alpha, "whiten": whiten, "inv_whiten": whiten.T / alpha**2, "output": scale(maps[-1])}
    return plain(found)


# PhiS's names -> the original's; the numbers in the mlp depend on its blocks
LINEAR = {"projection": "projector"}


def mlp_names(blocks: int) -> dict[str, str]:
    names = {"projection.0": "projector.fc1"}
    layers = [f"projector.blocks.{block}" for block in range(blocks)] + ["projector.final"]
    for index, layer in enumerate(layers, 1):
        names |= {f"projection.{index}.0": f"{layer}.norm", f"projection.{index}.2": f"{layer}.linear"}
    return names


def phi_s_balanced(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    state, pair, options = states(arrays), both(inputs, "feature", align_corners=True), {}
    if params["projector"] == "mlp":
        options = {"projection": "mlp", "hidden": len(state["projector.fc1.weight"]), "blocks": params["num_inner"]}
    loss = build(PhiS, task_of(*pair), feature="map", l1_weight=params["l1_weight"], beta=params["beta"], **options)
    for module in loss.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = params["norm_eps"]
    loss.scale.state |= {name: state[name] for name in ("mean", "whiten")}
    held = restore(loss, state, names=mlp_names(params["num_inner"]) if options else LINEAR)
    parts, measure = {}, loss.distances

    def distances(*vectors):
        parts["cos"], parts["smooth_l1"] = found = measure(*vectors)
        return found

    loss.distances = distances
    return results(loss.eval()(*pair, None), inputs | held, **parts)


RUNNERS = {
    "pkd": pkd,
    "nfd": nfd,
    "token_relation": token_relation,
    "token_queue": token_queue,
    "qsd": qsd,
    "gkd_stage1": gkd_stage1,
    "attnfd": attnfd,
    "afdcd": afdcd,
    "hadamard": hadamard_of,
    "phi_s_fit": phi_s_fit,
    "phi_s_balanced": phi_s_balanced,
}
