"""DeiT encoders as TriKD has them: patch tokens alone, maps of four blocks, no norm at the end."""

import math
from typing import Literal

import timm
from torch import Tensor, nn

from ._encoder import Encoder
from ._prediction import resize
from ._tinyvit import attention_scores
from ._tokens import resize_positions, to_map

DeiTName = Literal["tiny", "small", "base"]

IMAGENET = {
    "tiny": "deit_tiny_distilled_patch16_224.fb_in1k",
    "small": "deit_small_distilled_patch16_224.fb_in1k",
    "base": "deit_base_distilled_patch16_384.fb_in1k",
}
PATCH = 16  # pixels
TAPS = (2, 5, 8, 11)


class DeiT(Encoder):
    """A plain vision transformer of 12 blocks; state-dict keys are timm's.

    Touvron et al., Training data-efficient image transformers, ICML 2021, arXiv 2012.12877. The class token is dropped
    before the first block, as TriKD's code does: it stays, frozen, for checkpoints alone. Images whose sides are no
    multiples of 16 are resized to the next ones, so that the grid of patches spans all of the image.

    Args:
        variant: size.
        image_size: (height, width) in pixels that the position table is for; other grids read it resized.
        drop_path: see models/_network.py.

    Features:
        stage1..stage4: the tokens after blocks 2, 5, 8 and 11 (counted from 0) as maps, all at stride 16.
        attention: scores of the last block before their softmax, (B, heads, N, N), N = h * w; its stride is that of
            the tokens.
    """

    dropped = ("dist_token", "norm.", "head.", "head_dist.")

    def __init__(self, variant: DeiTName, image_size: tuple[int, int], drop_path: float):
        super().__init__()
        self.grid = tuple(-(-side // PATCH) for side in image_size)
        net = timm.create_model(
            f"deit_{variant}_patch16_224",
            num_classes=0,
            img_size=tuple(PATCH * side for side in self.grid),
            drop_path_rate=drop_path,
        )
        self.cls_token = net.cls_token.requires_grad_(False)
        self.pos_embed = net.pos_embed
        self.patch_embed, self.blocks = net.patch_embed, net.blocks
        self.imagenet = IMAGENET[variant]
        names = [f"stage{number}" for number in (1, 2, 3, 4)]
        self.channels = {name: net.embed_dim for name in names} | {"attention": self.blocks[-1].attn.num_heads}
        self.strides = {name: PATCH for name in (*names, "attention")}

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        grid = tuple(-(-side // PATCH) for side in x.shape[-2:])
        x = resize(x, (PATCH * grid[0], PATCH * grid[1]), align_corners=False)
        positions = resize_positions(self.pos_embed, self.grid, grid)[:, 1:]  # (1, N, C)
        tokens = self.patch_embed.proj(x).flatten(2).mT + positions  # (B, C, h, w) -> (B, N, C)
        found = {}
        for index, block in enumerate(self.blocks):
            if block is self.blocks[-1] and "attention" in wanted:
                found["attention"] = scores_of(block, tokens)
            tokens = block(tokens)
            if index in TAPS:
                found[f"stage{TAPS.index(index) + 1}"] = to_map(tokens, grid)  # (B, C, h, w)
        return found

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights for this grid: the position table of another, square one is resized bilinearly, with aligned
        corners, and the row of a distillation token in it dropped.

        Raises:
            ValueError: a table for a grid that is not square.
        """
        if "pos_embed" not in state or state["pos_embed"].shape == self.pos_embed.shape:
            return dict(state)
        rows = state["pos_embed"].shape[1]
        side = math.isqrt(rows - 1)
        if rows - side**2 not in (1, 2):
            raise ValueError(
                f"a position table of {rows} rows is for no square grid, so its shape is not known: "
                f"give the image_size it was made for"
            )
        return state | {"pos_embed": resize_positions(state["pos_embed"], (side, side), self.grid)}


def scores_of(block: nn.Module, tokens: Tensor) -> Tensor:
    """q k^T / sqrt(d) of one block, (B, heads, N, N). Queries and keys are made once more for it, by under 1 % of the
    encoder's work, and all blocks can stay with fused attention."""
    mixed = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, block.attn.num_heads, -1))  # (B, N, 3, heads, d)
    query, key, _ = mixed.permute(2, 0, 3, 1, 4)  # (B, heads, N, d) each
    return attention_scores(query, key)
