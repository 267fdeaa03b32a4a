"""Decoupled channel-wise distillation, the logit term of RMRKD: Zheng et al., Pattern Recognition 161, 111319, 2025."""

from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from ._pair import Pair
from ._regions import class_masks, class_sums
from ._relations import divergence
from ._task import Prediction, Task, Temperature, Weight

LabelId = Annotated[int, Interval(ge=0, le=2**16)]


class DKD(nn.Module):
    """Channel-wise distillation of each class's score map, split into the pixels of the class and the others.

        P(x, y) = T^2 * sum_bk KL( softmax_n(y_bk / T) || softmax_n(x_bk / T) )
        L = ( target_weight * P(m s, m t) + rest_weight * P((1 - m) s, (1 - m) t) ) / (B K)

    m_bkn is 1 where pixel n has label k; left-out pixels stay in the softmax with the score 0, and ignored pixels
    belong to the rest of every class: with all pixels ignored L is plain channel-wise distillation (arXiv 2011.13256).

    Source: `DecoupledKD` of RMRKD's released code; the paper was not at hand. Published with T = 4 and both weights 4,
    which a term weight of 4 gives; the code's own defaults are T = 1 and 0.5. Not to be mistaken for
    Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.

    Args:
        target_weight: factor of the part on the pixels of the class. rest_weight: of the part on the others.
        softmax_over: `spatial`: the pixels of each map, as above. `batch_class`: at each pixel the B*K maps jointly;
            the divisor is then B*N.
        segment: add to L, for the mean scores of each label's pixels, (A + rest_weight * R) / B: per image, T^2 times
            the mean over the labels there of the divergence over classes (`spatial`) or over those labels
            (`batch_class`) of the masked means, A with m and R with 1 - m.
        merge_label: inclusive ranges of label ids, one for each of the K channels, else a ValueError; None: channel k
            is label k.

    Returns:
        scalar in nats. Labels are resized to nearest.
    """

    def __init__(
        self,
        task: Task,
        *,
        temperature: Temperature = 4.0,
        target_weight: Weight = 1.0,
        rest_weight: Weight = 1.0,
        softmax_over: Literal["spatial", "batch_class"] = "spatial",
        segment: bool = False,
        merge_label: list[tuple[LabelId, LabelId]] | None = None,
    ):
        super().__init__()
        if target_weight == rest_weight == 0:
            raise ValueError("dkd: target_weight and rest_weight are both 0; give one of the parts a weight")
        self.pair = Pair(task, "logits")
        ranges = [(k, k) for k in range(task.num_classes)] if merge_label is None else merge_label
        if len(ranges) != task.num_classes:
            raise ValueError(f"dkd: merge_label holds {len(ranges)} ranges for {task.num_classes} classes; one each")
        wrong = [(first, last) for first, last in ranges if first > last]
        if wrong:
            raise ValueError(f"dkd: merge_label holds {wrong[0]}, which is no range of label ids (first <= last)")
        self.ignore_index = task.ignore_index
        self.temperature = temperature
        self.target_weight, self.rest_weight = target_weight, rest_weight
        self.softmax_over = softmax_over
        self.segment = segment
        ids = torch.arange(max(last for _, last in ranges) + 1)
        members = torch.stack([(ids >= first) & (ids <= last) for first, last in ranges])
        # part of the recipe, not of the checkpoint: (K, I), which of the I label ids a channel stands for
        self.register_buffer("members", members, persistent=False)

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> Tensor:
        s, t = self.pair.maps(student, teacher)
        ids = class_masks(target, t, self.members.shape[1], self.ignore_index)  # (B, I, N)
        s, t = (x.flatten(2) / self.temperature for x in (s, t))  # (B, K, N)
        with torch.autocast(s.device.type, enabled=False):
            members = self.members.to(s.dtype)
            loss = self.maps(s, t, members @ ids)
            if self.segment:
                loss = loss + self.segments(s, t, ids, members)
        return self.temperature**2 * loss

    def maps(self, s: Tensor, t: Tensor, masks: Tensor) -> Tensor:
        """The two parts over all pixels, without T^2: s and t (B, K, N) divided by T, masks (B, K, N)."""
        parts = []
        inside = s * masks, t * masks
        for x, y in (inside, (s - inside[0], t - inside[1])):
            if self.softmax_over == "batch_class":
                x, y = (z.flatten(0, 1).T for z in (x, y))  # (N, B K)
            parts.append(divergence(x, y, -1).sum())
        batch, channels, pixels = s.shape
        divisor = batch * (channels if self.softmax_over == "spatial" else pixels)
        return (self.target_weight * parts[0] + self.rest_weight * parts[1]) / divisor

    def segments(self, s: Tensor, t: Tensor, ids: Tensor, members: Tensor) -> Tensor:
        """The two parts over the mean scores of each label's pixels, without T^2; ids (B, I, N), members (K, I)."""
        count = ids.sum(-1)
        there = count > 0  # (B, I)
        parts = []
        for mask in (members.T, 1 - members.T):
            x, y = (class_sums(z, ids) / count.clamp_min(1)[..., None] * mask for z in (s, t))  # (B, I, K)
            if self.softmax_over == "batch_class":
                # absent labels must not weigh in the softmax; -inf on both sides would give NaN
                x, y = (z.masked_fill(~there[..., None], -1e30).mT for z in (x, y))  # (B, K, I)
                parts.append(divergence(x, y, -1).sum(-1))
            else:
                parts.append((divergence(x, y, -1) * there).sum(-1))
        mean = (parts[0] + self.rest_weight * parts[1]) / there.sum(-1).clamp_min(1)  # (B,)
        return mean.mean()
