"""The formulas of DIST, AICSD and its baselines, TriKD and TSIC written down literally: slow, and not in use.

A function has the name of its loss' file and takes (loss, student, teacher, target): the built loss, for its adapters
and arguments, and what its forward takes.
"""

import torch
import torch.nn.functional as F


def resized(prediction, size):
    return F.interpolate(prediction.logits, size=size, mode="bilinear", align_corners=prediction.align_corners)


def dist(loss, student, teacher, target):
    rows_s, rows_t = (F.softmax(p.logits.permute(0, 2, 3, 1).flatten(0, 2), dim=1) for p in (student, teacher))

    def correlation(x, y):
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + loss.eps)

    inter = 1 - correlation(rows_s, rows_t).mean()
    intra = 1 - correlation(rows_s.T, rows_t.T).mean()
    return loss.inter * inter + loss.intra * intra


def ics(loss, student, teacher, target):
    """The loop over pairs of classes, with the teacher's gradients left out."""
    size = target.shape[-2:]

    def matrix(logits):
        batch, classes = logits.shape[:2]
        p = F.softmax(logits.flatten(2) / loss.temperature, dim=2)
        rows = []
        for i in range(classes):
            row = [F.kl_div(p[:, j].log(), p[:, i], reduction="sum") / batch for j in range(classes)]
            rows.append(torch.stack(row))
        return F.normalize(torch.stack(rows), dim=1, eps=loss.eps)

    with torch.no_grad():
        goal = matrix(resized(teacher, size))
    return (matrix(resized(student, size)) - goal).square().mean() / len(student.logits)


def sp(loss, student, teacher, target):
    def similarities(feature):
        rows = feature.flatten(1)
        return F.normalize(rows @ rows.T, dim=1)

    goal = similarities(teacher.features[loss.pair.teacher])
    found = similarities(student.features[loss.pair.student])
    return (goal - found).square().sum() / len(goal) ** 2


def ickd(loss, student, teacher, target):
    found = loss.embed(student.features[loss.pair.student])
    goal = teacher.features[loss.pair.teacher]
    batch, channels = goal.shape[:2]
    total = 0
    for s, t in zip(found, goal):
        s, t = s.flatten(1), t.flatten(1)
        total = total + (F.normalize(s @ s.T, dim=1) - F.normalize(t @ t.T, dim=1)).square().sum()
    return total / (batch * channels)


def overhaul(loss, student, teacher, target):
    total = 0
    for index, pair in enumerate(loss.pairs):
        x, t = loss.connectors[index](student.features[pair.student]), teacher.features[pair.teacher]
        if loss.margin != "none":
            t = torch.max(t, loss.margin_of(index, t).to(t.dtype).view(1, -1, 1, 1))
        kept = ((x > t) | (t > 0)).to(x.dtype)
        total = total + (F.mse_loss(x, t, reduction="none") * kept).sum() / loss.divisors[index]
    return total / len(student.logits)


def channel_mean(loss, student, teacher, target):
    found, goal = student.features[loss.pair.student], teacher.features[loss.pair.teacher]
    goal = F.interpolate(goal, size=found.shape[-2:], mode="bilinear", align_corners=teacher.align_corners)
    return (found.mean(1) - goal.mean(1)).square().mean()


def cross_pseudo(loss, student, teacher, target):
    size = target.shape[-2:]
    labels = resized(teacher, size).argmax(1)
    return -F.log_softmax(resized(student, size), dim=1).gather(1, labels[:, None]).mean()


def attention_kl(loss, student, teacher, target):
    goal = teacher.features[loss.teacher_feature]
    guess = loss.projection(student.features[loss.feature])
    guess = F.interpolate(guess, size=goal.shape[-2:], mode="bilinear", align_corners=True)
    return F.kl_div(F.log_softmax(guess, dim=-1), F.softmax(goal, dim=-1), reduction="none").mean()
