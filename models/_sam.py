"""Segment Anything's image encoder on images of any size, with a map after every global block.

Kirillov et al., Segment Anything, ICCV 2023, arXiv 2304.02643; the modules are those of the package
segment_anything, so the keys are those of the published files. As in TSIC the one neck serves all tapped blocks.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from torch import Tensor, nn

SamName = Literal["vit_b", "vit_l", "vit_h"]


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


class GlobalAttention(nn.Module):
    """The package's attention over a whole image, without ever holding a weight for every two tokens.

        a_ij = s q_i . k_j + q_i . Rh[y_i - y_j] + q_i . Rw[x_i - x_j]
             = [s q_i, q_i Rh[y_i - .], q_i Rw[x_i - .]] . [k_j, onehot(y_j), onehot(x_j)],    s = 1 / sqrt(C / heads)

    (y, x) is a token's place in the grid. The second line is plain dot-product attention with h + w channels more per
    head, which torch's fused kernel computes from the factors: less memory for more arithmetic. Forward and backward of
    one ViT-B block, one image in float32, one CPU core: at 32 x 64 tokens 0.21 GiB and 1.6 s for the package's
    0.72 GiB and 1.4 s, at 48 x 96 tokens 0.56 GiB and 9.0 s for 3.1 GiB and 6.8 s.

    Takes over the parameters of the attention given, under their names.

    Shapes:
        x: (B, h, w, C) -> (B, h, w, C).
    """

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        batch, h, w, _ = x.shape
        qkv = self.qkv(x).view(batch, h, w, 3, self.num_heads, -1)
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5)  # each (B, heads, h, w, c)
        by_row = torch.einsum("bnhwc,hkc->bnhwk", q, relative_positions(self.rel_pos_h, h).to(q.dtype))
        by_column = torch.einsum("bnhwc,wkc->bnhwk", q, relative_positions(self.rel_pos_w, w).to(q.dtype))
        rows = torch.eye(h, dtype=k.dtype, device=k.device)[:, None].expand(h, w, h)
        columns = torch.eye(w, dtype=k.dtype, device=k.device).expand(h, w, w)
        place = torch.cat([rows, columns], dim=-1).expand(*k.shape[:-1], h + w)
        queries = torch.cat([self.scale * q, by_row, by_column], dim=-1)
        keys = torch.cat([k, place], dim=-1)
        # the kernels want one width for all three, and a multiple of 8 of it
        channels = v.shape[-1]
        width = -(-keys.shape[-1] // 8) * 8
        padded = [F.pad(part, (0, width - part.shape[-1])).flatten(2, 3) for part in (queries, keys, v)]
        seen = F.scaled_dot_product_attention(*padded, scale=1.0)[..., :channels]  # (B, heads, hw, c)
        return self.proj(seen.transpose(1, 2).reshape(batch, h, w, -1))


def build_sam(name: SamName) -> nn.Module:
    """SAM with random weights: image_encoder, prompt_encoder, mask_decoder, with the published keys and no others."""
    return sam_model_registry[name]()


def use_global_attention(encoder: nn.Module) -> None:
    """Gives the blocks that attend over the whole image `GlobalAttention`; windows gain nothing from it.

    The state-dict keys and the results stay, so it may be called before or after weights are loaded.
    """
    for index in global_blocks(encoder):
        encoder.blocks[index].attn = GlobalAttention(encoder.blocks[index].attn)


@torch.no_grad()
def adapt_positions(encoder: nn.Module, grid: int) -> None:
    """Resizes the encoder's position embeddings for good, to a square grid of tokens: the first of two stages.

    TSIC does this on loading, with grid = crop height / 16, and resizes a second time to each image's own grid in the
    forward pass. Without it the only resize is that of the forward pass, from the published 64 x 64; the two ways
    agree where either stage changes nothing. Tables of the window blocks stay: a window has the same size everywhere.

    Raises:
        ValueError: grid below 1.
    """
    if grid < 1:
        raise ValueError(f"sam: the grid of tokens must be at least 1 wide, got {grid}")
    encoder.pos_embed = nn.Parameter(
        resize_pos_embed(encoder.pos_embed, (grid, grid)).clone(), encoder.pos_embed.requires_grad
    )
    for block in encoder.blocks:
        if block.window_size == 0:
            attention = block.attn
            for name in ("rel_pos_h", "rel_pos_w"):
                table = getattr(attention, name)
                setattr(attention, name, nn.Parameter(resize_rel_pos(table, grid).clone(), table.requires_grad))


def global_blocks(encoder: nn.Module) -> list[int]:
    """Indices of the blocks that attend over the whole image: 2, 5, 8 and 11 in ViT-B."""
    return [index for index, block in enumerate(encoder.blocks) if block.window_size == 0]


def encode(encoder: nn.Module, images: Tensor, taps: list[int]) -> list[Tensor]:
    """Maps after the given blocks, each through the encoder's neck; blocks behind the last tap do not run.

    Images are padded with zeros (the mean colour) on the right and at the bottom to whole patches; the maps cover the
    padding too.

    Shapes:
        images: (B, 3, H, W), normalised. returns: (B, 256, ceil(H / 16), ceil(W / 16)) per tap, in rising order.
    """
    assert set(taps) <= set(range(len(encoder.blocks))), taps
    patch = encoder.patch_embed.proj.stride[0]
    height, width = images.shape[-2:]
    images = F.pad(images, (0, -width % patch, 0, -height % patch))
    tokens = encoder.patch_embed(images)  # (B, h, w, C)
    tokens = tokens + resize_pos_embed(encoder.pos_embed, tokens.shape[1:3])
    maps = []
    for index, block in enumerate(encoder.blocks[: max(taps) + 1]):
        tokens = block(tokens)
        if index in taps:
            maps.append(encoder.neck(tokens.permute(0, 3, 1, 2)))  # (B, 256, h, w)
    return maps
