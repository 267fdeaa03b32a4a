"""From one network's scores to SAM's masks: the way TSIC's student prompts its teacher."""

import torch
from torch import Tensor, nn

from ._prediction import Prediction, resize


@torch.no_grad()
def mask_prompt(prediction: Prediction, size: tuple[int, int]) -> Tensor:
    """The predicted class of every pixel as a mask: the class index itself, 0 to K - 1, as a float.

    SAM was trained with its own logits at a quarter of the image's size instead; TSIC feeds whole-size indices, so
    that the order of the classes acts as a magnitude. No gradient.

    Shapes:
        prediction.logits: (B, K, h, w), resized bilinearly to `size` = (H, W), by their family's rule, before the
        maximum. returns: (B, 1, H, W), in the type the logits are compared in.
    """
    logits = prediction.resized(size)
    return logits.argmax(1, keepdim=True).to(logits.dtype)


def embed_mask(prompt_encoder: nn.Module, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """SAM's embeddings of one mask per image and of the positions on a grid.

    Args:
        prompt_encoder: SAM's, in float32: it makes its positions in that type.
        mask: as `mask_prompt` gives it.
        grid: (h, w) of the positions; with TSIC's decoder a quarter of the image.

    Shapes:
        mask: (B, 1, H, W). returns: sparse (B, 0, 256), there being neither points nor boxes;
        dense (B, 256, H // 4, W // 4); positions (1, 256, *grid).
    """
    sparse, dense = prompt_encoder(points=None, boxes=None, masks=mask)
    # the coordinates are multiplied by large frequencies: in half precision neighbours would fall together
    with torch.autocast(mask.device.type, enabled=False):
        positions = prompt_encoder.pe_layer(tuple(grid))[None]
    return sparse, dense, positions


def decode_masks(
    mask_decoder: nn.Module, image_map: Tensor, sparse: Tensor, dense: Tensor, positions: Tensor
) -> Tensor:
    """SAM's three alternative masks per image, each image with its own prompt.

    The decoder's own forward pairs every image with every prompt (its purpose is many prompts on one image), so its
    parts are called here. Its fourth mask and its estimate of each mask's quality are not computed.

    Shapes:
        image_map: (B, 256, h', w'), the encoder's last map, resized bilinearly to the dense embedding's size.
        sparse: (B, P, 256). dense: (B, 256, h, w). positions: (1, 256, h, w). returns: (B, 3, 4h, 4w), logits.
    """
    batch = len(dense)
    image_map = resize(image_map, dense.shape[-2:], align_corners=False) + dense
    own = torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight])  # (5, 256)
    tokens = torch.cat([own.expand(batch, -1, -1), sparse], dim=1)  # (B, 5 + P, 256)
    tokens, pixels = mask_decoder.transformer(image_map, positions.expand(batch, -1, -1, -1), tokens)
    pixels = mask_decoder.output_upscaling(pixels.mT.reshape(dense.shape))  # (B, hw, 256) -> (B, 32, 4h, 4w)
    # token 0 is the quality's, token 1 the single mask's: the alternatives begin at token 2
    filters = [network(tokens[:, 1 + i]) for i, network in enumerate(mask_decoder.output_hypernetworks_mlps) if i > 0]
    masks = torch.stack(filters, dim=1) @ pixels.flatten(2)  # (B, 3, 32) @ (B, 32, 16hw)
    return masks.unflatten(2, pixels.shape[-2:])


class PromptAttention(nn.Module):
    """TSIC's weighting of the fused feature's channels by SAM's masks, as released: the feature, unchanged.

        q = ReLU(BN(conv(F))),    p_n = max over masks of prompt_mn
        e_c = sum_n q_cn p_n,     a = softmax(max(e) - e),    output_cn = a_c F_cn

    The released code keeps e as (B, C, 1) and takes both maximum and softmax over the last axis. That axis has one
    entry, and the softmax of one number is exp(0) / exp(0) = 1 whatever the number: a = 1, output = F, and the
    derivative of a constant is 0, so neither the masks nor the convolution (nor, before them, SAM's prompt encoder and
    mask decoder) ever get a gradient. Forward therefore returns F and computes nothing.
    Not imitated: in training the original's batch norm gathers statistics, which nothing reads.

    The parameters are there for the checkpoint's keys, `att_conv.{conv,bn}.*`, and for `energy`.

    Shapes:
        features: (B, C, h, w). prompt_masks: (B, M, h, w), at the features' size.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def energy(self, features: Tensor, prompt_masks: Tensor) -> Tensor:
        """e, (B, C): how strongly each channel answers the strongest mask; the original computes and discards it."""
        query = self.bn(self.conv(features)).relu()
        prompt = prompt_masks.amax(1)  # (B, h, w)
        return torch.einsum("bchw,bhw->bc", query, prompt)

    def forward(self, features: Tensor, prompt_masks: Tensor) -> Tensor:
        return features
