"""TinyViT encoders as TriKD has them: the last block attends over the whole grid, without a position bias."""

from typing import Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._encoder import Encoder
from ._prediction import at_least_float32

TinyViTName = Literal["5m", "11m", "21m"]

# variant -> window (side in tokens of stage2, stage3, stage4) -> timm's name of the weights trained with it
IMAGENET = {
    "5m": {(7, 14, 7): "tiny_vit_5m_224.dist_in22k_ft_in1k"},
    "11m": {(7, 14, 7): "tiny_vit_11m_224.dist_in22k_ft_in1k"},
    "21m": {
        (7, 14, 7): "tiny_vit_21m_224.dist_in22k_ft_in1k",
        (12, 24, 12): "tiny_vit_21m_384.dist_in22k_ft_in1k",
        (16, 32, 16): "tiny_vit_21m_512.dist_in22k_ft_in1k",
    },
}


class TokenAttention(nn.Module):
    """Layer norm and multi-head attention among the tokens of each sequence.

        out = proj(softmax(q k^T / sqrt(d) + bias) v)

    bias: a learnt number per head and distance |dy|, |dx| on a grid of window x window tokens.

    Args:
        attention: timm's module, whose parts this one takes over. (timm's own forward keeps the gathered bias of eval
            mode, also when other weights are loaded afterwards.)
        window: side of the grid.
        biased: False leaves the bias out; its table is then frozen, and there for checkpoints alone.

    Shapes:
        tokens: (B, N, C) -> (B, N, C); with a bias N = window^2, rows first.
    """

    def __init__(self, attention: nn.Module, window: int, biased: bool):
        super().__init__()
        self.heads = attention.num_heads
        self.attention_biases = nn.Parameter(torch.zeros(self.heads, window**2), requires_grad=biased)
        self.norm, self.qkv, self.proj = attention.norm, attention.qkv, attention.proj
        side = torch.arange(window)
        distance = (side[:, None] - side).abs()  # (window, window)
        entries = distance[:, None, :, None] * window + distance[None, :, None, :]
        self.register_buffer("entries", entries.flatten() if biased else None, persistent=False)

    def parts(self, tokens: Tensor) -> list[Tensor]:
        """Queries, keys and values of each head, (B, heads, N, d) each."""
        mixed = self.qkv(self.norm(tokens)).unflatten(2, (self.heads, -1))  # (B, N, heads, 3 d)
        return list(mixed.transpose(1, 2).chunk(3, dim=-1))

    def scores(self, tokens: Tensor) -> Tensor:
        """q k^T / sqrt(d), at least float32: (B, heads, N, N), queries, then keys."""
        query, key, _ = self.parts(tokens)
        return attention_scores(query, key)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.parts(tokens)
        bias = None
        if self.entries is not None:
            # index_select: its gradient takes a sixth of the time of an indexed table's (windows of 32 on a CPU)
            bias = self.attention_biases.index_select(1, self.entries).to(query.dtype)
            bias = bias.unflatten(1, (tokens.shape[1], -1))  # (heads, N, N)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)  # (B, heads, N, d)
        return self.proj(mixed.transpose(1, 2).flatten(2))  # (B, N, C)


def attention_scores(query: Tensor, key: Tensor) -> Tensor:
    """q k^T / sqrt(d) in float32 whatever the autocast (float64 stays): bfloat16 holds hundreds in whole steps.

    Shapes:
        query, key: (B, heads, N, d) -> (B, heads, N, N).
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = at_least_float32(query), at_least_float32(key)
        return (query * query.shape[-1] ** -0.5) @ key.mT


class Block(nn.Module):
    """x = x + attention(x); x = BN(depthwise3x3(x)); x = x + MLP(x), the residual parts dropped at times.

    Windows lie on the grid zero-padded at the bottom and right to a multiple of their side. Padding precedes the layer
    norm and nothing is masked, so tokens of the padding are keys like the others.

    Args:
        block: timm's block, whose parts this one takes over.
        window: side of the windows in tokens.
        is_global: attention over the whole grid, without bias, instead of in windows.

    Shapes:
        x: (B, h, w, C) -> (B, h, w, C).
    """

    def __init__(self, block: nn.Module, window: int, is_global: bool):
        super().__init__()
        self.attn = TokenAttention(block.attn, window, biased=not is_global)
        self.drop_path1, self.local_conv = block.drop_path1, block.local_conv
        self.mlp, self.drop_path2 = block.mlp, block.drop_path2
        self.window, self.is_global = window, is_global

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attend(x))
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, C, h, w) and back
        return x + self.drop_path2(self.mlp(x))

    def attend(self, x: Tensor) -> Tensor:
        """The attention part: (B, h, w, C) -> (B, h, w, C)."""
        height, width, side = *x.shape[1:3], self.window
        if self.is_global:
            return self.attn(x.flatten(1, 2)).view(x.shape)
        if height % side or width % side:
            x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = (length // side for length in x.shape[1:3])
        x = x.unflatten(2, (columns, side)).unflatten(1, (rows, side))  # (B, rows, side, columns, side, C)
        tokens = x.transpose(2, 3).flatten(3, 4).flatten(0, 2)  # (B rows columns, side^2, C)
        x = self.attn(tokens).view(-1, rows, columns, side, side, x.shape[-1]).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]


class TinyViT(Encoder):
    """TinyViT without the classifier and its norm; state-dict keys are timm's.

    Wu et al., TinyViT: Fast Pretraining Distillation for Small Vision Transformers, ECCV 2022, arXiv 2207.10666. The
    last batch norm of each block of stage1 starts with scale 0: what lies before it gets a gradient of 0 at first.

    Args:
        variant: parameters of the classifier, in millions.
        windows: sides of the attention windows of stage2, stage3 and stage4, in tokens.
        drop_path: see models/_network.py.

    Features:
        stage1..stage4: each stage's output, at strides 4, 8, 16, 32.
        attention: scores of the last block before their softmax, (B, heads, N, N), N = h * w of stage4; its stride is
            that of the tokens.
    """

    dropped = ("head.", "norm_head.")

    def __init__(self, variant: TinyViTName, windows: tuple[int, int, int], drop_path: float):
        super().__init__()
        # windows of one token: timm takes seconds to index its tables of 32 x 32, and ours replace them
        net = timm.create_model(
            f"tiny_vit_{variant}_224", num_classes=0, window_sizes=(1, 1, 1, 1), drop_path_rate=drop_path
        )
        self.patch_embed, self.stages = net.patch_embed, net.stages
        for number, (stage, window) in enumerate(zip(self.stages[1:], windows, strict=True), start=2):
            last = len(stage.blocks) - 1 if number == 4 else None
            stage.blocks = nn.Sequential(
                *(Block(block, window, index == last) for index, block in enumerate(stage.blocks))
            )
        published = IMAGENET[variant]
        self.imagenet = published.get(windows, next(iter(published.values())))
        self.channels = {f"stage{n}": info["num_chs"] for n, info in enumerate(net.feature_info, start=1)}
        self.strides = {f"stage{n}": info["reduction"] for n, info in enumerate(net.feature_info, start=1)}
        self.channels["attention"] = self.stages[-1].blocks[-1].attn.heads
        self.strides["attention"] = self.strides["stage4"]

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        x = self.stages[0](self.patch_embed(x))
        found = {"stage1": x}
        for number, stage in enumerate(self.stages[1:], start=2):
            x = stage.downsample(x).permute(0, 2, 3, 1)  # (B, h, w, C)
            for block in stage.blocks:
                if block.is_global and "attention" in wanted:
                    found["attention"] = block.attn.scores(x.flatten(1, 2))
                x = block(x)
            x = x.permute(0, 3, 1, 2)  # (B, C, h, w)
            found[f"stage{number}"] = x
        return found

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published weights for these windows: tables of position biases of another side are resized, bicubic."""
        state = dict(state)
        for key, own in self.state_dict().items():
            if key.endswith("attention_biases") and key in state and state[key].shape[1] != own.shape[1]:
                before, after = (round(table.shape[1] ** 0.5) for table in (state[key], own))
                table = state[key].view(1, -1, before, before)  # (1, heads, side, side)
                table = F.interpolate(table, (after, after), mode="bicubic", align_corners=False)
                state[key] = table.flatten(2)[0]
        return state
