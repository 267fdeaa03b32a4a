"""Golden cases of whole objectives, each run as a recipe's graph, and of the terms only TriKD has."""

from functools import partial

import torch
from recorded.arrays import Arrays, Tensors, build, prediction, results, task_of
from recorded.recipes import RECIPES, Recorded, objective_of, pair_of, recipe_of
from recorded.similarity import ICS_VARIANTS
from torch import nn

from segkd.losses.attention_kl import AttentionKL
from segkd.losses.cross_pseudo import pseudo_labels
from segkd.losses.fitnet import FitNet

AICSD = RECIPES / "voc" / "aicsd_dv3pr101_dv3pr18_released.yaml"
DIST = RECIPES / "cityscapes" / "dist_dv3r101_dv3r18.yaml"
TRIKD = RECIPES / "cityscapes" / "trikd_tiny11m_1_8_released.yaml"


def dist_objective(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """DIST as its recipe for Cityscapes lists it."""
    if not params["aux"]:
        inputs = {name: x for name, x in inputs.items() if not name.endswith("_aux")}
    overrides = {f"losses.{label}.args.aux_weight": params["aux_weight"] for label in ("cross_entropy", "dist")}
    overrides |= {"losses.dist.args.inter": params["beta"], "losses.dist.args.intra": params["gamma"]}
    recipe = recipe_of(DIST, overrides | {"losses.dist.weight": params["lambda_kd"]})
    found = objective_of(recipe, pair_of(inputs), inputs["target"], ignore_index=params["ignore_index"])
    terms = {"term:task": found.terms["cross_entropy"], "term:kd": found.terms["dist"]}
    return results(found.total, inputs, **terms)


# what the recorded AICSD calls its terms -> the recipe's labels
ADAPTIVE = {"seg_ce": "cross_entropy", "kd_code": "kd", "ics": "ics"}


def adaptive(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """AICSD as its recipe for VOC lists it, an epoch being one iteration."""
    epochs, factors = params["total_epochs"], {"kd_code": params["kd_weight"], "ics": params["ics_weight"]}
    overrides = {f"losses.{label}.weight.over": [0, epochs] for label in ADAPTIVE.values()}
    overrides |= {f"losses.{label}.weight.hold": 1 for label in ADAPTIVE.values()}
    overrides |= {"losses.kd.weight.start": factors["kd_code"], "losses.ics.weight.end": factors["ics"]}
    overrides |= {"losses.ics.args.variant": ICS_VARIANTS[params["ics"]], "schedule.iterations": epochs}
    how = {"ignore_index": params.get("ignore_index", 255), "iteration": params["epoch"]}
    found = objective_of(recipe_of(AICSD, overrides), pair_of(inputs), inputs["target"], **how)
    recorded = {term: factors.get(term, 1.0) * found.raw[label] for term, label in ADAPTIVE.items()}
    recorded[params["ics"]] = recorded.pop("ics")
    return results(found.total, inputs, **recorded)


# the originals' names of TriKD's networks -> ours
VIEWS = {"tiny": "student", "cnn": "cnn", "vit": "vit"}
PSEUDO = [f"cps_{view}_from_{other}" for view in VIEWS for other in VIEWS if other != view]


def cross_pseudo(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """The six terms on unlabelled images of TriKD's recipe, each of weight 1."""
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


def feature_term(kind: type[nn.Module], params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """Over both halves of a batch, one behind the other."""
    student, teacher = (
        torch.cat([inputs[f"{owner}_labeled"], inputs[f"{owner}_unlabeled"]]) for owner in ("student", "teacher")
    )
    pair = prediction(None, True, map=student), prediction(None, True, map=teacher.detach())
    loss = build(kind, task_of(*pair), feature="map", projection="none")
    return results(loss(*pair, None), inputs)


def triple_view(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """TriKD as its recipe for Cityscapes lists it."""
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
    "cps": cross_pseudo,
    "low": partial(feature_term, FitNet),
    "high": partial(feature_term, AttentionKL),
    "total": triple_view,
}
