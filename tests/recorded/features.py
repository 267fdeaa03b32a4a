"""Golden cases of losses between features, from DINO's time on: PKD and NFD."""

from recorded.arrays import Arrays, Tensors, both, build, restore, results, states, task_of

from segkd.losses.nfd import NFD


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


RUNNERS = {"pkd": pkd, "nfd": nfd}
