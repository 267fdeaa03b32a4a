"""The formulas of losses between features written down literally: slow, and not in use.

A function has the name of its loss' file and takes (loss, student, teacher, target): the built loss, for its adapters
and arguments, and what its forward takes.
"""

import torch
import torch.nn.functional as F


def pair_of(loss, student, teacher):
    return student.features[loss.pair.student], teacher.features[loss.pair.teacher]


def nfd(loss, student, teacher, target):
    dims = {"batch_space": (0, 2, 3), "space": (2, 3), "channel": 1}[loss.over]

    def standardised(x):
        return (x - x.mean(dims, keepdim=True)) / (x.std(dims, keepdim=True) + loss.eps)

    found, goal = pair_of(loss, student, teacher)
    if loss.projection is not None:
        found = loss.projection(found)
    error = standardised(found) - standardised(goal)
    if loss.distance == "mse":
        return error.square().mean()
    return error.square().sum().sqrt() / (goal.shape[2] * goal.shape[3])


def token_relation(loss, student, teacher, target):
    found, goal = pair_of(loss, student, teacher)
    if loss.projection is not None:
        found = loss.projection(found)

    def similarities(feature):
        rows = F.normalize(feature.flatten(2).mT, dim=2)
        return (rows @ rows.mT / loss.temperature).flatten(0, 1)

    goal = similarities(goal.detach()).softmax(1)
    return F.kl_div(similarities(found).log_softmax(1), goal, reduction="batchmean")


def qsd(loss, student, teacher, target):
    found, goal = (x.flatten(2).mT for x in pair_of(loss, student, teacher))
    goal, size = goal.detach(), goal.shape[2] // loss.heads
    query, value = loss.query(found), loss.value(found)
    blocks = []
    for first in range(0, goal.shape[2], size):
        part = slice(first, first + size)
        scores = query[..., part] @ goal[..., part].mT * loss.scale
        blocks.append(scores.softmax(2) @ value[..., part])
    return (torch.cat(blocks, 2) - goal).square().mean()
