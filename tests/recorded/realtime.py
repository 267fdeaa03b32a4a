"""Golden cases of the objectives that real-time networks are published with."""

from recorded.arrays import Arrays, Tensors, build, prediction, results, task_of

from segkd.losses.cross_entropy import CrossEntropy


def mined(inputs: Tensors, params: dict, **options) -> Arrays:
    """Cross entropy of scores at label size, of hard pixels only."""
    student = prediction(inputs["logits"])
    if "class_weights" in inputs:
        options["class_weights"] = inputs.pop("class_weights").tolist()
    loss = build(CrossEntropy, task_of(student, ignore_index=params["ignore_index"]), **options)
    return results(loss(student, None, inputs["labels"]), inputs)


def mmseg_ohem_sampler(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    rule = {"ohem_threshold": params["thresh"], "ohem_min_kept": params["min_kept"], "ohem_rule": "image"}
    return mined(inputs, params, divisor="all", **rule)


RUNNERS = {
    "mmseg_ohem_sampler": mmseg_ohem_sampler,
}
