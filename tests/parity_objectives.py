"""Golden cases of whole objectives, term by term as a recipe lists them, and of the terms only TSIC and TriKD have."""

from dataclasses import dataclass, field

import torch
from parity_losses import EPSILON, Arrays, build, prediction, results, task_for, tensors
from parity_similarity import dist_loss, ics_loss
from torch import Tensor, nn

from segkd.losses.attention_kl import AttentionKL
from segkd.losses.channel_mean import ChannelMean
from segkd.losses.cross_entropy import CrossEntropy
from segkd.losses.cross_pseudo import CrossPseudo, pseudo_labels
from segkd.losses.fitnet import FitNet
from segkd.losses.kl import KL
from segkd.runner.schedule import weight_at


@dataclass
class Term:
    """One line of a recipe's losses, over the predictions of a case."""

    loss: nn.Module
    of: object
    source: object = None
    target: Tensor | None = None
    weight: float | dict = 1.0
    gates: dict = field(default_factory=dict)

    def values(self, iteration: int) -> tuple[Tensor, Tensor] | None:
        """Raw and weighted; None while the term is not active."""
        weight = weight_at(self.weight, iteration, **self.gates)
        # a weight that a ramp has brought to 0 still has a recorded value, a closed gate has none
        if weight == 0 and self.gates:
            return None
        raw = self.loss(self.of, self.source, self.target)
        return raw, weight * raw


def total(terms: dict[str, Term], iteration: int = 0) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The objective, and the active terms raw and weighted."""
    values = {name: term.values(iteration) for name, term in terms.items()}
    values = {name: value for name, value in values.items() if value is not None}
    weighted = {name: value[1] for name, value in values.items()}
    return sum(weighted.values()), {name: value[0] for name, value in values.items()}, weighted


def dist_objective(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    student, teacher = (prediction(inputs[f"{owner}_logits"], True) for owner in ("student", "teacher"))
    if params["aux"]:
        student.aux, teacher.aux = inputs["student_aux"], inputs["teacher_aux"]
    task = task_for(student.logits.shape[1], params["ignore_index"])
    supervised = build(CrossEntropy, task, aux_weight=params["aux_weight"])
    terms = {
        "term:task": Term(supervised, student, None, inputs["target"]),
        "term:kd": Term(dist_loss(params, task.num_classes), student, teacher, weight=params["lambda_kd"]),
    }
    value, _, weighted = total(terms)
    return results(value, inputs, **weighted)


def adaptive(case: dict, arrays: Arrays) -> Arrays:
    """AICSD's three terms, their weights moving from epoch to epoch; an epoch is one iteration here."""
    params, inputs = case["params"], tensors(arrays)
    student, teacher = (prediction(inputs[f"{owner}_logits"], True) for owner in ("student", "teacher"))
    task = task_for(student.logits.shape[1], params.get("ignore_index", 255))
    over = [0, params["total_epochs"]]
    pixelwise = build(KL, task, reduction="element", temperature_squared=False)
    similar = ics_loss(params["ics"], params, task.num_classes)
    ics_weight, kd_weight = params["ics_weight"], params["kd_weight"]
    terms = {
        "seg_ce": Term(build(CrossEntropy, task, divisor="valid_x_batch"), student, None, inputs["target"],
                       {"start": 0.0, "end": 1.0, "over": over}),
        "kd_code": Term(pixelwise, student, teacher, weight={"start": kd_weight, "end": 0.0, "over": over}),
        params["ics"]: Term(similar, student, teacher, weight={"start": 0.0, "end": ics_weight, "over": over}),
    }  # fmt: skip
    value, raw, _ = total(terms, params["epoch"])
    raw["kd_code"], raw[params["ics"]] = kd_weight * raw["kd_code"], ics_weight * raw[params["ics"]]
    return results(value, inputs, **raw)


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


def interactive(case: dict, arrays: Arrays) -> Arrays:
    """TSIC: the large network is trained beside the student from one iteration on, and nothing is detached."""
    params, inputs = case["params"], tensors(arrays)
    student = prediction(inputs["student_logits"], map=inputs["student_feature"])
    teacher = prediction(inputs["teacher_logits"], map=inputs["teacher_feature"])
    auxiliary = prediction(inputs.get("aux_logits"))
    labels = inputs["labels"]
    widths = [{"map": owner.features["map"].shape[1]} for owner in (student, teacher)]
    task = task_for(student.logits.shape[1], params["ignore_index"], *widths)
    backwards = task_for(task.num_classes, params["ignore_index"], *reversed(widths))
    kept = {"ohem_min_kept": params["ohem_min_kept_per_image"], "ohem_threshold": params["ohem_thresh"]}
    supervised = build(CrossEntropy, task, divisor="all", ohem_rule="image", **kept)
    softened = {"temperature": params["temperature"], "reduction": "element"}
    gates = {"after": params["teacher_starts_after_iteration"]}
    # the original's pixel count has the smallest float32 step added
    counted = labels.numel() / (labels.numel() + EPSILON)
    towards_teacher = build(KL, task, size="teacher", **softened)
    towards_mean = build(KL, backwards, guide="mean", **softened)
    means = build(ChannelMean, task, feature="map")
    terms = {
        "term:student_ce": Term(supervised, student, None, labels, counted),
        "term:teacher_ce": Term(supervised, teacher, None, labels, counted, gates),
        "term:ts_kl": Term(towards_teacher, student, teacher, None, params["ts_kl_ratio"], gates),
        "term:ets_kl": Term(towards_mean, teacher, student, None, params["ets_kl_ratio"], gates),
        "term:ts_mse": Term(means, student, teacher, None, params["ts_mse_ratio"], gates),
    }
    if params["with_aux"]:
        terms["term:student_aux_ce"] = Term(supervised, auxiliary, None, labels, counted * params["aux_weight"])
    value, _, weighted = total(terms, params["iteration"])
    return results(value, inputs, **weighted)


VIEWS = ("tiny", "cnn", "vit")


def cross_pseudo(case: dict, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    views = {view: prediction(inputs[f"logits_{view}"], True) for view in VIEWS}
    sums = {f"loss_{view}": sum(term.loss(term.of, term.source, term.target) for term in terms)
            for view, terms in pseudo_terms(views).items()}  # fmt: skip
    labels = {f"pseudo_{view}": pseudo_labels(p, p.logits.shape[-2:]) for view, p in views.items()}
    return results(sum(sums.values()), inputs, **sums, **labels)


def pseudo_terms(views: dict[str, object], weight: float = 1.0) -> dict[str, list[Term]]:
    """For each view, the terms in which it learns from the others."""
    logits = views["tiny"].logits
    loss = build(CrossPseudo, task_for(logits.shape[1], 255))
    target = torch.zeros(len(logits), *logits.shape[-2:], dtype=torch.int64)
    return {
        view: [Term(loss, p, other, target, weight) for name, other in views.items() if name != view]
        for view, p in views.items()
    }


def both(inputs: dict[str, Tensor], labelled: str, unlabelled: str) -> Tensor:
    """The labelled and the unlabelled half of a batch, one behind the other."""
    return torch.cat([inputs[labelled], inputs[unlabelled]])


def low_level(case: dict, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    student, teacher = (both(inputs, f"{owner}_labeled", f"{owner}_unlabeled") for owner in ("student", "teacher"))
    return results(low_level_term(student, teacher).values(0)[0], inputs)


def low_level_term(student: Tensor, teacher: Tensor, weight: float = 1.0) -> Term:
    task = task_for(2, 255, {"map": student.shape[1]}, {"map": teacher.shape[1]})
    loss = build(FitNet, task, feature="map", projection="none")
    return Term(loss, prediction(None, True, map=student), prediction(None, True, map=teacher.detach()), weight=weight)


def high_level(case: dict, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    student, teacher = (both(inputs, f"{owner}_labeled", f"{owner}_unlabeled") for owner in ("student", "teacher"))
    return results(high_level_term(student, teacher).values(0)[0], inputs)


def high_level_term(student: Tensor, teacher: Tensor, weight: float = 1.0) -> Term:
    task = task_for(2, 255, {"map": student.shape[1]}, {"map": teacher.shape[1]})
    loss = build(AttentionKL, task, feature="map", projection="none")
    return Term(loss, prediction(map=student), prediction(map=teacher), weight=weight)


def triple_view(case: dict, arrays: Arrays) -> Arrays:
    """TriKD: the ViT never has hard-pixel mining; two terms see labelled and unlabelled images as one batch."""
    params, inputs = case["params"], tensors(arrays)
    task = task_for(params["num_classes"], params["ignore_index"])
    options = {}
    if params["sup_loss"] == "OHEM":
        options = {"ohem_min_kept": params["ohem_min_kept"], "ohem_threshold": params["ohem_thresh"]}
        if params["ohem_class_weights"]:
            options["class_weights"] = "cityscapes"
    # not in float64: the original keeps its class weights in float32
    plain, mined = CrossEntropy(task), CrossEntropy(task, **options)
    terms = {}
    for view in VIEWS:
        labelled = prediction(inputs[f"logits_labeled_{view}"], True)
        terms[f"loss_sup_{view}"] = Term(
            plain if view == "vit" else mined, labelled, None, inputs["labels"], params[f"weight_{view}"]
        )
    unlabelled = {view: prediction(inputs[f"logits_unlabeled_{view}"], True) for view in VIEWS}
    pseudo = [term for some in pseudo_terms(unlabelled, params["weight_cps"]).values() for term in some]
    terms |= {f"pseudo{index}": term for index, term in enumerate(pseudo)}
    low, high = (
        [both(inputs, f"{kind}_labeled_{view}", f"{kind}_unlabeled_{view}") for view in ("tiny", source)]
        for kind, source in (("low", "cnn"), ("attn", "vit"))
    )
    terms["loss_low"] = low_level_term(*low, params["weight_low"])
    terms["loss_high"] = high_level_term(*high, params["weight_high"])
    value, raw, _ = total(terms)
    raw["loss_cps"] = sum(raw.pop(f"pseudo{index}") for index in range(len(pseudo)))
    return results(value, inputs, **raw)


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
