"""Golden cases of whole objectives, each run as a recipe's graph, and of the terms only TSIC and TriKD have."""

import torch
from parity_losses import EPSILON, Arrays, build, prediction, results, task_for, tensors
from parity_recorded import RECIPES, Recorded, objective_of, recipe_of
from parity_similarity import ICS_VARIANTS
from torch import Tensor, nn

from segkd.losses.attention_kl import AttentionKL
from segkd.losses.channel_mean import ChannelMean
from segkd.losses.cross_pseudo import pseudo_labels
from segkd.losses.fitnet import FitNet
from segkd.losses.kl import KL

AICSD = RECIPES / "voc" / "aicsd_dv3pr101_dv3pr18_released.yaml"
DIST = RECIPES / "cityscapes" / "dist_dv3r101_dv3r18.yaml"
TSIC = RECIPES / "cityscapes" / "tsic_samvitb_dv3r18_released.yaml"
TRIKD = RECIPES / "cityscapes" / "trikd_tiny11m_1_8_released.yaml"


def offline_pair(inputs: dict[str, Tensor]) -> dict[str, Recorded]:
    """A student and its teacher with their recorded scores, and those of their auxiliary heads."""
    networks = {}
    for owner in ("student", "teacher"):
        kinds = {"logits": f"{owner}_logits", "aux": f"{owner}_aux"}
        maps = {kind: inputs[name] for kind, name in kinds.items() if name in inputs}
        networks[owner] = Recorded({"labelled": maps}, align_corners=True)
    return networks


def dist_objective(case: dict, arrays: Arrays) -> Arrays:
    """DIST as its recipe for Cityscapes lists it."""
    params, inputs = case["params"], tensors(arrays)
    if not params["aux"]:
        inputs = {name: x for name, x in inputs.items() if not name.endswith("_aux")}
    recipe = recipe_of(
        DIST,
        {
            "losses.cross_entropy.args.aux_weight": params["aux_weight"],
            "losses.dist.weight": params["lambda_kd"],
            "losses.dist.args": {
                "inter": params["beta"], "intra": params["gamma"], "aux_weight": params["aux_weight"],
            },
        },
    )  # fmt: skip
    found = objective_of(recipe, offline_pair(inputs), inputs["target"], ignore_index=params["ignore_index"])
    terms = {"term:task": found.terms["cross_entropy"], "term:kd": found.terms["dist"]}
    return results(found.total, inputs, **terms)


# what the recorded AICSD calls its terms -> the recipe's labels
ADAPTIVE = {"seg_ce": "cross_entropy", "kd_code": "kd", "ics": "ics"}


def adaptive(case: dict, arrays: Arrays) -> Arrays:
    """AICSD as its recipe for VOC lists it, an epoch being one iteration."""
    params, inputs = case["params"], tensors(arrays)
    epochs, factors = params["total_epochs"], {"kd_code": params["kd_weight"], "ics": params["ics_weight"]}
    overrides = {f"losses.{label}.weight.over": [0, epochs] for label in ADAPTIVE.values()}
    overrides |= {f"losses.{label}.weight.hold": 1 for label in ADAPTIVE.values()}
    recipe = recipe_of(
        AICSD,
        overrides
        | {
            "losses.kd.weight.start": factors["kd_code"],
            "losses.ics.weight.end": factors["ics"],
            "losses.ics.args.variant": ICS_VARIANTS[params["ics"]],
            "schedule.iterations": epochs,
        },
    )
    how = {"ignore_index": params.get("ignore_index", 255), "iteration": params["epoch"]}
    found = objective_of(recipe, offline_pair(inputs), inputs["target"], **how)
    recorded = {term: factors.get(term, 1.0) * found.raw[label] for term, label in ADAPTIVE.items()}
    recorded[params["ics"]] = recorded.pop("ics")
    return results(found.total, inputs, **recorded)


def interactive(case: dict, arrays: Arrays) -> Arrays:
    """TSIC as its recipe for Cityscapes lists it."""
    params, inputs = case["params"], tensors(arrays)
    labels, gate = inputs["labels"], params["teacher_starts_after_iteration"]
    # the original's pixel count has the smallest float32 step added
    counted = labels.numel() / (labels.numel() + EPSILON)
    overrides = {"losses.student_ce.args.aux_weight": params["aux_weight"]}
    for label in ("student_ce", "teacher_ce"):
        overrides[f"losses.{label}.weight"] = counted
        overrides[f"losses.{label}.args.ohem_min_kept"] = params["ohem_min_kept_per_image"]
        overrides[f"losses.{label}.args.ohem_threshold"] = params["ohem_thresh"]
    for label in ("ts_kl", "ets_kl", "ts_mse"):
        overrides[f"losses.{label}.weight"] = params[f"{label}_ratio"]
    for label in ("ts_kl", "ets_kl"):
        overrides[f"losses.{label}.args.temperature"] = params["temperature"]
    for label in ("teacher_ce", "ts_kl", "ets_kl", "ts_mse"):
        overrides[f"losses.{label}.after"] = gate
    student = {"logits": inputs["student_logits"], "stage4": inputs["student_feature"]}
    if params["with_aux"]:
        student["aux"] = inputs["aux_logits"]
    networks = {
        "student": Recorded({"labelled": student}),
        "teacher": Recorded({"labelled": {"logits": inputs["teacher_logits"], "sam": inputs["teacher_feature"]}}),
    }
    how = {"ignore_index": params["ignore_index"], "iteration": params["iteration"]}
    found = objective_of(recipe_of(TSIC, overrides), networks, labels, **how)
    terms = {f"term:{label}": term for label, term in found.terms.items()}
    if params["with_aux"]:  # recorded apart
        loss, (seen, _) = found.graph.losses["student_ce"], found.graph.kept["student_ce"]
        auxiliary = counted * loss.aux_weight * loss.of_head(seen.aux, labels, seen.align_corners)
        terms["term:student_aux_ce"] = auxiliary
        terms["term:student_ce"] = terms["term:student_ce"] - auxiliary
    return results(found.total, inputs, **terms)


def ensemble_kl(case: dict, arrays: Arrays) -> Arrays:
    """The large network is the pupil, so it takes the student's place in the loss."""
    params, inputs = case["params"], tensors(arrays)
    small, large = (prediction(inputs[f"{owner}_logits"], params["align_corners"]) for owner in ("student", "teacher"))
    if params["teacher_detached"]:
        large.logits = large.logits.detach()
    task = task_for(large.logits.shape[1], 255)
    loss = build(KL, task, temperature=params["temperature"], reduction="element", guide="mean")
    return results(params["ratio"] * loss(large, small, None), inputs)


def channel_mean(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    student, teacher = inputs["student_feature"], inputs["teacher_feature"]
    if params["teacher_detached"]:
        teacher = teacher.detach()
    maps = [prediction(None, params["align_corners"], map=feature) for feature in (student, teacher)]
    task = task_for(2, 255, {"map": student.shape[1]}, {"map": teacher.shape[1]})
    return results(params["ratio"] * build(ChannelMean, task, feature="map")(*maps, None), inputs)


# the originals' names of TriKD's networks -> ours
VIEWS = {"tiny": "student", "cnn": "cnn", "vit": "vit"}
PSEUDO = [f"cps_{view}_from_{other}" for view in VIEWS for other in VIEWS if other != view]


def cross_pseudo(case: dict, arrays: Arrays) -> Arrays:
    """The six terms on unlabelled images of TriKD's recipe, each of weight 1."""
    inputs = tensors(arrays)
    recipe = recipe_of(TRIKD, {f"losses.{label}.weight": 1.0 for label in PSEUDO})
    recipe = recipe.model_copy(update={"losses": [term for term in recipe.losses if term.label in PSEUDO]})
    networks = {
        name: Recorded({"unlabelled": {"logits": inputs[f"logits_{view}"]}}, align_corners=True)
        for view, name in VIEWS.items()
    }
    target = torch.zeros_like(inputs["logits_tiny"][:, 0], dtype=torch.int64)  # (B, H, W)
    found = objective_of(recipe, networks, target)
    sums = {
        f"loss_{view}": sum(value for label, value in found.raw.items() if label.startswith(f"cps_{view}_"))
        for view in VIEWS
    }
    labels = {
        f"pseudo_{view}": pseudo_labels(prediction(inputs[f"logits_{view}"]), target.shape[-2:]) for view in VIEWS
    }
    return results(found.total, inputs, **sums, **labels)


def both(inputs: dict[str, Tensor], owner: str) -> Tensor:
    """The labelled and the unlabelled half of a batch, one behind the other."""
    return torch.cat([inputs[f"{owner}_labeled"], inputs[f"{owner}_unlabeled"]])


def low_level(case: dict, arrays: Arrays) -> Arrays:
    return feature_term(FitNet, tensors(arrays))


def high_level(case: dict, arrays: Arrays) -> Arrays:
    return feature_term(AttentionKL, tensors(arrays))


def feature_term(kind: type[nn.Module], inputs: dict[str, Tensor]) -> Arrays:
    student, teacher = both(inputs, "student"), both(inputs, "teacher").detach()
    task = task_for(2, 255, {"map": student.shape[1]}, {"map": teacher.shape[1]})
    loss = build(kind, task, feature="map", projection="none")
    return results(loss(prediction(None, True, map=student), prediction(None, True, map=teacher), None), inputs)


def triple_view(case: dict, arrays: Arrays) -> Arrays:
    """TriKD as its recipe for Cityscapes lists it."""
    params, inputs = case["params"], tensors(arrays)
    overrides = {f"losses.{label}.weight": params["weight_cps"] for label in PSEUDO}
    overrides |= {f"losses.sup_{view}.weight": params[f"weight_{view}"] for view in VIEWS}
    overrides |= {f"losses.{level}.weight": params[f"weight_{level}"] for level in ("low", "high")}
    for view in ("tiny", "cnn"):
        mined = params["sup_loss"] == "OHEM"
        overrides |= {
            f"losses.sup_{view}.args.ohem_min_kept": params["ohem_min_kept"] if mined else None,
            f"losses.sup_{view}.args.ohem_threshold": params["ohem_thresh"],
            f"losses.sup_{view}.args.class_weights": "cityscapes" if mined and params["ohem_class_weights"] else None,
        }
    kinds = {"tiny": {"logits": "logits", "low": "low", "attention": "attn"}}
    kinds |= {"cnn": {"logits": "logits", "low": "low"}, "vit": {"logits": "logits", "attention": "attn"}}
    networks = {}
    for view, name in VIEWS.items():
        maps = {
            ours: {kind: inputs[f"{theirs}_{part}_{view}"] for kind, theirs in kinds[view].items()}
            for ours, part in (("labelled", "labeled"), ("unlabelled", "unlabeled"))
        }
        networks[name] = Recorded(maps, align_corners=True)
    # not in float64: the original keeps its class weights in float32
    how = {"ignore_index": params["ignore_index"], "dtype": torch.float32}
    found = objective_of(recipe_of(TRIKD, overrides), networks, inputs["labels"], **how)
    recorded = {f"loss_{label}": value for label, value in found.raw.items() if label not in PSEUDO}
    recorded["loss_cps"] = sum(found.raw[label] for label in PSEUDO)
    return results(found.total, inputs, **recorded)


RUNNERS = {
    "dist_objective": dist_objective,
    "alw_code": adaptive,
    "alw_fixed": adaptive,
    "tsic_ets_kl": ensemble_kl,
    "tsic_ts_mse": channel_mean,
    "tsic_total": interactive,
    "cps": cross_pseudo,
    "low": low_level,
    "high": high_level,
    "total": triple_view,
}

TOLERANCE = {loss: {"relative": 1e-9} for loss in RUNNERS}
