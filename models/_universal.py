"""Mask classification (queries with a class and a mask each) as class scores of every pixel."""

import torch
from torch import Tensor, nn

from ._prediction import at_least_float32

LEAST = 1e-30  # of a mass relative to its pixel's and its class's largest factor; far above float32's smallest number

# CLIP's tokens of "the task is semantic", which OneFormer's task encoder reads as numbers, then zeros
SEMANTIC_TASK = (49406, 518, 10549, 533, 29119, 1550, 49407)


def dense_logits(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Class scores of every pixel from a universal model's queries.

        mass[k, n] = sum_q softmax(c_q)[k] * sigmoid(m_q[n]),   k over the classes without the last, null one
        logits = log(mass)

    softmax(logits) is the mass normalised over the classes, argmax(logits) the published semantic inference of
    MaskFormer (Cheng et al., Per-Pixel Classification is Not All You Need, NeurIPS 2021, arXiv 2107.06278, section
    3.4), Mask2Former, OneFormer and EoMT; a class map's log-sum-exp adds masses.

    The factors are divided by their largest over the queries before the sum and the logarithms of those are added
    after it, so that neither a class nor a pixel no query is sure of vanishes, and its gradient with it.

    Shapes:
        class_logits: (B, Q, K + 1), the null class last. mask_logits: (B, Q, h, w).
        returns: (B, K, h, w), finite, at least float32.
    """
    class_logits = at_least_float32(class_logits)
    mask_logits = mask_logits.to(class_logits.dtype)
    log_classes = class_logits.log_softmax(dim=-1)[..., :-1]  # (B, Q, K)
    log_masks = torch.nn.functional.logsigmoid(mask_logits)
    # constants: the result does not depend on them, so neither does its gradient
    of_class = log_classes.detach().amax(dim=1, keepdim=True)  # (B, 1, K)
    of_pixel = log_masks.detach().amax(dim=1, keepdim=True)  # (B, 1, h, w)
    with torch.autocast(class_logits.device.type, enabled=False):
        mass = torch.einsum("bqk,bqhw->bkhw", (log_classes - of_class).exp(), (log_masks - of_pixel).exp())
    return mass.clamp_min(LEAST).log() + of_class.transpose(1, 2).unsqueeze(-1) + of_pixel  # (B, K, h, w)


def universal_scores(
    network: nn.Module, pixels: Tensor, keep_hidden: bool
) -> tuple[Tensor, tuple[Tensor, ...] | None, Tensor | None]:
    """One forward of transformers' MaskFormer, Mask2Former, OneFormer, EoMT or DETR with masks.

    Shapes:
        pixels: (B, 3, H, W) normalised.
        returns: class scores (B, K, h, w) at the stride of the masks; the encoder's hidden states as they are; the
            map (B, C, h, w) whose products with the queries are the masks. The latter two may be None.
    """
    kind = network.config.model_type
    given = {}
    if kind == "oneformer":
        length = network.config.task_seq_len
        task = torch.tensor([*SEMANTIC_TASK, *[0] * length][:length], device=pixels.device)
        given = {"task_inputs": task.expand(len(pixels), -1)}  # (B, length)
    # these three make their scores from hidden states, some of them only from those they are asked for
    keep_hidden = keep_hidden or kind in ("maskformer", "mask2former", "oneformer")
    output = network(pixels, output_hidden_states=keep_hidden, **given)
    if "pred_masks" in output:
        return dense_logits(output.logits, output.pred_masks), output.get("encoder_hidden_states"), None
    head = output.get("pixel_decoder_last_hidden_state")
    if kind == "oneformer":
        head = output.pixel_decoder_hidden_states[0]
    hidden = output.get("encoder_hidden_states") or output.get("hidden_states")
    return dense_logits(output.class_queries_logits, output.masks_queries_logits), hidden, head
