"""Golden cases of the objectives that real-time networks are published with."""

from dataclasses import replace
from functools import partial

from recorded.arrays import Arrays, Tensors, build, plain, prediction, results, task_of

from segkd.losses._edges import details_of, edges_of
from segkd.losses._task import Task, resize
from segkd.losses.boundary import balanced_bce
from segkd.losses.boundary_awareness import BoundaryAwareness
from segkd.losses.cross_entropy import CrossEntropy
from segkd.losses.detail import Detail
from segkd.models._hamburger import factorised


def mined(inputs: Tensors, params: dict, **options) -> Arrays:
    """Cross entropy of scores at label size, of hard pixels only."""
    student = prediction(inputs["logits"])
    options |= class_weights(inputs)
    loss = build(CrossEntropy, task_of(student, ignore_index=params["ignore_index"]), **options)
    return results(loss(student, None, inputs["labels"]), inputs)


def class_weights(inputs: Tensors) -> dict:
    """The argument, taken out of the inputs: nobody asks for its gradient."""
    return {"class_weights": inputs.pop("class_weights").tolist()} if "class_weights" in inputs else {}


def mmseg_ohem_sampler(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    rule = {"ohem_threshold": params["thresh"], "ohem_min_kept": params["min_kept"], "ohem_rule": "image"}
    return mined(inputs, params, divisor="all", **rule)


def pidnet_ohem(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    return mined(inputs, params, **strict(params))


def strict(params: dict) -> dict:
    rule = {"ohem_threshold": params["thresh"], "ohem_min_kept": params["min_kept"], "ohem_rule": "strict"}
    return rule | {"divisor": "count"}


def largest(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    rule = {"ohem_threshold": params["thresh"], "ohem_rule": "largest", "divisor": "count"}
    kept = {"ohem_min_kept": params["n_min"]} if "n_min" in params else {"ohem_min_share": 1 / 16}
    return mined(inputs, params, **rule, **kept)


def pidnet_boundary(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    return results(params["coeff"] * balanced_bce(inputs["logits"], inputs["edges"]), inputs)


def pidnet_total(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    options, labels = class_weights(inputs), inputs["labels"]
    corners, maps = params["align_corners"], {"boundary": inputs["boundary_logits"]}
    student = prediction(inputs["main_logits"], corners, inputs["p_logits"], **maps)
    task = task_of(student, ignore_index=params["ignore_index"])
    main = build(CrossEntropy, task, scores="logits", **strict(params), **options)
    aux = build(CrossEntropy, with_aux(task), scores="aux", divisor="all", **options)
    awareness = {"boundary_probability": params["boundary_prob"], "ohem_threshold": params["thresh"]}
    aware = build(BoundaryAwareness, task, ohem_min_kept=params["min_kept"], **awareness, **options)
    borders = resize(inputs["boundary_logits"], labels.shape[-2:], corners)
    terms = {
        "term:semantic": params["weight_main"] * main(student, None, labels)
        + params["weight_p"] * aux(student, None, labels),
        "term:boundary": params["coeff"] * balanced_bce(borders, inputs["edges"]),
        "term:boundary_semantic": params["weight_boundary_main"] * aware(student, None, labels),
    }
    return results(sum(terms.values()), inputs, **terms)


def ddrnet_total(params: dict, inputs: Tensors, arrays: Arrays, aux_is_mined: bool = True) -> Arrays:
    options = class_weights(inputs)
    student = prediction(inputs["main_logits"], params["align_corners"], inputs["aux_logits"])
    task = with_aux(task_of(student, ignore_index=params["ignore_index"]))
    rule = strict(params) if aux_is_mined else {"divisor": "all"}
    main = build(CrossEntropy, task, scores="logits", **strict(params), **options)
    aux = build(CrossEntropy, task, scores="aux", **rule, **options)
    main, aux = (loss(student, None, inputs["labels"]) for loss in (main, aux))
    return results(params["weight_main"] * main + params["weight_aux"] * aux, inputs)


def with_aux(task: Task) -> Task:
    """The same for a student with an auxiliary head."""
    return replace(task, student=replace(task.student, has_aux=True))


def bisenetv2_total(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    maps = {name: x for name, x in inputs.items() if name.endswith("_logits")}
    student = prediction(maps.pop("main_logits"), **maps)
    task = task_of(student, ignore_index=params["ignore_index"])
    rule = {"ohem_threshold": params["thresh"], "ohem_rule": "largest", "ohem_min_share": 1 / 16, "divisor": "count"}
    losses = [build(CrossEntropy, task, scores=name, **rule) for name in ("logits", *maps)]
    main, *aux = (loss(student, None, inputs["labels"]) for loss in losses)
    return results(main + params["weight_aux"] * sum(aux), inputs)


def segnext_nmf(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    x = inputs["x"]
    rebuilt = factorised(x.flatten(2), inputs["bases"].detach(), params["steps"]).view_as(x)
    return results(rebuilt.square().mean(), {"x": x}, output=rebuilt)


def stdc_detail(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    student = prediction(None, True, detail=inputs["logits"])
    parts = build(Detail, task_of(student))(student, None, inputs["labels"])
    terms = {f"term:{name}": value for name, value in parts.items()}
    found = results(sum(parts.values()), inputs, **terms)
    return found | plain({"target": details_of(inputs["labels"])[:, None]})


def edge_target(rule: str, params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    width = params["width"] if rule == "neighbours" else params["dilate"]
    return plain({"edges": edges_of(inputs["labels"][None], params.get("ignore_index", 255), rule, width)[0]})


RUNNERS = {
    "mmseg_ohem_sampler": mmseg_ohem_sampler,
    "pidnet_ohem": pidnet_ohem,
    "stdc_ohem": largest,
    "bisenetv2_ohem": largest,
    "bisenetv2_total": bisenetv2_total,
    "segnext_nmf": segnext_nmf,
    "pidnet_boundary": pidnet_boundary,
    "pidnet_total": pidnet_total,
    "ddrnet_total": ddrnet_total,
    "ddrnet_total_fork": partial(ddrnet_total, aux_is_mined=False),
    "stdc_detail": stdc_detail,
    "stdc_detail_mmseg": stdc_detail,
    "pidnet_edge_target": partial(edge_target, "canny"),
    "mmseg_edge_target": partial(edge_target, "neighbours"),
}
