"""Segment Anything's image encoder on images of any size, and the two modules that make masks of prompts.

Kirillov et al., Segment Anything, ICCV 2023, arXiv 2304.02643; the modules are those of the package
segment_anything, so the keys are those of the published files.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

Arch = Literal["vit_b", "vit_l", "vit_h"]
PATCH = 16


@dataclass(frozen=True)
class Sizes:
    """Of an image encoder: tokens are `embed_dim` wide, blocks not in `global_blocks` attend in square windows."""

    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    window_size: int = 14
    out_channels: int = 256
    mlp_ratio: float = 4.0


PUBLISHED: dict[str, Sizes] = {
    "vit_b": Sizes(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Sizes(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Sizes(1280, 32, 16, (7, 15, 23, 31)),
}

# Hugging Face's copies of the published files, whole and without code in them
REPOSITORY = {"vit_b": "facebook/sam-vit-base", "vit_l": "facebook/sam-vit-large", "vit_h": "facebook/sam-vit-huge"}


def resize_pos_embed(pos_embed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Absolute position embeddings of another grid of tokens, bicubic, not antialiased.

    Shapes:
        pos_embed: (1, h, w, C) -> (1, *grid, C). A grid it has already: the same tensor.
    """
    if tuple(pos_embed.shape[1:3]) == tuple(grid):
        return pos_embed
    maps = pos_embed.permute(0, 3, 1, 2)  # (1, C, h, w)
    resized = F.interpolate(maps, size=tuple(grid), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)  # (1, H, W, C)


def resize_rel_pos(rel_pos: Tensor, tokens: int) -> Tensor:
    """The table of relative position embeddings for an axis of that many tokens, linear.

    Shapes:
        rel_pos: (L, C) -> (2 * tokens - 1, C). A length it has already: the same tensor.
    """
    rows = 2 * tokens - 1
    if len(rel_pos) == rows:
        return rel_pos
    columns = rel_pos.T[None]  # (1, C, L)
    return F.interpolate(columns, size=rows, mode="linear", align_corners=False)[0].T


def relative_positions(rel_pos: Tensor, tokens: int) -> Tensor:
    """Embedding of the distance i - j of every two tokens of an axis.

    Shapes:
        rel_pos: (L, C), any L -> (tokens, tokens, C), i first.
    """
    table = resize_rel_pos(rel_pos, tokens)
    place = torch.arange(tokens, device=table.device)
    return table[place[:, None] - place[None, :] + tokens - 1]


def fitted_tables(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's entries, their position tables resized to those of the encoder that has the entries `own`.

    The first of two resizes, the second being that of each forward pass to the image's own grid. TSIC builds its
    encoder for the crop's height and so has both; an encoder built for the published 1024 pixels has the second only.
    The two ways agree where either resize changes nothing.
    """
    fitted = dict(state)
    for key, value in state.items():
        if key in own and own[key].shape != value.shape:
            if re.search(r"(^|\.)pos_embed$", key) and value.dim() == 4:
                fitted[key] = resize_pos_embed(value, tuple(own[key].shape[1:3])).contiguous()
            elif re.search(r"\.rel_pos_[hw]$", key) and value.dim() == 2:
                fitted[key] = resize_rel_pos(value, (len(own[key]) + 1) // 2).contiguous()
    return fitted


class FactoredAttention(nn.Module):
    """The package's attention, of the whole image or within windows, never holding a weight for every two tokens.

        a_ij = s q_i . k_j + q_i . Rh[y_i - y_j] + q_i . Rw[x_i - x_j]
             = [s q_i, q_i Rh[y_i - .], q_i Rw[x_i - .]] . [k_j, onehot(y_j), onehot(x_j)],    s = 1 / sqrt(C / heads)

    (y, x) is a token's place in its window. The second line is plain dot-product attention with h + w channels more per
    head, which torch's fused kernels compute from the factors: more arithmetic, but no pass over a (hw, hw) map per
    head and none kept for backward. Image edges are filled up to whole windows with zero tokens, which are attended to.
    The package projects those too; here what the projection makes of zeros is put in instead, and what is attended at
    their places is dropped before the second projection; 32 x 64 tokens in windows of 14 need 30 % less of both.

    Takes over the parameters of the attention given, under their names. tests/benchmarks/sam.py measures it.

    Args:
        window_size: side of the square windows in tokens; 0: the whole image is one.

    Shapes:
        x: (B, h, w, C) -> (B, h, w, C).
    """

    def __init__(self, attention: nn.Module, window_size: int = 0):
        super().__init__()
        self.window_size = window_size
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        h, w = (self.window_size, self.window_size) if self.window_size else (height, width)
        qkv = self.qkv(x)
        down, right = -height % h, -width % w
        if down or right:
            empty = self.qkv.bias.to(qkv.dtype)  # (3C,), what it makes of zeros
            qkv = torch.cat([qkv, empty.expand(batch, height, right, -1)], dim=2)
            qkv = torch.cat([qkv, empty.expand(batch, down, width + right, -1)], dim=1)
        windows = (height + down) // h, (width + right) // w
        parts = qkv.view(batch, windows[0], h, windows[1], w, 3, self.num_heads, -1)
        # (3, B, windows, windows, heads, h, w, c) -> each (B * windows^2, heads, h, w, c)
        q, k, v = parts.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(1, 3)
        seen = self.attend(q, k, v)  # (B * windows^2, heads, hw, c)
        seen = seen.view(batch, *windows, self.num_heads, h, w, -1).permute(0, 1, 4, 2, 5, 3, 6)
        seen = seen.reshape(batch, height + down, width + right, -1)  # (B, H, W, C)
        return self.proj(seen[:, :height, :width])

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention within windows. q, k, v: (B, heads, h, w, c) -> (B, heads, h * w, c)."""
        h, w, channels = q.shape[-3:]
        by_row = torch.einsum("bnhwc,hkc->bnhwk", q, relative_positions(self.rel_pos_h, h).to(q.dtype))
        by_column = torch.einsum("bnhwc,wkc->bnhwk", q, relative_positions(self.rel_pos_w, w).to(q.dtype))
        rows = torch.eye(h, dtype=k.dtype, device=k.device)[:, None].expand(h, w, h)
        columns = torch.eye(w, dtype=k.dtype, device=k.device).expand(h, w, w)
        place = torch.cat([rows, columns], dim=-1).expand(*k.shape[:-1], h + w)
        queries = torch.cat([self.scale * q, by_row, by_column], dim=-1)
        keys = torch.cat([k, place], dim=-1)
        # the kernels want one width for all three, and a multiple of 8 of it
        full = -(-keys.shape[-1] // 8) * 8
        padded = [F.pad(part, (0, full - part.shape[-1])).flatten(2, 3) for part in (queries, keys, v)]
        return F.scaled_dot_product_attention(*padded, scale=1.0)[..., :channels]


def build_encoder(sizes: Sizes, image_size: int) -> ImageEncoderViT:
    """An image encoder with random weights, its attention factored, its position tables for square images.

    Raises:
        ValueError: sizes that fit no encoder.
    """
    if sizes.embed_dim % sizes.num_heads:
        raise ValueError(f"sam: embed_dim {sizes.embed_dim} is no multiple of num_heads {sizes.num_heads}")
    if not set(sizes.global_blocks) <= set(range(sizes.depth)):
        raise ValueError(f"sam: global_blocks {list(sizes.global_blocks)} are not all among the {sizes.depth} blocks")
    encoder = ImageEncoderViT(
        img_size=image_size,
        patch_size=PATCH,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        mlp_ratio=sizes.mlp_ratio,
        out_chans=sizes.out_channels,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=sizes.window_size,
        global_attn_indexes=sizes.global_blocks,
    )
    for block in encoder.blocks:
        # the attention makes its windows itself
        block.attn, block.window_size = FactoredAttention(block.attn, block.window_size), 0
    return encoder


def build_prompter(channels: int) -> tuple[PromptEncoder, MaskDecoder]:
    """SAM's prompt encoder and mask decoder with random weights, for image maps of that many channels."""
    # the sizes in pixels serve points, boxes and the package's own grid of positions, none of which is used here
    grid, pixels = (1024 // PATCH, 1024 // PATCH), (1024, 1024)
    encoder = PromptEncoder(channels, image_embedding_size=grid, input_image_size=pixels, mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=2048, num_heads=8)
    return encoder, MaskDecoder(transformer_dim=channels, transformer=transformer)


def encode(encoder: ImageEncoderViT, images: Tensor, taps: tuple[int, ...]) -> dict[int, Tensor]:
    """What the given blocks put out; blocks behind the last of them do not run.

    Images are padded with zeros (the mean colour) on the right and at the bottom to whole patches; the maps cover the
    padding too.

    Shapes:
        images: (B, 3, H, W), normalised. returns: block -> (B, C, ceil(H / 16), ceil(W / 16)), before the neck.
    """
    height, width = images.shape[-2:]
    images = F.pad(images, (0, -width % PATCH, 0, -height % PATCH))
    tokens = encoder.patch_embed(images)  # (B, h, w, C)
    tokens = tokens + resize_pos_embed(encoder.pos_embed, tokens.shape[1:3])
    found = {}
    for index, block in enumerate(encoder.blocks[: max(taps) + 1]):
        tokens = block(tokens)
        if index in taps:
            found[index] = tokens.permute(0, 3, 1, 2)  # (B, C, h, w)
    return found
