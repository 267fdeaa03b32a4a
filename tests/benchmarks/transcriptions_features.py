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


def attnfd(loss, student, teacher, target):
    def spread(x):
        mean, peak = x.mean((2, 3)), x.flatten(2).max(2).values
        x = x * torch.sigmoid(mean + peak)[..., None, None]
        return x * torch.sigmoid(x.max(1, keepdim=True).values + x.mean(1, keepdim=True))

    total = 0
    for index, pair in enumerate(loss.pairs):
        found, goal = student.features[pair.student], teacher.features[pair.teacher].detach()
        found = loss.connectors[index](loss.student_gates[index](found))
        goal = spread(goal) if loss.teacher_gates is None else loss.teacher_gates[index](goal)
        total = total + (found / found.norm() - goal / goal.norm()).square().sum() / len(goal)
    return total


def afdcd(loss, student, teacher, target):
    found, goal = pair_of(loss, student, teacher)
    goal = goal.detach()
    if loss.align is not None:
        found = loss.align(found)
    height, width = goal.shape[2:]
    if loss.mask == "random":
        keep = (torch.rand(len(goal), 1, height, width, device=goal.device) <= 1 - loss.masked).to(goal.dtype)
    else:
        keep = torch.ones_like(goal[:, :1])
        keep[:, :, height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 0
    found = loss.projector(found * keep)
    distance = (found - goal).square().sum() / len(goal)
    if loss.pool > 1:
        found, goal = (F.max_pool2d(x, loss.pool) for x in (found, goal))
    high, wide = loss.patch
    total, pixels = 0, 0
    for top in range(0, found.shape[2] - high + 1, high):
        for left in range(0, found.shape[3] - wide + 1, wide):
            patches = [x[:, :, top : top + high, left : left + wide].flatten(2) for x in (found, goal)]
            s, t = (x.unflatten(1, (loss.groups, -1)).permute(0, 1, 3, 2) for x in patches)  # (B, M, n, C / M)
            scores = torch.cdist(s.flatten(1, 2), t.flatten(1, 2), p=1) / -loss.contrast_temperature
            for row in range(scores.shape[1]):
                group = row // (high * wide)
                others = scores[:, row].unflatten(1, (loss.groups, -1))
                others = torch.cat([others[:, :group], others[:, group + 1 :]], 1).flatten(1)
                own = scores[:, row, row : row + 1]
                total = total - torch.cat([own, others], 1).log_softmax(1)[:, 0].sum()
            pixels += high * wide
    return loss.weights["fd"] * distance + loss.weights["contrast"] * total / pixels / len(goal)


def phi_s(loss, student, teacher, target):
    found, goal = pair_of(loss, student, teacher)
    rows = goal.detach().movedim(1, 3).flatten(0, 2).double()
    covariance = rows.T.cov()
    vectors = torch.linalg.eigh(covariance).eigenvectors
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    whiten = loss.scale.state["rotation"] @ vectors.T / covariance.diagonal().mean().sqrt()
    goal = ((rows - rows.mean(0)) @ whiten.T).to(goal.dtype)
    found = found.movedim(1, 3).flatten(0, 2)
    if loss.projection is not None:
        found = loss.projection(found)
    distance = 1 - F.cosine_similarity(found, goal, dim=1).mean()
    return (1 - loss.l1_weight) * distance + loss.l1_weight * F.smooth_l1_loss(found, goal, beta=loss.beta)
