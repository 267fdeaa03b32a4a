"""From one network's scores to SAM's masks, and what these do to another's features: TSIC's way of prompting."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ._prediction import Prediction, resize

Guidance = Literal["released", "channel", "spatial"]


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


def grid_positions(frequencies: Tensor, grid: tuple[int, int]) -> Tensor:
    """SAM's embedding of the places of a grid: sines and cosines of random frequencies.

        p = 2 (x, y) - 1 at the centres of the cells of a unit square,    e = [sin(2 pi p F), cos(2 pi p F)]

    Shapes:
        frequencies: F, (2, C / 2). returns: (1, C, *grid), in F's type.
    """
    height, width = grid
    rows, columns = ((torch.arange(n, device=frequencies.device) + 0.5) / n for n in grid)
    places = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], dim=-1)  # (h, w, 2)
    # the products are large: in half precision neighbours would fall together
    with torch.autocast(frequencies.device.type, enabled=False):
        angles = 2 * math.pi * ((2 * places - 1).to(frequencies.dtype) @ frequencies)  # (h, w, C / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)[None]  # (1, C, h, w)


def embed_mask(prompt_encoder: nn.Module, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """SAM's embeddings of one mask per image, see `mask_prompt`, and of the positions on a grid.

    Shapes:
        grid: (h, w), with TSIC's decoder a quarter of the image. mask: (B, 1, H, W). returns: sparse (B, 0, 256), there
        being neither points nor boxes; dense (B, 256, H // 4, W // 4); positions (1, 256, *grid).
    """
    sparse, dense = prompt_encoder(points=None, boxes=None, masks=mask)
    return sparse, dense, grid_positions(prompt_encoder.pe_layer.positional_encoding_gaussian_matrix, grid)


def decode(
    mask_decoder: nn.Module, image_map: Tensor, sparse: Tensor, dense: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """SAM's output tokens and pixels, each image with its own prompt; arguments as for `decode_masks`.

    The decoder's own forward pairs every image with every prompt (its purpose is many prompts on one image), so its
    parts are called here.

    Shapes:
        returns: tokens (B, 5 + P, 256): the quality's, the single mask's, three alternative masks', the prompts';
        pixels (B, 32, 4h, 4w).
    """
    batch = len(dense)
    image_map = resize(image_map, dense.shape[-2:], align_corners=False) + dense
    own = torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight])  # (5, 256)
    tokens = torch.cat([own.expand(batch, -1, -1), sparse], dim=1)  # (B, 5 + P, 256)
    tokens, pixels = mask_decoder.transformer(image_map, positions.expand(batch, -1, -1, -1), tokens)
    return tokens, mask_decoder.output_upscaling(pixels.mT.reshape(dense.shape))  # (B, hw, 256) -> (B, 32, 4h, 4w)


def decode_masks(
    mask_decoder: nn.Module, image_map: Tensor, sparse: Tensor, dense: Tensor, positions: Tensor
) -> Tensor:
    """SAM's three alternative masks per image. Its fourth mask and its estimate of their quality are not computed.

    Shapes:
        image_map: (B, 256, h', w'), the encoder's last map, resized bilinearly to the dense embedding's size.
        sparse: (B, P, 256). dense: (B, 256, h, w). positions: (1, 256, h, w). returns: (B, 3, 4h, 4w), logits.
    """
    tokens, pixels = decode(mask_decoder, image_map, sparse, dense, positions)
    # token 0 is the quality's, token 1 the single mask's: the alternatives begin at token 2
    filters = [network(tokens[:, 1 + i]) for i, network in enumerate(mask_decoder.output_hypernetworks_mlps) if i > 0]
    masks = torch.stack(filters, dim=1) @ pixels.flatten(2)  # (B, 3, 32) @ (B, 32, 16hw)
    return masks.unflatten(2, pixels.shape[-2:])


class PromptAttention(nn.Module):
    """What SAM's masks do to the fused feature F of TSIC's teacher.

        released: F
        channel:  F_cn (1 + C a_c),    a = softmax_c(e_c / N)
        spatial:  F_cn (1 + sigmoid(p_n))
        q = ReLU(BN(conv(F))),    p_n = max over masks of prompt_mn,    e_c = sum_n q_cn p_n

    The released code weighs channels by softmax(max(e) - e), but keeps e as (B, C, 1) and takes both maximum and
    softmax over the last axis. That axis has one entry, and the softmax of one number is exp(0) / exp(0) = 1 whatever
    the number: the output is F, and the derivative of a constant is 0, so neither the masks nor the convolution (nor,
    before them, SAM's prompt encoder and mask decoder) ever get a gradient. `released` therefore returns F and computes
    nothing. Not imitated: in training the original's batch norm gathers statistics, which nothing reads.
    The paper's own formula is not known; `channel` and `spatial` are working forms of the idea and not published ones.
    Their factors are 2 on average over the channels, and between 1 and 2. A mask that is the strongest nowhere gets no
    gradient at that step.

    Parameters are named as in TSIC, `conv`, `bn`; `spatial` has none.

    Shapes:
        features: (B, C, h, w). prompt_masks: (B, M, h', w'), resized bilinearly to the features' size.
    """

    def __init__(self, channels: int, guidance: Guidance = "released"):
        super().__init__()
        self.guidance = guidance
        if guidance != "spatial":
            self.conv = nn.Conv2d(channels, channels, 1, bias=False)
            self.bn = nn.BatchNorm2d(channels)

    def energy(self, features: Tensor, prompt_masks: Tensor) -> Tensor:
        """e, (B, C): how strongly each channel answers the strongest mask at each place."""
        query = self.bn(self.conv(features)).relu()
        prompt = self.strongest(features, prompt_masks)
        # sums over all places of an image: not in half precision
        with torch.autocast(features.device.type, enabled=False):
            query = query.to(torch.promote_types(query.dtype, torch.float32))
            return torch.einsum("bchw,bhw->bc", query, prompt.to(query.dtype))

    def strongest(self, features: Tensor, prompt_masks: Tensor) -> Tensor:
        """p, (B, h, w)."""
        return resize(prompt_masks, features.shape[-2:], align_corners=False).amax(1)

    def forward(self, features: Tensor, prompt_masks: Tensor | None) -> Tensor:
        if self.guidance == "released":
            return features
        channels, places = features.shape[1], features.shape[-2] * features.shape[-1]
        if self.guidance == "spatial":
            weights = self.strongest(features, prompt_masks).sigmoid()[:, None]  # (B, 1, h, w)
        else:
            shares = (self.energy(features, prompt_masks) / places).softmax(dim=1)  # (B, C)
            weights = channels * shares[:, :, None, None]
        return features * (1 + weights.to(features.dtype))


def freeze_unused(prompt_encoder: nn.Module, mask_decoder: nn.Module) -> None:
    """Takes those parameters of SAM's two modules out of training that a mask alone never reaches.

    They are the embeddings of points, boxes and a missing mask, the estimate of a mask's quality and the making of
    the single mask; all stay in the state dict, which is the published one.
    """
    for part in (
        prompt_encoder.point_embeddings,
        prompt_encoder.not_a_point_embed,
        prompt_encoder.no_mask_embed,
        mask_decoder.iou_prediction_head,
        mask_decoder.output_hypernetworks_mlps[0],
    ):
        part.requires_grad_(False)
