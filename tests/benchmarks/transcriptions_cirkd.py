"""CIRKD's terms and the losses it compares with as their formulas stand: slow, for comparison only."""

from itertools import combinations

import torch
import torch.nn.functional as F


def kl_rows(student, teacher):
    """KL between the softmax of rows, mean over rows."""
    return F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="sum") / len(student)


def heads(loss, student, teacher):
    return student.features[loss.pair.student], teacher.features[loss.pair.teacher]


def cwd(loss, student, teacher, target):
    s, t = (F.softmax(p.logits.flatten(0, 1).flatten(1) / loss.temperature, 1) for p in (student, teacher))
    return loss.temperature**2 * (t * (t.log() - s.log())).sum() / len(s)


def attention(feature):
    return F.normalize(feature.pow(2).mean(1).flatten(1), dim=1)


def at(loss, student, teacher, target):
    s, t = (attention(x) for x in heads(loss, student, teacher))
    return (s - t).pow(2).mean()


def skd(loss, student, teacher, target):
    grams = []
    for feature in heads(loss, student, teacher):
        nodes = F.normalize(F.max_pool2d(feature, 2, 2, ceil_mode=True).flatten(2), dim=1)
        grams.append(torch.einsum("bci,bcj->bij", nodes, nodes))
    return (grams[0] - grams[1]).pow(2).mean()


def ifvd(loss, student, teacher, target):
    """One pass over the map per class."""
    maps = []
    for feature in heads(loss, student, teacher):
        labels = F.interpolate(target[:, None].float(), size=feature.shape[-2:], mode="nearest")
        centre = feature.clone()
        for label in range(loss.num_classes):
            mask = (labels == label).to(feature.dtype)
            mean = (feature * mask).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) + 1e-6)
            centre = centre * (1 - mask) + mean * mask
        maps.append(F.cosine_similarity(feature, centre, dim=1))
    return (maps[0] - maps[1]).pow(2).mean()


def dsd(loss, student, teacher, target):
    residuals, grams = [], []
    for prediction in (student, teacher):
        maps = [attention(x) for x in (prediction.features["head"], prediction.logits)]
        residuals.append(torch.stack([F.normalize(b - a, dim=1) for a, b in combinations(maps, 2)]))
        pooled = F.avg_pool2d(prediction.logits, 2, 2, ceil_mode=True).flatten(2)
        share = F.softmax(pooled / loss.temperature, 2)
        grams.append(share @ share.transpose(1, 2))
    return loss.psd * F.mse_loss(*residuals) + loss.csd * F.mse_loss(*grams)


def pairs_of_images(s, t, temperature):
    """(B, R, C) rows of every image against those of every image, one matrix per pair."""
    total = 0
    for i in range(len(s)):
        for j in range(len(s)):
            total = total + kl_rows(s[i] @ s[j].T / temperature, t[i] @ t[j].T / temperature)
    return total / len(s) ** 2


def cirkd_minibatch(loss, student, teacher, target):
    s, t = (F.normalize(x.flatten(2), dim=1).transpose(1, 2) for x in heads(loss, student, teacher))
    return pairs_of_images(s, t, loss.temperature)


def written(memory, group, vectors):
    """The ring's rule, for one run of vectors."""
    with torch.no_grad():
        first = memory.pointers[group]
        if first + len(vectors) >= memory.slots:
            memory.vectors[group, -len(vectors) :] = vectors
            memory.pointers[group] = 0
        else:
            memory.vectors[group, first : first + len(vectors)] = vectors
            memory.pointers[group] = first + len(vectors)


def cirkd_memory(loss, student, teacher, target):
    """A loop over images and classes, then all pixels against all vectors at once."""
    s, t = heads(loss, student, teacher)
    z = F.normalize(loss.head(s), dim=1).permute(0, 2, 3, 1).flatten(1, 2)
    t = F.normalize(t, dim=1).permute(0, 2, 3, 1).flatten(1, 2)
    labels = F.interpolate(target[:, None].float(), size=s.shape[-2:], mode="nearest").long().flatten(1)
    for memory in loss.memories.values():
        memory.prepare(t.shape[2], t.device)
    for features, ids in zip(t, labels):
        for label in ids.unique().tolist():
            if label != loss.ignore_index:
                mine = features[ids == label]
                written(loss.memories["region"], label, F.normalize(mine.mean(0, keepdim=True), dim=1))
                written(loss.memories["pixel"], label, mine[torch.randperm(len(mine))[: loss.pixels_per_class]])
    counted = labels != loss.ignore_index
    scale, total = loss.contrast_temperature * loss.temperature, 0
    for name, weight in loss.weights.items():
        slots = torch.randperm(loss.memories[name].slots)[: loss.contrast[name]]
        keys = loss.memories[name].vectors[:, slots].flatten(0, 1)
        total = total + weight * loss.temperature**2 * kl_rows(z[counted] @ keys.T / scale, t[counted] @ keys.T / scale)
    return total


def cirkd_channel(loss, student, teacher, target):
    s, t = (F.avg_pool2d(x, loss.pool, loss.pool, ceil_mode=True) for x in heads(loss, student, teacher))
    s, t = (F.normalize(x.flatten(2), dim=2) for x in (loss.head(s), t))
    rows_s, rows_t = s.flatten(0, 1), t.flatten(0, 1)
    loss.memory.prepare(t.shape[2], t.device)
    written(loss.memory, 0, rows_t[torch.randperm(len(rows_t))[: loss.channels_per_batch]])
    keys = loss.memory.vectors[0, torch.randperm(loss.memory.slots)[: loss.contrast]]
    scale = loss.contrast_temperature * loss.temperature
    against = loss.temperature**2 * kl_rows(rows_s @ keys.T / scale, rows_t @ keys.T / scale)
    pairs = pairs_of_images(s, t, loss.contrast_temperature)
    return loss.minibatch_weight * pairs + loss.memory_weight * against + loss.mse_weight * F.mse_loss(s, t)


def cirkd_v2(loss, student, teacher, target):
    """The block with its N x N attention, then the other formulas."""
    x = student.features["head"]
    q, k, v = (conv(x).flatten(2) for conv in (loss.gcn.query, loss.gcn.key, loss.gcn.value))
    attended = F.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, 2) @ v.transpose(1, 2)
    context = loss.gcn.context(attended.transpose(1, 2).unflatten(2, x.shape[-2:]))
    adapted = type(student)(student.logits, features={"head": loss.gcn.output(torch.cat([x, context], 1))})
    hint = F.mse_loss(loss.fitnet.projection(adapted.features["head"]), teacher.features["head"])
    return (
        loss.fitnet_weight * hint
        + loss.minibatch_weight * cirkd_minibatch(loss.minibatch, adapted, teacher, target)
        + cirkd_memory(loss.memory, adapted, teacher, target)
        + cirkd_channel(loss.channel, adapted, teacher, target)
    )
