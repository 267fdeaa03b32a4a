"""The formulas of RMRKD's losses written down literally: slow, hungry for memory, and independent of losses/.

A function has the name of its loss' file and takes (loss, student, teacher, target): the built loss, for its adapters
and arguments, and what its forward takes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def labels_on(target: Tensor, size: tuple[int, int], how: str) -> Tensor:
    """(B, 1, h, w) labels at the map's size."""
    labels = target[:, None].to(torch.float32)
    if how == "nearest":
        return F.interpolate(labels, size=size, mode="nearest").long()
    return F.interpolate(labels, size=size, mode="bilinear", align_corners=False).long()


def maps(loss, student, teacher) -> tuple[Tensor, Tensor]:
    """The two features, with the teacher's channels; of one size, and the teacher's without its graph."""
    s, t = student.features[loss.pair.student], teacher.features[loss.pair.teacher]
    return s if loss.align is None else loss.align(s), t.detach()


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """(B, C, h, w), (B, 1, h, w) -> (B, C, 1, 1), the centre of one class."""
    return (features * mask).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) + 1e-6)


def cross_similarity(loss, student, teacher, target) -> Tensor:
    s, t = maps(loss, student, teacher)
    labels = labels_on(target, t.shape[-2:], loss.label_resize)
    tau = loss.temperature

    def kl(a: Tensor, b: Tensor) -> Tensor:  # (B, h, w)
        if loss.softmax_over == "spatial":
            a, b = a.flatten(1), b.flatten(1)
        p, q = F.log_softmax(a / tau, 1), F.softmax(b / tau, 1)
        return tau**2 * F.kl_div(p, q, reduction="sum") / len(a)

    total = 0
    for k in range(loss.num_classes):
        inside = (labels == k).to(s.dtype)
        centre_s, centre_t = masked_mean(s, inside), masked_mean(t, inside)
        for mask in (inside, 1 - inside):
            masked_s, masked_t = s * mask, t * mask
            ss = F.cosine_similarity(centre_s.expand_as(s), masked_s, dim=1)
            st = F.cosine_similarity(centre_s.expand_as(s), masked_t, dim=1).detach()
            ts = F.cosine_similarity(centre_t.expand_as(t), masked_s, dim=1)
            tt = F.cosine_similarity(centre_t.expand_as(t), masked_t, dim=1)
            total = total + (kl(ss, st) + kl(ts, tt)) / 4
    return total


def region_distance(loss, student, teacher, target) -> Tensor:
    s, t = maps(loss, student, teacher)
    labels = labels_on(target, t.shape[-2:], loss.label_resize)
    classes = range(loss.num_classes)
    centres_s, centres_t = ([masked_mean(x, (labels == k).to(s.dtype))[:, :, 0, 0] for k in classes] for x in (s, t))
    total = 0
    for i in classes:
        for j in classes[i + 1 :]:
            d_s, d_t = (F.pairwise_distance(c[i], c[j], eps=1e-6) for c in (centres_s, centres_t))  # (B,)
            total = total + 0.5 * ((d_t - d_s) ** 2).mean()
    return total


def region_cosine(loss, student, teacher, target) -> Tensor:
    s, t = maps(loss, student, teacher)
    labels = labels_on(target, t.shape[-2:], loss.label_resize)
    s, t = F.normalize(loss.embed(s), dim=1), F.normalize(loss.embed(t), dim=1)
    maps_s, maps_t, likeness = [], [], []
    for k in range(loss.num_classes):
        inside = (labels == k).to(s.dtype)
        centre_s, centre_t = masked_mean(s, inside), masked_mean(t, inside)
        likeness.append(F.cosine_similarity(centre_s, centre_t, dim=1).flatten())
        maps_s.append(F.cosine_similarity(centre_s.expand_as(s), s, dim=1))
        maps_t.append(F.cosine_similarity(centre_t.expand_as(t), t, dim=1))
    a_s, a_t = torch.stack(maps_s, 1), torch.stack(maps_t, 1)  # (B, K, h, w)
    z_s, z_t = ((a / a.sum(1, keepdim=True)).flatten(0, 1) for a in (a_s, a_t))  # (B K, h, w)
    kl = F.kl_div(F.log_softmax(z_s, 0), F.softmax(z_t, 0), reduction="sum")
    return 1 - torch.stack(likeness).mean() + kl / labels.numel()


def mgd(loss, student, teacher, target) -> Tensor:
    s, t = maps(loss, student, teacher)
    uniform = torch.rand(len(t), 1, *t.shape[-2:], device=t.device)
    keep = torch.where(uniform > 1 - loss.masked, 0, 1).to(s.dtype)
    first, _, second = loss.generation
    generated = second(F.relu(first(s * keep)))
    return ((generated - t) ** 2).sum() / len(t)


def dkd(loss, student, teacher, target) -> Tensor:
    """Over the pixels of each map, without segments; both networks' logits of one size."""
    assert loss.softmax_over == "spatial" and not loss.segment
    s, t, tau = student.logits, teacher.logits, loss.temperature
    labels = labels_on(target, t.shape[-2:], "nearest")
    inside = torch.cat([(labels == k).to(s.dtype) for k in range(s.shape[1])], 1)  # (B, K, h, w)

    def divergence(x: Tensor, y: Tensor) -> Tensor:
        x, y = (z.flatten(0, 1).flatten(1) / tau for z in (x, y))  # (B K, N)
        return tau**2 * F.kl_div(F.log_softmax(x, 1), F.softmax(y, 1), reduction="sum")

    target_part = divergence(s * inside, t * inside)
    rest_part = divergence(s * (1 - inside), t * (1 - inside))
    return (loss.target_weight * target_part + loss.rest_weight * rest_part) / inside[:, :, 0, 0].numel()
