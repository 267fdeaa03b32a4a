"""Cross entropy at label size, with the averages and the hard-pixel rules of the published codes."""

import logging
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from ._class_weights import ClassWeights, weights_of
from ._pair import channels_of, pick
from ._task import Prediction, Share, Task, Weight, at_least_float32, of_heads, resize

logger = logging.getLogger(__name__)


class CrossEntropy(nn.Module):
    """Cross entropy of the student's scores, plus the same of its auxiliary head where it has one.

        ce_n = -log softmax(z_n)[y_n]
        L(z) = sum_n k_n w[y_n] ce_n / D,    loss = L(logits) + aux_weight * L(aux)

    n runs over the B*H*W label pixels, z is resized to the label bilinearly, k_n = 0 on ignored pixels and on those
    the hard-pixel rule drops, w are the class weights (1 without any).

    Source: plain cross entropy as in CIRKD, DIST, TriKD (D = "valid"); mmsegmentation, so RMRKD and TSIC ("all");
    AICSD ("valid_x_batch"). OHEM as released by TriKD ("batch"), by mmsegmentation's sampler and TSIC ("image"), by
    PIDNet and DDRNet ("strict") and by BiSeNetV2 and STDC ("largest"), the last two with D = "count". The focal form is
    AICSD's: its factor multiplies the averaged loss, not each pixel as in Lin et al., ICCV 2017.
    Left out: TSIC adds 1.2e-7 to the pixel count.

    Args:
        scores: one map of scores to read and no other: `logits`, `aux`, or a feature with a channel per class, which is
            what further heads for training alone are. None: the scores, and those of the auxiliary head.
        aux_weight: factor of the auxiliary head's loss.
        class_weights: K weights (else a ValueError), `cityscapes` for the usual 19, or a rule by which they follow from
            the training labels, `auto` being `median_frequency`, see _class_weights.weights_by.
        divisor: D. `valid`: the sum of the counted pixels' class weights, so the mean over counted pixels without
            weights. `all`: B*H*W, ignored and dropped pixels included. `count`: the number of counted pixels, whatever
            their weights. `valid_x_batch`: `valid` times B. B is the images that one process computes at a time, so
            that loop.accumulate, and more processes, change `valid_x_batch` by as much.
        ohem_min_kept: turns on online hard example mining; the least number of pixels to keep (see ohem_rule).
        ohem_threshold: pixels whose true class has a probability up to this are kept, however many they are;
            None keeps the ohem_min_kept pixels of highest loss and no others.
        ohem_rule: who is kept, p being the true class's probability and k-th the k-th smallest p of the whole batch.
            `batch`: p <= max(threshold, k-th), k = min_kept; everything if min_kept is 0 or exceeds the valid pixels.
            `strict`: p < max(threshold, (k+1)-th), k = min_kept; with fewer valid pixels the last takes its place.
            `image`: `strict` with k = min_kept * B.
            `largest`: p < threshold, and at least the k of highest loss, k = min_kept; ignored pixels count among
            these, as of loss 0, where fewer than k are valid.
        ohem_min_share: turns on `largest` with k = this share of the valid pixels, rounded down, in place of min_kept.
        focal_gamma: turns on L -> focal_alpha * (1 - exp(-L))^focal_gamma * L (before the division by B).
        focal_alpha: see focal_gamma.

    Returns:
        scalar in nats; 0 with zero gradient when every pixel is ignored (AICSD, TriKD, BiSeNetV2: NaN; PIDNet: an
        error). The teacher is not used.

    Raises:
        ValueError: scores that the network does not have, or with other channels than there are classes; arguments that
            contradict each other.
    """

    def __init__(
        self,
        task: Task,
        *,
        scores: str | None = None,
        aux_weight: Weight = 0.4,
        class_weights: ClassWeights = None,
        divisor: Literal["valid", "all", "count", "valid_x_batch"] = "valid",
        ohem_min_kept: Annotated[int, Interval(ge=0, le=10**9)] | None = None,
        ohem_threshold: Share | None = 0.7,
        ohem_rule: Literal["batch", "image", "strict", "largest"] = "batch",
        ohem_min_share: Share | None = None,
        focal_gamma: Weight | None = None,
        focal_alpha: Annotated[float, Interval(gt=0, le=1)] = 0.5,
    ):
        super().__init__()
        if ohem_min_share is not None and (ohem_rule != "largest" or ohem_min_kept is not None):
            raise ValueError("cross_entropy: ohem_min_share is for ohem_rule: largest, and in place of ohem_min_kept")
        if ohem_min_kept is None and ohem_min_share is None and (ohem_rule, ohem_threshold) != ("batch", 0.7):
            logger.warning("cross_entropy: ohem_rule and ohem_threshold mine nothing without ohem_min_kept or _share")
        if focal_gamma is None and focal_alpha != 0.5:
            logger.warning("cross_entropy: focal_alpha does nothing without focal_gamma")
        if scores is None:
            task.student.read_heads()
        elif (channels := channels_of(task.student, scores, task.num_classes)) != task.num_classes:
            raise ValueError(f"cross_entropy: {scores} has {channels} channels and not one for each class")
        self.scores = scores
        self.ignore_index = task.ignore_index
        self.aux_weight = aux_weight
        self.divisor = divisor
        self.ohem_min_kept, self.ohem_min_share = ohem_min_kept, ohem_min_share
        self.ohem_threshold, self.ohem_rule = ohem_threshold, ohem_rule
        self.focal_gamma, self.focal_alpha = focal_gamma, focal_alpha
        # part of the recipe, not of the checkpoint
        self.register_buffer("class_weights", weights_of(class_weights, task, "cross_entropy"), persistent=False)

    def forward(self, student: Prediction, teacher: Prediction | None, target: Tensor) -> Tensor:
        if self.scores is not None:
            return self.of_head(pick(student, self.scores), target, student.align_corners)
        return of_heads(self.of_head, student, target, self.aux_weight)

    def of_head(self, logits: Tensor, target: Tensor, align_corners: bool) -> Tensor:
        """The loss of one head's (B, K, h, w) scores, a scalar."""
        logits = resize(at_least_float32(logits), target.shape[-2:], align_corners)  # (B, K, H, W)
        ce = F.cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="none")  # (B, H, W)
        valid = target != self.ignore_index
        is_mined = self.ohem_min_kept is not None or self.ohem_min_share is not None
        counted = self.hard_pixels(ce.detach(), valid) if is_mined else valid
        weight = counted.to(ce.dtype)
        if self.class_weights is not None:
            weight = weight * self.class_weights.to(ce.dtype)[target.where(valid, 0)]
        total = (weight * ce).sum()
        if self.divisor == "all":
            loss = total / target.numel()
        else:
            # with nothing counted the numerator is 0 and stays 0: no test that would wait for the device
            divisor = counted.sum().to(ce.dtype) if self.divisor == "count" else weight.sum()
            loss = total / divisor.where(divisor > 0, 1)
        if self.focal_gamma is not None:
            # the lower bound keeps the gradient of a power below 1 finite at loss 0
            hardness = (-torch.expm1(-loss)).clamp_min(torch.finfo(ce.dtype).eps)
            loss = self.focal_alpha * hardness**self.focal_gamma * loss
        return loss / len(target) if self.divisor == "valid_x_batch" else loss

    def hard_pixels(self, ce: Tensor, valid: Tensor) -> Tensor:
        """Which pixels the OHEM rule keeps.

        Args:
            ce: (B, H, W) cross entropy per pixel, without class weights. valid: (B, H, W) bool, not ignored.

        Returns:
            (B, H, W) bool, a subset of valid but for `largest`. All decisions stay on the device.
        """
        if self.ohem_rule == "largest":
            return self.largest(ce, valid)
        budget = self.ohem_min_kept * (len(ce) if self.ohem_rule == "image" else 1)
        if self.ohem_threshold is None:
            return _highest(ce, valid, budget)
        probability = torch.exp(-ce).masked_fill(~valid, torch.inf)
        if self.ohem_rule == "batch":
            if budget == 0:
                return valid
            # fewer valid pixels than the budget: the bound is inf and keeps them all
            bound = _smallest(probability, budget).clamp_min(self.ohem_threshold)
            return valid & (probability <= bound)
        most_confident = probability.masked_fill(~valid, -torch.inf).amax()
        bound = _smallest(probability, budget + 1).minimum(most_confident).clamp_min(self.ohem_threshold)
        return valid & (probability < bound)

    def largest(self, ce: Tensor, valid: Tensor) -> Tensor:
        """Which pixels the OHEM rule `largest` keeps; see `hard_pixels`."""
        budget = self.ohem_min_kept if self.ohem_min_share is None else (self.ohem_min_share * valid.sum()).floor()
        above = 0 if self.ohem_threshold is None else (torch.exp(-ce) < self.ohem_threshold).sum()
        order = ce.flatten().argsort(descending=True, stable=True)
        rank = torch.arange(len(order), device=ce.device)
        kept = torch.zeros_like(order, dtype=torch.bool)
        return kept.scatter(0, order, (rank < above) | (rank < budget)).view_as(valid)


def _smallest(x: Tensor, k: int) -> Tensor:
    """The k-th smallest value of x (its largest when it has fewer): selection, not a sort of millions of pixels."""
    # topk and not kthvalue, which refuses to run on CUDA under deterministic algorithms
    return x.flatten().topk(min(k, x.numel()), largest=False, sorted=False).values.amax()


def _highest(ce: Tensor, valid: Tensor, k: int) -> Tensor:
    """The k valid pixels of highest loss; of equal ones the first in raster order, whatever the device."""
    if k == 0:
        return torch.zeros_like(valid)
    # upsampled borders repeat pixels, so ties at the bound do happen
    ce = ce.masked_fill(~valid, -torch.inf)
    bound = -_smallest(-ce, k)
    above, ties = ce > bound, ce == bound
    rank = ties.flatten().cumsum(0).view_as(ties)  # (B, H, W)
    return valid & (above | (ties & (rank <= k - above.sum())))
